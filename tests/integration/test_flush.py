"""The flush: nothing accepted is lost, nothing is counted twice, whatever fails when."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

import settings
from models import codec, conservation, writes
from models.clock import to_us
from models.engine import driver, engine, transaction
from models.kinds import KINDS, METER, VEHICLE, Kind
from models.packed import pack, unpack
from stack import valkey
from tests.factories import (
    at,
    execute,
    flush_all,
    meter_reading,
    packed_body,
    post_to_stream,
    register,
    rows,
    vehicle_reading,
)
from tests.web.calls import encoded
from workers import flush, stream
from workers.devices import DeviceKeys
from workers.stream import StreamUnavailable

KEY = "energy:{meter}"
#: What a lost connection raises, depending on who was speaking.
AWAY = (psycopg.OperationalError, OperationalError)


def post(fleet: int, *readings: dict[str, Any]) -> None:
    post_to_stream(METER, fleet, readings)


def flush_meters(consumer: str = "test") -> dict[str, int | str]:
    return flush.flush(METER, consumer)


def history() -> list[tuple[str, datetime, float]]:
    return [
        tuple(row.values())
        for row in rows(
            "SELECT device_id, recorded_at, kwh_consumed_ac FROM meter_telemetry_history"
            " JOIN meters ON key = device_key ORDER BY 1, 2"
        )
    ]


def waiting() -> tuple[int, int]:
    """(entries in the meters' stream, entries that somebody has claimed)."""
    return stream.waiting(METER), int(stream.client().xpending(KEY, stream.GROUP)["pending"])


def dead() -> list[dict[str, Any]]:
    return rows("SELECT * FROM dead_letters ORDER BY id")


def counted(report: dict[str, int | str]) -> tuple[int | str, ...]:
    return tuple(report[name] for name in ("inserted", "duplicate", "conflict", "dead"))


# --- values ---------------------------------------------------------------------------------------


def test_a_reading_becomes_history_and_latest(fleet: int) -> None:
    accepted_us = stream.now_us()
    post_to_stream(VEHICLE, fleet, [vehicle_reading()])
    flush_all()
    (stored,) = rows("SELECT * FROM vehicle_telemetry_history")
    (latest,) = rows("SELECT * FROM vehicle_status_latest")
    assert stored == latest
    assert stored["recorded_at"] == at(12)
    assert (stored["kwh_delivered_dc"], stored["battery_temp_c"]) == (98.0, 32.5)
    assert stored["soc_pct"] == 55.5
    assert abs(to_us(stored["received_at"]) - accepted_us) < 1_000_000


doubles = [0.1 + 0.2, 123_456.789, 1e-300, 5e-324, 1e12, 0.0, -0.0, 1 / 3]


def test_registers_are_stored_to_the_last_bit(fleet: int) -> None:
    post(fleet, *(meter_reading(timestamp=at(i), kwhConsumedAc=v) for i, v in enumerate(doubles)))
    assert counted(flush_meters()) == (len(doubles), 0, 0, 0)
    assert [kwh for _, _, kwh in history()] == doubles


@pytest.mark.parametrize(
    ("soc", "stored"),
    [(33.3, 33.3), (12.34567, 12.34567), (99.999999, 100.0), (1e-50, 0.0), (0.1 + 0.2, 0.3)],
)
def test_a_state_of_charge_keeps_seven_digits(fleet: int, soc: float, stored: float) -> None:
    for _ in range(2):  # by either way into history
        post_to_stream(VEHICLE, fleet, [vehicle_reading(soc=soc)])
        flush_all()
    assert rows("SELECT soc_pct FROM vehicle_telemetry_history") == [{"soc_pct": stored}]
    assert rows("SELECT soc_pct FROM vehicle_status_latest") == [{"soc_pct": stored}]
    assert rows("SELECT * FROM reading_conflicts") == dead() == []


#: Anything the decoder accepts, in bodies as they come from outside.
lawful_bodies = st.lists(
    st.fixed_dictionaries(
        {
            "vehicleId": st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True),
            "timestamp": st.datetimes(
                min_value=datetime(1, 1, 2),  # noqa: DTZ001
                max_value=datetime(9999, 12, 30),  # noqa: DTZ001
                timezones=st.just(UTC) | st.timezones(),
            ).map(lambda instant: instant.isoformat()),
            "soc": st.floats(0, 100) | st.integers(0, 100),
            "kwhDeliveredDc": st.floats(0, 1e12),
            "batteryTemp": st.floats(-60, 120),
        }
    ),
    min_size=1,
    max_size=20,
)


