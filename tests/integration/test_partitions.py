"""The calendar of history's partitions: made ahead, filled from the default one, dropped."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from models import locks, partitions
from models.engine import driver, engine, transaction
from models.kinds import KINDS, METER, VEHICLE
from tests.factories import at, meter_reading, post_to_stream, rows, store
from workers import flush
from workers import partitions as calendar

TENTH = date(2026, 1, 10)
NOON = at(12)
NOTHING = {"created": 0, "moved": 0, "dropped": 0, "purged": 0, "packed": 0, "failed": 0}
#: A week back, today, and a week ahead; for each kind.
WANTED = 2 * 15


@pytest.fixture(autouse=True)
def _no_partitions_left(servers: dict[str, str]) -> Iterator[None]:
    yield
    with transaction() as conn:
        for kind in KINDS.values():
            for day in partitions.days(conn, kind):
                partitions.drop(conn, kind, day)


def kept(now: datetime = NOON, retention_days: int = 0, **other: int) -> bool:
    """Whether a look at the calendar did exactly this."""
    return calendar.keep(now, retention_days) == NOTHING | other


def days() -> set[date]:
    with transaction() as conn:
        return partitions.days(conn, METER)


def create(day: date = TENTH) -> int:
    with transaction() as conn:
        return partitions.create(conn, METER, day)


def homes() -> list[tuple[datetime, str]]:
    """Where the meters' readings live."""
    found = rows(
        "SELECT recorded_at, tableoid::regclass::text AS home FROM meter_telemetry_history"
        " ORDER BY recorded_at"
    )
    return [
        (row["recorded_at"], row["home"].removeprefix("meter_telemetry_history_")) for row in found
    ]


def test_row_52_a_day_without_a_partition_finds_a_home(fleet: int) -> None:
    store(fleet, [("2015-10-04T01:00:00Z", 1), (at(12), 2)])
    assert {home for _, home in homes()} == {"default"}


def test_a_days_partition_takes_over_what_the_default_one_holds(fleet: int) -> None:
    moments = [at(0, seconds=-0.000001), at(0), at(24, seconds=-0.000001), at(24)]
    store(fleet, [(moment, 1) for moment in moments])
    assert create() == 2
    expected = ["default", "p20260110", "p20260110", "default"]
    assert homes() == list(zip(moments, expected, strict=True))
    store(fleet, [(at(5), 1)])
    assert (at(5), "p20260110") in homes()


def test_a_reading_that_was_moved_is_still_a_duplicate(fleet: int) -> None:
    store(fleet, [(at(5), 1)])
    create()
    post_to_stream(METER, fleet, [meter_reading(timestamp=at(5), kwhConsumedAc=1)])
    assert flush.flush(METER, "test")["duplicate"] == 1


def test_a_partition_has_the_key_of_its_table(servers: dict[str, str]) -> None:
    create()
    (index,) = rows("SELECT indexdef FROM pg_indexes WHERE tablename LIKE '%history_p20260110'")
    assert "UNIQUE" in index["indexdef"]
    assert "(device_key, recorded_at)" in index["indexdef"]


def test_the_calendar_reaches_a_week_either_way(servers: dict[str, str]) -> None:
    assert kept(created=WANTED)
    assert days() == {TENTH + timedelta(days=n) for n in range(-7, 8)}
    assert kept()  # nothing left to do
    assert kept(NOON + timedelta(days=1), created=2)
    assert kept(NOON + timedelta(days=1))


def test_moved_readings_are_counted(fleet: int) -> None:
    store(fleet, [(at(1), 1), (at(30), 2)], [(at(1), 1)])
    assert kept(created=WANTED, moved=3)


def test_by_default_nothing_is_ever_dropped(fleet: int) -> None:
    calendar.keep(NOON, 0)
    store(fleet, [("2015-10-04T01:00:00Z", 1)])
    assert kept(NOON + timedelta(days=400), created=WANTED)
    assert len(days()) == 30
    assert len(homes()) == 1


def test_row_52_retention_drops_whole_days_and_purges_the_default_partition(fleet: int) -> None:
    calendar.keep(NOON, 0)
    store(fleet, [("2015-10-04T01:00:00Z", 1), (at(-24 * 2 - 1), 2), (at(0), 3), (at(1), 4)])
    # Older than two days before noon of the 12th: the days before the 10th.
    assert kept(at(60), 2, created=2 * 2, dropped=2 * 7, purged=1)
    assert min(days()) == TENTH
    assert [moment for moment, _ in homes()] == [at(0), at(1)]


def test_a_short_retention_makes_no_partition_it_would_drop(servers: dict[str, str]) -> None:
    assert kept(NOON, 3, created=2 * (3 + 1 + 7))
    assert kept(NOON, 3)


