"""The heart: a window read through hourly rows says what all its samples say.

`workers.register.piece_of` over every judged sample is the slow, obvious way; `models.windows`, on
hours that `workers.hourly` keeps, is the fast one. Registers, their troubles, gaps and windows
are random, and so is the order in which samples come in; all ways must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import count, groupby
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, insert, select

from models import Fleet, hours, partitions, ratings, rollups, windows, writes
from models.clock import HOUR_US, from_us, to_us
from models.codec import Row
from models.engine import transaction
from models.hours import Segment
from models.kinds import KINDS, METER, VEHICLE, Kind
from models.ratings import Rating
from tests.factories import MIDNIGHT, at, execute, make_fleet, rows
from workers import hourly
from workers.energy import Piece, Sample, Span
from workers.register import Point, piece_of, walk
from workers.timeline import Timeline

DAYS = [date(2026, 1, day) for day in (9, 10, 11)]
START_US = to_us(MIDNIGHT)

_names = count(1)  # every example has devices of its own


@pytest.fixture
def daily(servers: dict[str, str]) -> Iterator[None]:
    """Partitions for three days; what lies before and after is in the default one."""
    with transaction() as conn:
        for kind in KINDS.values():
            for day in DAYS:
                partitions.create(conn, kind, day)
    yield
    with transaction() as conn:
        for kind in KINDS.values():
            for day in DAYS:
                partitions.drop(conn, kind, day)


# --- random registers -----------------------------------------------------------------------------

#: Instants over four days: anywhere, and often exactly on an hour.
instants = st.one_of(
    st.integers(-30, 70).map(lambda hour: START_US + hour * HOUR_US),
    st.integers(-30 * 3600, 70 * 3600).map(lambda second: START_US + second * 1_000_000),
    st.integers(0, 3 * HOUR_US).map(lambda micro: START_US + micro),
)
#: What a register does next, in hundredths of a kWh: it rests, rises, or is in trouble.
moves = st.one_of(
    st.tuples(st.just("rise"), st.one_of(st.just(0), st.integers(0, 2000))),
    st.tuples(st.just("fall"), st.integers(1, 150)),
    st.tuples(st.just("show"), st.integers(0, 500)),
    st.tuples(st.just("show"), st.integers(50_000, 1_000_000)),
    st.tuples(st.just("back"), st.integers(-20, 50)),
)
#: What was set for a device: a plausible charger, registers that end, nothing at all.
settings_of = st.fixed_dictionaries(
    {
        "max_power_kw": st.sampled_from([None, 0.5, 22.0]),
        "resolution_kwh": st.sampled_from([None, 0.1]),
        "rollover_kwh": st.sampled_from([None, 100.0, 10_000.0]),
        "dip_tolerance_kwh": st.sampled_from([None, 0.0, 0.5]),
    }
)


@st.composite
def registers_of(draw: st.DrawFn) -> list[Sample]:
    """Registers of up to 30 samples; "back" is about the value before the last one."""
    when = sorted(draw(st.sets(instants, min_size=1, max_size=30)))
    shown, made = [9_000], []
    for micros in when:
        move, size = draw(moves)
        value = {
            "rise": shown[-1] + size,
            "fall": shown[-1] - size,
            "show": size,
            "back": shown[-2:][0] + size,
        }[move]
        shown.append(max(0, value))
        made.append(Sample(micros, shown[-1] / 100))
    return made


Windows = list[tuple[int, int]]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Sample], Windows]:
    """A register and windows over it, whose ends are often a sample's instant or an hour."""
    register = draw(registers_of())
    ends = st.one_of(instants, st.sampled_from([s.at_us for s in register]))
    pairs = draw(st.lists(st.tuples(ends, ends), min_size=1, max_size=4))
    return register, [(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]]