def test_what_the_decoder_accepts_is_stored(fleet: int) -> None:
    @hypothesis_settings(max_examples=25)
    @given(lawful_bodies)
    def stored(readings: list[dict[str, Any]]) -> None:
        body = json.dumps(readings).encode()
        try:
            codec.decoder(VEHICLE).decode(body)
        except codec.DECODE_ERRORS:
            return  # an offset with seconds, as Amsterdam's once was
        stream.append(VEHICLE, fleet, len(readings), body)
        report = flush.flush(VEHICLE, "test")
        assert (report["readings"], report["dead"]) == (len(readings), 0)

    stored()


#: Rows as history may be given them: few devices and instants, so that some meet.
some_rows = st.lists(
    st.builds(
        codec.Row,
        st.integers(1, 3),
        st.sampled_from([0, -1, 1, to_us(at(12)), to_us(at(12)) + 1, to_us(at(13, minutes=1))]),
        st.integers(0, 2),
        st.tuples(st.floats(0, 100), st.sampled_from([0.0, -0.0, 5e-324, 0.1, 1e12]), st.just(0.1)),
    ),
    max_size=12,
)


def stored_by(rows_: list[codec.Row], twice: bool) -> list[Any]:
    """What the tables hold after it, and what was told; then nothing of it was."""
    with engine().connect() as conn:
        told = [writes.store(conn, VEHICLE, rows_) for _ in range(1 + twice)]
        run = driver(conn).execute
        history = run("SELECT * FROM vehicle_telemetry_history ORDER BY device_key, recorded_at")
        latest = run("SELECT * FROM vehicle_status_latest ORDER BY device_key")
        hours = run("SELECT DISTINCT device_key, hour FROM vehicle_hours_dirty ORDER BY 1, 2")
        kept = run("SELECT device_key, recorded_at, refused FROM reading_conflicts")
        # Spelled out: -0.0 is another value than 0.0.
        return [told[0], *(sorted(map(repr, table)) for table in (history, latest, hours, kept))]