def test_days_with_a_lock_on_them_wait_for_the_next_look(
    fleet: int, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calendar, "DAYS_BACK", 0)
    monkeypatch.setattr(calendar, "DAYS_AHEAD", 1)
    with engine().connect() as reader, reader.begin():
        driver(reader).execute("LOCK TABLE meter_telemetry_history_default IN ROW EXCLUSIVE MODE")
        assert kept(created=2, failed=2)  # vehicles' yes, meters' no
    assert days() == set()
    assert kept(created=2)


def test_two_workers_that_start_together_make_one_calendar(
    servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calendar, "DAYS_BACK", 1)
    monkeypatch.setattr(calendar, "DAYS_AHEAD", 1)
    with ThreadPoolExecutor(3) as pool:
        reports: list[Any] = list(pool.map(calendar.keep, [NOON] * 3, [0] * 3))
    assert sum(report["created"] for report in reports) == 2 * 3
    assert kept()


def test_ingestion_goes_on_while_partitions_are_made(fleet: int) -> None:
    """Writers wait for the move and then find their row's new home."""
    store(fleet, [(at(hour), hour) for hour in range(24)])
    with ThreadPoolExecutor(2) as pool:
        making = pool.submit(calendar.keep, NOON, 0)
        for minute in range(1, 30):
            store(fleet, [(at(hour, minutes=minute), hour) for hour in range(0, 24, 6)])
        report = making.result()
    assert report["failed"] == 0
    assert len(homes()) == 24 + 29 * 4
    assert {home for _, home in homes()} == {"p20260110"}


# --- sparse indexes -------------------------------------------------------------------------------


def grown(fleet: int) -> None:
    """The tenth's partition; its index has grown by a minute of all devices at a time."""
    create()
    for minute in range(60):
        readings = [
            meter_reading(meterId=f"m{n}", timestamp=at(minutes=minute)) for n in range(300)
        ]
        post_to_stream(METER, fleet, readings)
        flush.flush(METER, "test")


def index_share() -> float:
    (found,) = rows(
        "SELECT pg_relation_size('meter_telemetry_history_p20260110_pkey')::float8"
        " / pg_relation_size('meter_telemetry_history_p20260110') AS share"
    )
    return float(found["share"])


def test_a_sparse_index_is_packed_while_readings_come(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calendar, "DAYS_BACK", -1)
    monkeypatch.setattr(calendar, "DAYS_AHEAD", 0)
    grown(fleet)
    assert index_share() > partitions.SPARSE_SHARE
    with ThreadPoolExecutor(2) as pool:
        packing = pool.submit(calendar.keep, NOON, 0)
        for minute in range(60, 65):
            store(fleet, [(at(minutes=minute), minute)])
        assert packing.result() == NOTHING | {"packed": 1}
    assert index_share() < partitions.SPARSE_SHARE
    assert len(homes()) == 60 * 300 + 5
    post_to_stream(METER, fleet, [meter_reading(meterId="m7", timestamp=at(minutes=7))])
    assert flush.flush(METER, "test")["duplicate"] == 1  # it is still the key
    assert kept()  # nothing left to do


def test_what_a_broken_off_packing_left_behind_is_cleared_away(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calendar, "DAYS_BACK", -1)
    monkeypatch.setattr(calendar, "DAYS_AHEAD", 0)
    monkeypatch.setattr(partitions, "PACK_SECONDS", 0.05)
    grown(fleet)
    with engine().connect() as reader, reader.begin():
        # An old snapshot: it waits for this one's end, and is broken off.
        driver(reader).execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        driver(reader).execute("SELECT count(*) FROM meter_telemetry_history")
        assert kept(failed=1)
    invalid = "SELECT count(*) AS n FROM pg_index WHERE NOT indisvalid"
    assert rows(invalid) == [{"n": 1}]
    monkeypatch.setattr(partitions, "PACK_SECONDS", 240)
    assert kept(packed=1)
    assert rows(invalid) == [{"n": 0}]


def test_two_workers_do_not_pack_at_once(fleet: int) -> None:
    with engine().connect() as conn, locks.held(conn, locks.PACKING) as first:
        assert first
        with engine().connect() as other, locks.held(other, locks.PACKING) as second:
            assert not second
    with engine().connect() as conn, locks.held(conn, locks.PACKING) as again:
        assert again


def test_the_task_keeps_the_calendar_of_today(servers: dict[str, str]) -> None:
    calendar.keep_partitions()
    with transaction() as conn:
        assert datetime.now(UTC).date() in partitions.days(conn, VEHICLE)


def test_names_sort_by_day() -> None:
    assert partitions.partition_name(METER, TENTH) == "meter_telemetry_history_p20260110"