def hour_of(sample: Sample) -> datetime:
    return from_us(sample.at_us // HOUR_US * HOUR_US)


def arrive(conn: Connection, kind: Kind, key: int, samples: list[Sample]) -> None:
    """Store samples, as the flush would; those that are there already stay."""
    values_of = (lambda kwh: (kwh, 230.0)) if kind is METER else (lambda kwh: (50.0, kwh, kwh % 40))
    writes.store(conn, kind, [Row(key, s.at_us, s.at_us, values_of(s.kwh)) for s in samples])


def refresh(conn: Connection, kind: Kind, key: int, samples: list[Sample]) -> None:
    """Work off the marks that these samples left."""
    hourly.refresh(conn, kind, sorted({(key, hour_of(sample)) for sample in samples}))


def make_device(conn: Connection, kind: Kind, set_to: Mapping[str, float | None]) -> int:
    """A device's key."""
    fleet = conn.execute(insert(Fleet).values(name=f"Depot {next(_names)}").returning(Fleet.id))
    row = {"fleet_id": fleet.scalar_one(), "device_id": "device", **set_to}
    return conn.execute(insert(kind.devices).values(row).returning(kind.devices.c.key)).scalar_one()


def read(conn: Connection, kind: Kind, wanted: list[Segment]) -> list[Timeline]:
    """What performance.py makes of each segment."""
    return [
        Timeline(segment.device_key, Span(to_us(segment.from_at), to_us(segment.to_at)), seen)
        for segment, seen in zip(wanted, windows.read(conn, kind, wanted), strict=True)
    ]


def kept(conn: Connection, kind: Kind, key: int) -> dict[str, list[dict[str, Any]]]:
    """The device's hours and events as they stand."""
    found = {}
    for table in (kind.hourly, kind.events):
        columns = [column for column in table.columns if column.name != "device_key"]
        query = select(*columns).where(table.c.device_key == key).order_by(columns[0])
        found[table.name] = [dict(row) for row in conn.execute(query).mappings()]
    return found


def points_of(register: list[Sample], rating: Rating) -> list[Point]:
    return [point for _, point in walk(None, register, rating)]


def near(piece: Piece) -> Piece:
    """The piece with energies that need agree to a rounding error only."""
    kwh = ("energy_kwh", "entry_kwh", "exit_kwh")
    about = {name: pytest.approx(getattr(piece, name), abs=1e-9) for name in kwh}
    return replace(piece, **about)


def without_settings(piece: Piece) -> Piece:
    return replace(piece, spacing_us=None, set_gap_us=None, resolution_kwh=0.01)


def usual_spacing(inside: list[Sample]) -> float | None:
    """µs between samples within an hour; over the whole window when no hour has two."""
    hours = [list(group) for _, group in groupby(inside, key=lambda s: s.at_us // HOUR_US)]
    pairs = len(inside) - len(hours)
    if pairs:
        return sum(hour[-1].at_us - hour[0].at_us for hour in hours) / pairs
    return (inside[-1].at_us - inside[0].at_us) / (len(inside) - 1) if inside[1:] else None


FALLS_AT_THE_SEAM = (
    [
        Sample(START_US + half * HOUR_US // 2, kwh)
        for half, kwh in ((0, 9.0), (2, 2.0), (3, 3.0), (4, 1.0))
    ],
    [(START_US, START_US + 2 * HOUR_US), (START_US + HOUR_US // 2, START_US + 3 * HOUR_US // 2)],
)


@pytest.mark.usefixtures("daily")
@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_a_window_read_by_hours_is_the_piece_over_all_samples(kind: Kind) -> None:
    @hypothesis_settings(max_examples=150)
    @given(cases(), settings_of)
    @example(FALLS_AT_THE_SEAM, {})
    def agree(case: tuple[list[Sample], Windows], set_to: dict[str, float | None]) -> None:
        register, spans = case
        with transaction() as conn:
            key = make_device(conn, kind, set_to)
            arrive(conn, kind, key, register)
            refresh(conn, kind, key, register)
            rating = ratings.read(conn, kind, {key})[key]
            wanted = [Segment(key, from_us(a), from_us(b)) for a, b in spans]
            found_all = read(conn, kind, wanted)
            hours = kept(conn, kind, key)[kind.hourly.name]
            conn.rollback()
        points = points_of(register, rating)
        shown = [point.sample for point in points if not point.dropped]
        assert {row["hour"] for row in hours} == {hour_of(sample) for sample in shown}
        assert not any(row["rough"] for row in hours)
        for span, found in zip(spans, found_all, strict=True):
            expected = near(without_settings(piece_of(points, *span)))
            assert without_settings(found.piece(Span(*span))) == expected
            inside = [s for s in shown if span[0] <= s.at_us <= span[1]]
            assert found.spacing_us == pytest.approx(usual_spacing(inside))
            temperatures = [s.kwh % 40 for s in inside]
            warm = [hour.temperatures for hour in found.hours if hour.temperatures]
            if kind is VEHICLE:
                assert sum(t.sum_c for t in warm) == pytest.approx(sum(temperatures))
                assert min((t.min_c for t in warm), default=0) == min(temperatures, default=0)
                assert max((t.max_c for t in warm), default=0) == max(temperatures, default=0)
            else:
                assert warm == []

    agree()


@pytest.mark.usefixtures("daily")
@pytest.mark.parametrize("page", [2, hourly.PAGE])
@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_in_whatever_order_samples_come_the_same_rows_are_kept(
    kind: Kind, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hourly, "PAGE", page)  # few samples make many pages

    @hypothesis_settings(max_examples=100)
    @given(registers_of(), settings_of, st.data())
    def same(register: list[Sample], set_to: dict[str, float | None], data: st.DataObject) -> None:
        with transaction() as conn:
            once = make_device(conn, kind, set_to)
            arrive(conn, kind, once, register)
            refresh(conn, kind, once, register)

            again = data.draw(st.lists(st.sampled_from(register), max_size=8), label="repeated")
            coming = data.draw(st.permutations(register + again), label="order")
            key = make_device(conn, kind, set_to)
            marks: list[Sample] = []
            while coming:
                size = data.draw(st.integers(1, len(coming)), label="batch")
                batch, coming = coming[:size], coming[size:]
                arrive(conn, kind, key, batch)
                marks += batch
                # A tick takes the oldest marks, perhaps not all of them.
                bite = data.draw(st.integers(0, len(marks)), label="bite")
                refresh(conn, kind, key, marks[:bite])
                marks = marks[bite:]
            refresh(conn, kind, key, marks)
            expected, found = kept(conn, kind, once), kept(conn, kind, key)
            conn.rollback()
        assert found == expected

    same()


def of_minutes(*shown: tuple[float, float]) -> list[Sample]:
    return [Sample(to_us(at(minutes=minute)), kwh) for minute, kwh in shown]


@pytest.mark.usefixtures("daily")
@pytest.mark.parametrize(
    ("early", "late", "events"),
    [
        # What had restarted for good turns out to have been a glitch, an hour before the news.
        (
            of_minutes((10, 90.0), (50, 1.0), (130, 1.5)),
            of_minutes((65, 90.2)),
            [(50, "GLITCH"), (130, "RESET")],
        ),
        # The only sample of an hour is dropped with the first of the next.
        (of_minutes((10, 90.0), (70, 1.0)), of_minutes((130, 90.5)), [(70, "GLITCH")]),
        # ... and counts again, when another comes in between.
        (
            of_minutes((10, 90.0), (70, 1.0), (130, 90.5)),
            of_minutes((75, 1.1)),
            [(70, "RESET")],
        ),
        # A dip that is recovered hours later.
        (
            of_minutes((10, 90.0), (70, 89.5), (130, 89.6), (190, 90.4)),
            of_minutes((65, 90.1)),
            [(70, "DIP"), (130, None), (190, None)],
        ),
    ],
)
def test_news_reaches_the_hours_beside_it(
    early: list[Sample], late: list[Sample], events: list[tuple[float, str | None]]
) -> None:
    with transaction() as conn:
        at_once, key = make_device(conn, VEHICLE, {}), make_device(conn, VEHICLE, {})
        for device, batches in ((at_once, [sorted(early + late)]), (key, [early, late])):
            for batch in batches:
                arrive(conn, VEHICLE, device, batch)
                refresh(conn, VEHICLE, device, batch)
        expected, found = kept(conn, VEHICLE, at_once), kept(conn, VEHICLE, key)
        conn.rollback()
    assert found == expected
    kept_events = [(row["at"], row["event"]) for row in found[VEHICLE.events.name]]
    assert kept_events == [(at(minutes=minute), event) for minute, event in events]


@pytest.mark.usefixtures("daily")
@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_a_changed_rating_judges_as_if_it_had_always_been_so(kind: Kind) -> None:
    @hypothesis_settings(max_examples=60)
    @given(registers_of(), settings_of, settings_of)
    def same(
        register: list[Sample], before: dict[str, float | None], after: dict[str, float | None]
    ) -> None:
        with transaction() as conn:
            once, key = make_device(conn, kind, after), make_device(conn, kind, before)
            for device in (once, key):
                arrive(conn, kind, device, register)
                refresh(conn, kind, device, register)
            ratings.change(conn, kind, key, after)
            marks = rollups.take_dirty(conn, kind, 1000, up_to=rollups.newest_mark(conn, kind))
            touched = marks["hour_us"][marks["key"] == key].tolist()
            hourly.refresh(conn, kind, [(key, from_us(hour)) for hour in touched])
            expected, found = kept(conn, kind, once), kept(conn, kind, key)
            conn.rollback()
        assert found == expected

    same()


def make_meters(keys: Iterable[int]) -> None:
    """Meters of these keys."""
    fleet = make_fleet("Northern depot")
    for key in keys:
        execute(
            "INSERT INTO meters (key, fleet_id, device_id) OVERRIDING SYSTEM VALUE"
            " VALUES (:key, :fleet, :name)",
            key=key,
            fleet=fleet,
            name=f"meter-{key}",
        )


def test_windows_of_many_devices_come_back_in_their_order(servers: dict[str, str]) -> None:
    make_meters([1, 2, 3, 9])
    with transaction() as conn:
        for key in (1, 2, 3):
            shown = [Row(key, to_us(at(h)), 0, (key * 100.0 + h, 230.0)) for h in (0, 1)]
            writes.store(conn, METER, shown)
            hours.refresh(conn, METER, [(key, at(0)), (key, at(1))])
        wanted = [Segment(key, at(0), at(1)) for key in (3, 1, 9, 2, 1)]
        found = read(conn, METER, wanted)
    firsts = [timeline.hours[0].first_kwh if timeline.hours else None for timeline in found]
    assert firsts == [300, 100, None, 200, 100]


def test_no_windows_is_no_question(servers: dict[str, str]) -> None:
    with transaction() as conn:
        assert windows.read(conn, METER, []) == []
        hours.refresh(conn, METER, [])


def test_refreshing_an_hour_without_readings_leaves_no_row(servers: dict[str, str]) -> None:
    with transaction() as conn:
        hours.refresh(conn, VEHICLE, [(1, at(0))])
    assert rows("SELECT * FROM vehicle_energy_hourly") == []


# --- plans ----------------------------------------------------------------------------------------

DEVICES, SECONDS_APART = 40, 30
READINGS_PER_HOUR = 3600 // SECONDS_APART

_LOAD = """
    INSERT INTO meter_telemetry_history (device_key, recorded_at, received_at, kwh_consumed_ac,
                                         voltage_v)
    SELECT device, instant, instant, extract(epoch FROM instant - '2026-01-09Z') / 3600, 230
    FROM generate_series(1, :devices) AS device,
         generate_series('2026-01-09Z'::timestamptz, '2026-01-11T12:00Z', :apart * interval '1 s')
             AS instant
"""
_SCAN = re.compile(
    r"(?P<how>\w+(?: Only)? Scan|Seq Scan|Bitmap Heap Scan).* on"
    r" (?P<table>meter_telemetry_history_\w+).*?"
    r"\((?:actual rows=(?P<rows>[\d.]+) loops=(?P<loops>\d+)|never executed)\)"
)


@pytest.fixture
def loaded(daily: None) -> None:
    """Two and a half days of forty meters, every 30 s: 288,000 readings."""
    make_meters(range(1, DEVICES + 1))
    execute(_LOAD, devices=DEVICES, apart=SECONDS_APART)
    with transaction() as conn:
        filled = [(key, at(hour)) for key in range(1, DEVICES + 1) for hour in range(-24, 36)]
        hours.refresh(conn, METER, filled)
    with transaction() as conn:
        conn.exec_driver_sql("SET LOCAL lock_timeout = '60s'")  # autovacuum may be at it
        conn.exec_driver_sql("ANALYZE meter_telemetry_history, meter_energy_hourly")


def test_a_window_costs_its_hours_and_not_its_readings(loaded: None) -> None:
    begin, end = at(0, minutes=20), at(24, minutes=20)
    wanted = [Segment(key, begin, end) for key in range(1, DEVICES + 1)]
    with transaction() as conn:
        plan = windows.explain(conn, METER, wanted)
        found = read(conn, METER, wanted)
    scans = [match.groupdict() for match in _SCAN.finditer(plan)]
    assert scans, plan
    full = [s for s in scans if s["how"] == "Seq Scan" and not s["table"].endswith("_default")]
    assert not full, plan
    # Pruning: the window touches the 10th and the 11th, and nobody looks anywhere else.
    touched = {s["table"].removeprefix("meter_telemetry_history_") for s in scans if s["loops"]}
    assert touched == {"p20260110", "p20260111"}, plan
    # Of 2,880 readings a device, those of the two hours that the window cuts, and a neighbour each.
    read_rows = sum(float(s["rows"]) * int(s["loops"]) for s in scans if s["loops"])
    assert read_rows / DEVICES <= 2 * READINGS_PER_HOUR + 2, plan
    # One kWh an hour.
    assert {timeline.samples for timeline in found} == {24 * READINGS_PER_HOUR + 1}
    day = Span(to_us(begin), to_us(end))
    assert all(timeline.piece(day).energy_kwh == pytest.approx(24) for timeline in found)


def test_a_day_of_hours_is_read_without_history(loaded: None) -> None:
    wanted = [Segment(1, at(0), at(24) - timedelta(microseconds=1))]
    with transaction() as conn:
        plan = windows.explain(conn, METER, wanted)
    looked = [m.groupdict() for m in _SCAN.finditer(plan) if m["loops"]]
    assert sum(float(scan["rows"]) * int(scan["loops"]) for scan in looked) <= 1, plan