def test_by_either_way_into_history_the_same_is_stored(
    servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """COPY, and the INSERT that is taken when a reading is there already."""

    @hypothesis_settings(max_examples=40)
    @given(some_rows)
    def same(rows_: list[codec.Row]) -> None:
        copied = stored_by(rows_, twice=False)
        assert stored_by(rows_, twice=True) == copied
        with monkeypatch.context() as refusing:
            refusing.setattr(writes, "_copy", raising(psycopg.errors.UniqueViolation))
            assert stored_by(rows_, twice=False) == copied
        first: dict[tuple[int, int], codec.Row] = {}
        for row in rows_:
            first.setdefault((row.device_key, row.recorded_us), row)
        assert len(copied[1]) == copied[0].inserted == len(first)
        assert len(copied[2]) == len({row.device_key for row in rows_})

    same()


def test_a_batch_waits_by_columns_and_is_stored_like_any_other(fleet: int) -> None:
    shown = [123_456.789 + n / 3 for n in range(500)]
    post(fleet, *(meter_reading(meterId=f"m{n:03}", kwhConsumedAc=v) for n, v in enumerate(shown)))
    post(fleet, meter_reading(meterId="m000", kwhConsumedAc=shown[0]), meter_reading(meterId="n"))
    post(fleet, *(meter_reading(meterId=f"m{n:03}", kwhConsumedAc=1) for n in range(499, 600)))
    first, small, second = stream.client().xrange(KEY)
    assert [entry[1][b"v"] for entry in (first, small, second)] == [b"3", b"1", b"3"]
    # One came twice, and one with another value: the first of them counts, whatever its form.
    assert counted(flush_meters()) == (500 + 1 + 100, 1, 1, 0)
    assert [kwh for device, _, kwh in history() if device < "m500"] == shown
    assert [row["refused"]["kwhConsumedAc"] for row in rows("SELECT * FROM reading_conflicts")] == [
        1
    ]


def test_what_no_calendar_has_is_buried_out_of_its_columns(fleet: int) -> None:
    batch = unpack(
        METER, packed_body(METER, encoded([meter_reading(meterId=f"m{n}") for n in range(40)]))
    )
    instants = batch.recorded_us.copy()
    instants[7] = 2**62
    stream.append(METER, fleet, 40, pack(replace(batch, recorded_us=instants)))
    assert counted(flush_meters()) == (39, 0, 0, 1)
    (letter,) = dead()
    assert (letter["position"], json.loads(letter["raw"])["meterId"]) == (7, "m7")


# --- twice ----------------------------------------------------------------------------------------


def test_storing_again_changes_nothing(fleet: int) -> None:
    readings = [meter_reading(timestamp=at(hour), kwhConsumedAc=hour) for hour in range(5)]
    post(fleet, *readings)
    assert counted(flush_meters()) == (5, 0, 0, 0)
    first = history()
    post(fleet, *readings)
    post(fleet, *reversed(readings))
    assert counted(flush_meters()) == (0, 10, 0, 0)
    assert history() == first


def test_a_repeated_reading_among_new_ones_is_a_duplicate(fleet: int) -> None:
    post(fleet, meter_reading(timestamp=at(1)))
    flush_meters()
    post(fleet, *(meter_reading(timestamp=at(hour)) for hour in (0, 1, 2, 2)))
    assert counted(flush_meters()) == (2, 2, 0, 0)


def test_two_spellings_of_an_instant_are_one_reading(fleet: int) -> None:
    post(fleet, meter_reading(timestamp="2026-01-10T12:00:00Z"))
    post(fleet, meter_reading(timestamp="2026-01-10T13:00:00+01:00"))
    post(fleet, meter_reading(timestamp="2026-01-10T06:30:00.000-05:30"))
    assert counted(flush_meters()) == (1, 2, 0, 0)


def test_the_same_id_in_another_fleet_is_another_meter(fleet: int, other_fleet: int) -> None:
    post(fleet, meter_reading(kwhConsumedAc=1))
    post(other_fleet, meter_reading(kwhConsumedAc=2))
    assert counted(flush_meters()) == (2, 0, 0, 0)
    owners = rows("SELECT fleet_id, device_id FROM meters ORDER BY 1")
    assert owners == [
        {"fleet_id": fleet, "device_id": "meter-001"},
        {"fleet_id": other_fleet, "device_id": "meter-001"},
    ]


def refused() -> list[float]:
    found = rows("SELECT refused FROM reading_conflicts")
    return sorted(row["refused"]["kwhConsumedAc"] for row in found)


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one by one"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((5, 6), (1, 0, 1, 0)),
        ((5, 6, 6), (1, 0, 2, 0)),  # the conflict came again: counted twice, kept once
        ((5, 6, 5), (1, 1, 1, 0)),
        ((5, 6, 7), (1, 0, 2, 0)),
    ],
)
def test_row_25_the_first_value_wins_and_others_are_kept_aside(
    fleet: int, values: tuple[int, ...], expected: tuple[int, ...], together: bool
) -> None:
    reports = []
    for value in values:
        post(fleet, meter_reading(kwhConsumedAc=value))
        if not together:
            reports.append(counted(flush_meters()))
    reports.append(counted(flush_meters()))
    assert tuple(map(sum, zip(*reports, strict=True))) == expected
    assert [kwh for _, _, kwh in history()] == [5]
    assert refused() == sorted({*values} - {5})
    assert rows("SELECT kwh_consumed_ac FROM meter_status_latest") == [{"kwh_consumed_ac": 5}]


