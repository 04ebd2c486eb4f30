"""The heart: a window read through hourly rows says what all its samples say.

`workers.energy.piece_of` over every sample is the slow, obvious way; `models.windows` is the fast
one. Registers, gaps, restarts and windows are random; both ways must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import count, groupby

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models import partitions, windows, writes
from models.clock import HOUR_US, from_us, to_us
from models.codec import Row
from models.engine import transaction
from models.kinds import KINDS, METER, VEHICLE, Kind
from models.windows import Register, Segment
from tests.factories import MIDNIGHT, at, execute, rows
from workers.energy import Piece, Sample, piece_of

DAYS = [date(2026, 1, day) for day in (9, 10, 11)]
START_US = to_us(MIDNIGHT)

_keys = count(1)  # every example has a device of its own


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
#: Registers with a resolution of 0.01 kWh, that rest, rise and restart.
values = st.lists(
    st.one_of(st.just(0), st.integers(0, 2000), st.integers(-5000, -1)), min_size=30, max_size=30
)


@st.composite
def registers(draw: st.DrawFn) -> list[Sample]:
    when = sorted(draw(st.sets(instants, min_size=1, max_size=30)))
    shown, made = 1000, []
    for micros, change in zip(when, draw(values), strict=False):
        shown = shown + change if change >= 0 else max(0, -change // 10)
        made.append(Sample(micros, shown / 100))
    return made


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Sample], list[tuple[int, int]]]:
    """A register and windows over it, whose ends are often a sample's instant or an hour."""
    register = draw(registers())
    ends = st.one_of(instants, st.sampled_from([s.at_us for s in register]))
    pairs = draw(st.lists(st.tuples(ends, ends), min_size=1, max_size=4))
    return register, [(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]]


def read(kind: Kind, register: list[Sample], spans: list[tuple[int, int]]) -> list[Register]:
    """Store the register under a new key, refresh its hours, read the windows; leave no trace."""
    key = next(_keys)
    values_of = (lambda kwh: (kwh, 230.0)) if kind is METER else (lambda kwh: (50.0, kwh, kwh % 40))
    hours = {(key, from_us(s.at_us // HOUR_US * HOUR_US)) for s in register}
    with transaction() as conn:
        writes.store(conn, kind, [Row(key, s.at_us, s.at_us, values_of(s.kwh)) for s in register])
        windows.refresh_hours(conn, kind, sorted(hours))
        segments = [Segment(key, from_us(a), from_us(b)) for a, b in spans]
        found = windows.read_registers(conn, kind, segments)
        conn.rollback()
    return found


def piece(span: tuple[int, int], register: Register) -> Piece:
    def sample(name: str) -> Sample | None:
        instant, kwh = getattr(register, f"{name}_at"), getattr(register, f"{name}_kwh")
        return None if instant is None else Sample(to_us(instant), kwh)

    return Piece(
        *span,
        before=sample("before"),
        after=sample("after"),
        first=sample("first"),
        last=sample("last"),
        energy_kwh=pytest.approx(register.energy_kwh or 0, abs=1e-9),
        samples=register.samples or 0,
        resets=register.resets or 0,
    )


def without_spacing(piece: Piece) -> Piece:
    return Piece(**{name: getattr(piece, name) for name in Piece.__slots__ if name != "spacing_us"})


def usual_spacing(inside: list[Sample]) -> float | None:
    """Seconds between samples within an hour; over the whole window when no hour has two."""
    hours = [list(group) for _, group in groupby(inside, key=lambda s: s.at_us // HOUR_US)]
    pairs = len(inside) - len(hours)
    if pairs:
        return sum(hour[-1].at_us - hour[0].at_us for hour in hours) / pairs / 1e6
    return (inside[-1].at_us - inside[0].at_us) / (len(inside) - 1) / 1e6 if inside[1:] else None


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
    @given(cases())
    @example(FALLS_AT_THE_SEAM)
    def agree(case: tuple[list[Sample], list[tuple[int, int]]]) -> None:
        register, spans = case
        for span, found in zip(spans, read(kind, register, spans), strict=True):
            assert without_spacing(piece_of(register, *span)) == piece(span, found)
            inside = [s for s in register if span[0] <= s.at_us <= span[1]]
            assert found.spacing_seconds == pytest.approx(usual_spacing(inside))
            temperatures = [s.kwh % 40 for s in inside]
            if kind is VEHICLE and inside:
                assert found.temperatures == pytest.approx(
                    (sum(temperatures), min(temperatures), max(temperatures))
                )
            else:
                assert found.temperatures is None

    agree()


def test_windows_of_many_devices_come_back_in_their_order(servers: dict[str, str]) -> None:
    with transaction() as conn:
        for key in (1, 2, 3):
            shown = [Row(key, to_us(at(h)), 0, (key * 100.0 + h, 230.0)) for h in (0, 1)]
            writes.store(conn, METER, shown)
            windows.refresh_hours(conn, METER, [(key, at(0)), (key, at(1))])
        wanted = [Segment(key, at(0), at(1)) for key in (3, 1, 9, 2, 1)]
        found = windows.read_registers(conn, METER, wanted)
    assert [register.first_kwh for register in found] == [300, 100, None, 200, 100]


def test_no_windows_is_no_question(servers: dict[str, str]) -> None:
    with transaction() as conn:
        assert windows.read_registers(conn, METER, []) == []
        windows.refresh_hours(conn, METER, [])


def test_refreshing_an_hour_without_readings_leaves_no_row(servers: dict[str, str]) -> None:
    with transaction() as conn:
        windows.refresh_hours(conn, VEHICLE, [(1, at(0))])
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
    execute(_LOAD, devices=DEVICES, apart=SECONDS_APART)
    with transaction() as conn:
        hours = [(key, at(hour)) for key in range(1, DEVICES + 1) for hour in range(-24, 36)]
        windows.refresh_hours(conn, METER, hours)
    execute("ANALYZE meter_telemetry_history")
    execute("ANALYZE meter_energy_hourly")


def test_a_window_costs_its_hours_and_not_its_readings(loaded: None) -> None:
    begin, end = at(0, minutes=20), at(24, minutes=20)
    wanted = [Segment(key, begin, end) for key in range(1, DEVICES + 1)]
    with transaction() as conn:
        plan = windows.explain(conn, METER, wanted)
        found = windows.read_registers(conn, METER, wanted)
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
    assert {register.samples for register in found} == {24 * READINGS_PER_HOUR + 1}
    assert all(register.energy_kwh == pytest.approx(24) for register in found)


def test_a_day_of_hours_is_read_without_history(loaded: None) -> None:
    wanted = [Segment(1, at(0), at(24) - timedelta(microseconds=1))]
    with transaction() as conn:
        plan = windows.explain(conn, METER, wanted)
    looked = [m.groupdict() for m in _SCAN.finditer(plan) if m["loops"]]
    assert sum(float(scan["rows"]) * int(scan["loops"]) for scan in looked) <= 1, plan