def test_a_value_already_stored_is_no_conflict_behind_one_that_is(fleet: int) -> None:
    post(fleet, meter_reading(kwhConsumedAc=5))
    flush_meters()
    post(fleet, meter_reading(kwhConsumedAc=6), meter_reading(kwhConsumedAc=5))
    assert counted(flush_meters()) == (0, 1, 1, 0)
    assert refused() == [6]


def test_a_conflict_tells_what_was_refused_and_when(fleet: int) -> None:
    post(fleet, meter_reading(), meter_reading(kwhConsumedAc=999.0))
    flush_meters()
    (conflict,) = rows("SELECT * FROM reading_conflicts")
    assert (conflict["kind"], conflict["recorded_at"]) == ("meter", at(12))
    assert conflict["refused"] == {"kwhConsumedAc": 999.0, "voltage": 230.1}
    assert conflict["received_at"] is not None


# --- latest and dirty hours -----------------------------------------------------------------------


def test_a_late_reading_does_not_move_latest_back(fleet: int) -> None:  # S39
    for minute in (5, 3, 4):
        post(fleet, meter_reading(timestamp=at(10, minutes=minute), kwhConsumedAc=minute))
        flush_meters()
    assert rows("SELECT recorded_at, kwh_consumed_ac FROM meter_status_latest") == [
        {"recorded_at": at(10, minutes=5), "kwh_consumed_ac": 5}
    ]
    assert len(history()) == 3


def test_latest_is_the_newest_of_a_batch_in_any_order(fleet: int) -> None:
    minutes = (3, 5, 4)
    post(fleet, *register(METER, [(at(10, minutes=m), m) for m in minutes]))
    flush_meters()
    assert rows("SELECT kwh_consumed_ac FROM meter_status_latest") == [{"kwh_consumed_ac": 5}]


def test_every_touched_hour_is_marked_once_per_flush(fleet: int) -> None:
    times = [at(9, minutes=59), at(10), at(10, minutes=30), at(-1, minutes=30)]
    post(fleet, *(meter_reading(timestamp=t) for t in times))
    flush_meters()
    marked = [row["hour"] for row in rows("SELECT hour FROM meter_hours_dirty ORDER BY hour")]
    assert marked == [at(-1), at(9), at(10)]
    post(fleet, meter_reading(timestamp=at(10)))  # nothing new, nothing to recompute
    flush_meters()
    assert len(rows("SELECT * FROM meter_hours_dirty")) == 3


def test_an_instant_before_1970_belongs_to_the_hour_before(fleet: int) -> None:
    post(fleet, meter_reading(timestamp="1969-12-31T23:59:59.999999Z"))
    flush_meters()
    (mark,) = rows("SELECT hour FROM meter_hours_dirty")
    assert mark["hour"] == datetime(1969, 12, 31, 23, tzinfo=UTC)


# --- poison ---------------------------------------------------------------------------------------

GOOD = json.dumps(
    [{"meterId": "good", "timestamp": "2026-01-10T12:00:00Z", "kwhConsumedAc": 1, "voltage": 230}]
)


@pytest.mark.parametrize(
    "fields",
    [
        {"b": b"\x00\xff garbage", "v": 1, "f": 1},
        {"b": b"", "v": 1, "f": 1},
        {"b": b"{}", "v": 1, "f": 1},
        {"b": b"[" * 100_000, "v": 1, "f": 1},
        {"b": b'[{"meterId":"m","\\u0000":1}]', "v": 1, "f": 1},
        {"b": b'[{"meterId":"m\\u0000"}]', "v": 1, "f": 1},
        {"b": GOOD, "v": 2, "f": 1},
        {"b": GOOD, "f": 1},
        {"b": GOOD, "v": 1},
        {"v": 1, "f": 1},
        {"something": "else"},
        {"b": GOOD, "v": 1, "f": 999},  # no such fleet
        {"b": GOOD.replace("2026-01-10T12:00:00Z", "0001-01-01T00:00:00+14:00"), "v": 1, "f": 1},
        {"b": GOOD.replace("2026-01-10T12:00:00Z", "9999-12-31T23:59:59-14:00"), "v": 1, "f": 1},
    ],
)
def test_row_43_a_poisoned_entry_is_buried_and_its_neighbours_are_stored(
    fleet: int, fields: dict[str, Any]
) -> None:
    post(fleet, meter_reading(timestamp=at(1)))
    stream.client().xadd(KEY, fields)
    post(fleet, meter_reading(timestamp=at(2)))
    assert counted(flush_meters()) == (2, 0, 0, 1)
    assert [t for _, t, _ in history()] == [at(1), at(2)]
    assert waiting() == (0, 0)
    (letter,) = dead()
    assert letter["kind"] == "meter"
    assert letter["raw"] or fields.get("b") == b""
    assert letter["reason"] in {"UNREADABLE", "UNKNOWN_FLEET", "UNSTORABLE"}
    assert letter["detail"]


def test_one_bad_reading_in_a_request_is_buried_alone(fleet: int) -> None:
    readings = [meter_reading(timestamp=at(hour)) for hour in range(10)]
    readings[4] |= {"voltage": "high"}
    post(fleet, *readings)
    assert counted(flush_meters()) == (9, 0, 0, 1)
    (letter,) = dead()
    assert (letter["position"], letter["fleet_id"], letter["reason"]) == (4, fleet, "UNREADABLE")
    assert json.loads(letter["raw"])["voltage"] == "high"


def test_dead_letters_of_two_streams_do_not_shadow_each_other(fleet: int) -> None:
    """Both streams count their entries by the same milliseconds."""
    for kind in KINDS.values():
        stream.client().xadd(f"energy:{{{kind.name}}}", {"b": "garbage"}, id="1768003200000-0")
    flush_all()
    assert {letter["kind"] for letter in dead()} == {"meter", "vehicle"}


def test_burying_again_changes_nothing(fleet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream.client().xadd(KEY, {"b": "garbage"})
    with monkeypatch.context() as crash:
        crash.setattr(stream, "remove", raising(redis.ConnectionError))
        with pytest.raises(redis.ConnectionError):
            flush_meters()
    flush_meters()
    assert len(dead()) == 1
    assert waiting() == (0, 0)


@contextmanager
def forbidden_values() -> Iterator[None]:
    """History refuses 666 kWh: the door let pass what the database cannot hold."""
    execute(
        "ALTER TABLE meter_telemetry_history"
        " ADD CONSTRAINT forbidden CHECK (kwh_consumed_ac <> 666)"
    )
    try:
        yield
    finally:
        execute("ALTER TABLE meter_telemetry_history DROP CONSTRAINT forbidden")


@pytest.mark.parametrize("bad", [(0,), (17,), (99,), (3, 4, 71), tuple(range(100))])
def test_readings_that_cannot_be_stored_are_found_and_buried(
    fleet: int, bad: tuple[int, ...]
) -> None:
    post(
        fleet,
        *(
            meter_reading(timestamp=at(minutes=n), kwhConsumedAc=666 if n in bad else n)
            for n in range(100)
        ),
    )
    with forbidden_values():
        report = flush_meters()
    assert counted(report) == (100 - len(bad), 0, 0, len(bad))
    assert [kwh for _, _, kwh in history()] == [n for n in range(100) if n not in bad]
    letters = dead()
    assert [letter["position"] for letter in letters] == list(bad)
    assert {letter["reason"] for letter in letters} == {"UNSTORABLE"}
    assert "forbidden" in letters[0]["detail"]
    assert waiting() == (0, 0)


# --- what is not the data's fault -----------------------------------------------------------------


def raising(error: type[Exception]) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error("failed on purpose")

    return fail


def untouched(fleet: int) -> bool:
    """Nothing stored, nothing buried, nothing acknowledged."""
    return history() == dead() == [] and waiting()[0] == 2


@pytest.fixture
def two_entries(fleet: int) -> int:
    post(fleet, meter_reading(timestamp=at(1)))
    post(fleet, meter_reading(timestamp=at(2)))
    return fleet


def test_row_21_a_missing_table_buries_nothing_and_is_recovered_from(two_entries: int) -> None:
    execute("ALTER TABLE meter_status_latest RENAME TO mislaid")
    try:
        with pytest.raises(psycopg.errors.UndefinedTable):
            flush_meters()
        assert untouched(two_entries)
    finally:
        execute("ALTER TABLE mislaid RENAME TO meter_status_latest")
    assert counted(flush_meters()) == (2, 0, 0, 0)
    assert waiting() == (0, 0)


@pytest.mark.parametrize(
    ("there", "back"),
    [
        ("ADD COLUMN phase integer NOT NULL", "DROP COLUMN phase"),
        ("ALTER COLUMN voltage_v TYPE real", "ALTER COLUMN voltage_v TYPE double precision"),
        ("ALTER COLUMN voltage_v TYPE numeric", "ALTER COLUMN voltage_v TYPE double precision"),
    ],
)
def test_a_table_of_another_release_buries_nothing(two_entries: int, there: str, back: str) -> None:
    execute(f"ALTER TABLE meter_telemetry_history {there}")
    try:
        with pytest.raises(psycopg.Error):
            flush_meters()
        assert untouched(two_entries)
    finally:
        execute(f"ALTER TABLE meter_telemetry_history {back}")
    assert counted(flush_meters()) == (2, 0, 0, 0)


def test_row_19_a_lock_that_does_not_come_buries_nothing(two_entries: int, impatient: None) -> None:
    with engine().connect() as other, other.begin():
        driver(other).execute("LOCK TABLE meter_status_latest IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            flush_meters()
    assert untouched(two_entries)
    assert counted(flush_meters()) == (2, 0, 0, 0)


def test_a_connection_that_breaks_midway_buries_nothing(
    two_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(conn: Any, *_: Any) -> None:
        pid = driver(conn).info.backend_pid
        execute("SELECT pg_terminate_backend(:pid, 5000)", pid=pid)
        driver(conn).execute("SELECT 1")

    with monkeypatch.context() as broken:
        broken.setattr(writes, "_mark_dirty", cut_off)
        with pytest.raises(AWAY):
            flush_meters()
    assert untouched(two_entries)
    assert counted(flush_meters()) == (2, 0, 0, 0)


def test_a_full_stream_is_drained_and_accepts_again(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis refuses every command that may need memory; the flush must get by without them."""
    blanks = bytes(b" \t\r\n"[n % 4] for n in secrets.token_bytes(50_000))  # hardly compressed
    padded = b"[" + blanks + json.dumps(json.loads(GOOD)).encode()[1:]
    with valkey.temporary() as url:
        monkeypatch.setenv("STREAM_URL", url)
        settings.load.cache_clear()
        stream.ensure_group(METER)  # the flush has run before
        empty = int(stream.client().info("memory")["used_memory"])
        for _ in range(100):
            stream.append(METER, fleet, 1, padded)
        stream.client().config_set("maxmemory", empty + 1_000_000)
        with pytest.raises(StreamUnavailable):
            stream.append(METER, fleet, 1, padded)
        assert counted(flush_meters()) == (1, 99, 0, 0)
        assert waiting() == (0, 0)
        stream.append(METER, fleet, 1, padded)
        stream.client().connection_pool.disconnect()


# --- death ----------------------------------------------------------------------------------------


def test_a_death_before_the_commit_costs_a_repetition(
    two_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as crash:
        crash.setattr(conservation, "settle", raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            flush_meters()
    assert untouched(two_entries)
    assert waiting() == (2, 2)
    assert counted(flush_meters()) == (2, 0, 0, 0)


def test_a_death_after_the_commit_costs_a_repetition(
    two_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as crash:
        crash.setattr(stream, "remove", raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            flush_meters()
    assert len(history()) == 2
    assert waiting() == (2, 2)
    assert counted(flush_meters()) == (0, 2, 0, 0)
    assert waiting() == (0, 0)


def test_a_death_between_xdel_and_xack_leaves_nothing_behind(two_entries: int) -> None:
    stream.ensure_group(METER)
    entries = stream.claim(METER, "test", 10)
    stream.client().xdel(KEY, *(entry.id for entry in entries))  # after their commit
    post(two_entries, meter_reading(timestamp=at(3)))
    assert counted(flush_meters()) == (1, 0, 0, 0)
    assert waiting() == (0, 0)


def test_the_entries_of_a_dead_consumer_are_stored_by_another(
    two_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.ensure_group(METER)
    stream.claim(METER, "dead", 10)
    assert counted(flush_meters("alive")) == (0, 0, 0, 0)  # perhaps it is only slow
    monkeypatch.setattr(stream, "CLAIM_IDLE_MS", 0)
    assert counted(flush_meters("alive")) == (2, 0, 0, 0)
    assert waiting() == (0, 0)


# --- many at once ---------------------------------------------------------------------------------


class KeysOfThreads:
    """Each thread with a memory of its own, as processes have."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self._local, "keys"):
            self._local.keys = DeviceKeys()
        return getattr(self._local.keys, name)


def test_eight_flushes_at_once_store_every_reading_once(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All meet the same new devices first, and every reading is sent three times."""
    monkeypatch.setattr(flush, "_device_keys", KeysOfThreads())
    monkeypatch.setattr(flush, "MAX_ENTRIES", 1)
    for minute in range(30):
        readings = [
            meter_reading(meterId=f"meter-{n:03}", timestamp=at(minutes=minute), kwhConsumedAc=n)
            for n in range(40)
        ]
        post(fleet, *readings)
        post(fleet, *reversed(readings))
        post(fleet, *readings[20:], *readings[:20])
    with ThreadPoolExecutor(8) as pool:
        reports = list(pool.map(flush_meters, map(str, range(8))))
    inserted, duplicates, conflicts, died = map(sum, zip(*map(counted, reports), strict=True))
    assert (inserted, duplicates, conflicts, died) == (30 * 40, 2 * 30 * 40, 0, 0)
    assert len(history()) == 30 * 40
    assert len(rows("SELECT * FROM meters")) == 40
    assert waiting() == (0, 0)
    latest = rows("SELECT DISTINCT recorded_at FROM meter_status_latest")
    assert latest == [{"recorded_at": at(minutes=29)}]


def test_one_flush_works_off_many_entries_in_few_transactions(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush, "BATCH_READINGS", 25)
    for minute in range(12):
        post(
            fleet,
            *(meter_reading(meterId=f"m{n}", timestamp=at(minutes=minute)) for n in range(10)),
        )
    report = flush_meters()
    assert (report["readings"], report["transactions"]) == (120, 4)


def test_a_flush_that_runs_out_of_time_rings_for_a_successor(
    two_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[Kind] = []
    monkeypatch.setattr(flush.doorbell, "ring", rung.append)
    monkeypatch.setattr(flush, "TASK_SECONDS", -1.0)
    monkeypatch.setattr(flush, "MAX_ENTRIES", 1)
    assert counted(flush_meters()) == (1, 0, 0, 0)
    assert rung == [METER]
    assert waiting() == (1, 0)


def test_a_flush_silences_the_bell_before_it_reads(fleet: int) -> None:
    post(fleet, meter_reading())
    flush_meters()
    assert stream.append(METER, fleet, 1, b"[]") is True


def test_who_comes_while_a_flush_works_needs_not_ring(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker at a time for a kind: the one that works sees it before it ends."""
    rung: list[bool] = []
    store = writes.store

    def meanwhile(*args: Any) -> writes.Stored:
        if len(rung) < 3:
            body = json.dumps([meter_reading(timestamp=at(2 + len(rung)).isoformat())]).encode()
            rung.append(stream.append(METER, fleet, 1, body))
        return store(*args)

    assert stream.append(METER, fleet, 1, json.dumps(json.loads(GOOD)).encode()) is True
    monkeypatch.setattr(writes, "store", meanwhile)
    report = flush_meters()
    assert (report["inserted"], report["transactions"]) == (4, 4)
    assert rung[0] is False
    assert waiting() == (0, 0)


def test_requests_that_come_close_together_are_gathered(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def more_come(seconds: float) -> None:
        waits.append(seconds)
        for second in range(7 if len(waits) == 1 else 0):
            post(fleet, meter_reading(timestamp=at(1, seconds=second)))

    monkeypatch.setattr(flush.time, "sleep", more_come)
    for second in range(3):
        post(fleet, meter_reading(timestamp=at(seconds=second)))
    report = flush_meters()
    assert (report["readings"], report["transactions"]) == (10, 2)
    assert waits == [3 * flush.GATHER_SECONDS_EACH, flush.GATHER_SECONDS]


def test_a_flush_that_goes_on_holds_the_bell(fleet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one would ring every two seconds for a second worker, in the place of the other kind's."""
    left_ms: list[int] = []

    def time_passes(_: float) -> None:
        stream.client().pexpire(f"{KEY}:bell", 100)

    claim = stream.claim

    def noted(*args: Any) -> list[stream.Entry]:
        left_ms.append(int(stream.client().pttl(f"{KEY}:bell")))
        return claim(*args)

    monkeypatch.setattr(flush.time, "sleep", time_passes)
    monkeypatch.setattr(stream, "claim", noted)
    for second in range(3):
        post(fleet, meter_reading(timestamp=at(seconds=second)))
    flush_meters()
    first, gathered, silenced = left_ms
    assert 1_000 < first <= stream.BELL_MS
    assert 1_000 < gathered <= stream.BELL_MS
    assert silenced < 0


def test_a_request_alone_and_a_large_one_are_not_waited_for(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush, "GATHER_READINGS", 20)
    waits: list[float] = []
    monkeypatch.setattr(flush.time, "sleep", waits.append)
    post(fleet, meter_reading())
    flush_meters()
    for hour in (1, 2):
        post(fleet, *(meter_reading(timestamp=at(hour, minutes=m)) for m in range(10)))
    flush_meters()
    assert waits == [0.0]


def test_a_backlog_is_worked_off_without_a_pause(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush, "MAX_ENTRIES", 2)
    waits: list[float] = []
    monkeypatch.setattr(flush.time, "sleep", waits.append)
    for second in range(6):
        post(fleet, meter_reading(timestamp=at(seconds=second)))
    assert flush_meters()["transactions"] == 3
    assert waits == []


def test_a_claim_is_bounded_in_readings(fleet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the size of the entries met last: a flush holds no more of them than it can use."""
    monkeypatch.setattr(flush, "_readings_per_entry", {})
    monkeypatch.setattr(flush, "CLAIM_READINGS", 40)
    monkeypatch.setattr(flush, "FIRST_ENTRIES", 2)
    for hour in range(11):
        post(fleet, *(meter_reading(timestamp=at(hour, minutes=m)) for m in range(10)))
    asked: list[int] = []
    claim = stream.claim

    def noted(kind: Kind, consumer: str, count: int) -> list[stream.Entry]:
        asked.append(count)
        return claim(kind, consumer, count)

    monkeypatch.setattr(stream, "claim", noted)
    assert counted(flush_meters()) == (110, 0, 0, 0)
    assert asked[:4] == [2, 4, 4, 4]


def test_nothing_waiting_is_nothing_done(servers: dict[str, str]) -> None:
    assert counted(flush_meters()) == (0, 0, 0, 0)


def test_storing_in_a_transaction_that_is_rolled_back_leaves_nothing(fleet: int) -> None:
    with transaction() as conn:
        keys = writes.resolve_devices(conn, METER, {(fleet, "m")})
        writes.store(conn, METER, [codec.Row(keys[fleet, "m"], 0, 0, (1.0, 2.0))])
        conn.rollback()
    assert history() == []
    assert rows("SELECT * FROM meters") == rows("SELECT * FROM meter_hours_dirty") == []
