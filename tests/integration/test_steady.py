"""The way of steady registers says what the general way says, to the last digit.

Days of random registers, then tick after tick with a little more of them: each time the hourly rows
are held against a recomputation from history, and the summaries against workers/performance.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from models import hours, ratings, rollups
from models.derived import VehiclePerformance
from models.engine import transaction
from models.kinds import KINDS, METER, VEHICLE, Kind
from tests.factories import (
    Reading,
    at,
    empty_servers,
    flush_all,
    make_fleet,
    meter_reading,
    post_to_stream,
    rows,
    vehicle_reading,
)
from workers import performance, rollup
from workers.steady import memory
from workers.steady.memory import Memory, Summaries

#: Where the random day ends, and ticks begin.
END = at(2, minutes=30)
DAY = timedelta(hours=24)


@dataclass
class Register:
    """A device that sends on and on: a cumulative register, at rest and at work in turn."""

    kind: Kind
    dice: random.Random
    now: datetime
    spacing: int
    number: int = 1
    kwh: float = 100.0
    power: float = 0.0
    sent: list[Reading] = field(default_factory=list)

    def until(self, end: datetime) -> list[Reading]:
        """The readings up to an instant."""
        made = []
        while (step := self._step()) is not None and self.now + step < end:
            self.now += step
            if self.dice.random() < 0.03:
                self.power = self.dice.choice([0.0, 0.0, 0.04, 3.7, 11.0])
            self.kwh = round(self.kwh + self.power * step.total_seconds() / 3600, 3)
            made.append(self._reading())
        self.sent += made
        return made

    def _step(self) -> timedelta:
        exact = self.dice.random() < 0.7
        return timedelta(
            seconds=self.spacing,
            microseconds=0 if exact else self.dice.randrange(-9_000_000, 9_000_000),
        )

    def _reading(self) -> Reading:
        if self.kind is METER:
            return meter_reading(
                meterId=f"meter-{self.number:03}", timestamp=self.now, kwhConsumedAc=self.kwh
            )
        return vehicle_reading(
            vehicleId=f"vehicle-{self.number:03}",
            timestamp=self.now,
            kwhDeliveredDc=self.kwh,
            soc=self.dice.randrange(1000) / 10,
            batteryTemp=self.dice.randrange(-200, 450) / 10,
        )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many vehicles each page of a tick was told of out of memory."""
    counts: list[int] = []
    plain = Memory.summarise

    def counted(self: Memory, *arguments: Any) -> Summaries:
        found = plain(self, *arguments)
        counts.append(len(found.columns["vehicle_key"]))
        return found

    monkeypatch.setattr(Memory, "summarise", counted)
    yield counts
    rollup.memory.clear()


def send(*readings: tuple[Kind, list[Reading]]) -> None:
    (fleet,) = rows("SELECT id FROM fleets")
    for kind, made in readings:
        if made:
            post_to_stream(kind, fleet["id"], made)
    flush_all()


def pair(dice: random.Random, number: int = 1) -> tuple[Register, Register]:
    """A meter and its vehicle, seen from a little more than a day before `END` on."""
    begin = END - DAY - timedelta(hours=2, seconds=dice.randrange(3600))
    spacings = [30, 60, 60, 90, 100, 290]
    return (
        Register(METER, dice, begin, dice.choice(spacings), number),
        Register(VEHICLE, dice, begin, dice.choice(spacings), number),
    )


TABLES = [*(kind.hourly for kind in KINDS.values()), VehiclePerformance.__table__]


def a_day(seed: int) -> tuple[random.Random, Register, Register]:
    """Empty servers, and a pair that has sent until `END`."""
    empty_servers()
    make_fleet("alpha")
    dice = random.Random(seed)
    ac, dc = pair(dice)
    send((METER, ac.until(END)), (VEHICLE, dc.until(END)))
    return dice, ac, dc


def content(conn: Connection) -> list[list[dict[str, Any]]]:
    """The hourly rows and the summaries."""
    return [
        [dict(row) for row in conn.execute(select(table).order_by(*table.primary_key)).mappings()]
        for table in TABLES
    ]


def stored() -> list[list[dict[str, Any]]]:
    """As the tick left them."""
    with transaction() as conn:
        return content(conn)


def recomputed() -> list[list[dict[str, Any]]]:
    """The same, by the general way, without leaving anything changed."""
    with transaction() as conn:
        for kind in KINDS.values():
            found = conn.execute(select(kind.hourly.c.device_key, kind.hourly.c.hour)).all()
            hours.refresh(conn, kind, [(key, hour) for key, hour in found])
        c = VehiclePerformance.__table__.c
        due = select(c.vehicle_key, c.computed_at, c.data_complete_through)
        for key, *told in conn.execute(due).all():
            window = told[0] - DAY, told[0]  # may be before `now`: not due again yet
            made = performance.summarise(conn, rollups.supplies(conn, *window, [key]), *window)
            when = {"computed_at": told[0], "data_complete_through": told[1]}
            rollups.write_performance(conn, [row | when for row in made])
        expected = content(conn)
        conn.rollback()
    return expected


def check(now: datetime) -> None:
    rollup.tick(now)
    for found, expected in zip(stored(), recomputed(), strict=True):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            differing = {k: (one[k], other[k]) for k in one if one[k] != other[k]}
            assert not differing, f"of {list(one.values())[:2]}"


@pytest.mark.usefixtures("servers")
def test_a_plain_day_is_told_out_of_memory(told: list[int]) -> None:
    @hypothesis_settings(max_examples=12)
    @given(st.integers(0, 2**32))
    def plain(seed: int) -> None:
        dice, ac, dc = a_day(seed)
        now = END
        told.clear()
        check(now)
        for _ in range(5):
            now += timedelta(seconds=dice.choice([20, 60, 60, 300, 700]))
            send((METER, ac.until(now)), (VEHICLE, dc.until(now)))
            check(now)
        assert set(told) == {1}

    plain()


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(
    "minutes", [31, 59, 90, 119], ids=["cut hour", "its end", "an hour", "between two"]
)
def test_the_longest_step_counts_wherever_it_lies(minutes: int, told: list[int]) -> None:
    make_fleet("alpha")
    begin = END - DAY - timedelta(minutes=30)  # a full hour: the window begins half an hour later
    silence = begin + timedelta(minutes=minutes), begin + timedelta(minutes=minutes + 3)
    sides = [Register(kind, random.Random(3), begin, 60) for kind in KINDS.values()]
    for side in sides:
        made = side.until(END)
        heard = [r for r in made if not silence[0] <= r["timestamp"] < silence[1]]
        send((side.kind, heard))
    check(END)
    (row,) = rows("SELECT ac_quality FROM vehicle_performance_24h")
    assert row["ac_quality"]["maxGapSeconds"] > 150
    assert set(told) == {1}


@pytest.mark.usefixtures("servers")
def test_whatever_happens_both_ways_agree(told: list[int]) -> None:
    @hypothesis_settings(max_examples=25)
    @given(st.integers(0, 2**32))
    def anything(seed: int) -> None:
        dice, ac, dc = a_day(seed)
        now = END
        check(now)
        for _ in range(6):
            now += timedelta(seconds=dice.choice([20, 60, 300, 700, 4000]))
            for side in (ac, dc):
                trouble(dice, side, now)
            check(now)

    anything()


@pytest.mark.usefixtures("servers")
def test_devices_that_come_and_go_are_not_mixed_up(
    told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie in memory in the order in which they were taken in, not in that of their keys."""
    monkeypatch.setattr(memory, "AT_ONCE", 2)

    @hypothesis_settings(max_examples=8)
    @given(st.integers(0, 2**32))
    def several(seed: int) -> None:
        empty_servers()
        make_fleet("alpha")
        dice = random.Random(seed)
        sides = [side for number in range(1, 6) for side in pair(dice, number)]
        for some in (sides[:4], sides[4:]):
            send(*[(side.kind, side.until(END)) for side in some])
            check(END)
        now = END
        for _ in range(5):
            now += timedelta(seconds=dice.choice([60, 300, 3000]))
            for side in sides:
                trouble(dice, side, now, ["on", "on", "on", "late", "again"])
            check(now)
        assert max(told) == 5

    several()


ANYTHING = ["on", "on", "on", "late", "dip", "gap", "leap", "again", "rating", "future"]


def trouble(
    dice: random.Random, side: Register, now: datetime, whats: Sequence[str] = ANYTHING
) -> None:
    """Let one side send on, or do something else."""
    what = dice.choice(whats)
    if what == "gap":
        side.now = max(side.now, now - timedelta(seconds=30))
    elif what == "dip":
        side.kwh = max(0.0, side.kwh - dice.choice([0.02, 0.5, 50.0]))
    elif what == "leap":
        side.kwh += 500
    elif what == "rating":
        with transaction() as conn:
            ratings.change(conn, side.kind, 1, {"resolution_kwh": dice.choice([0.001, 0.5])})
    readings = side.until(now + timedelta(seconds=200) if what == "future" else now)
    if what == "late":
        old = dice.choice(side.sent)
        readings.append(old | {"timestamp": old["timestamp"] + timedelta(microseconds=1)})
    elif what == "again":
        readings.append(dice.choice(side.sent))
    send((side.kind, readings))


@pytest.mark.usefixtures("servers")
def test_another_process_that_ticked_makes_the_memory_void(
    told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_fleet("alpha")
    ac, dc = pair(random.Random(1))
    send((METER, ac.until(END)), (VEHICLE, dc.until(END)))
    check(END)
    ours = rollup.memory
    monkeypatch.setattr(rollup, "memory", Memory())  # another process
    late = dc.sent[-100]
    send((VEHICLE, [late | {"timestamp": late["timestamp"] + timedelta(seconds=1)}]))
    check(END + timedelta(minutes=1))
    monkeypatch.setattr(rollup, "memory", ours)
    now = END + timedelta(minutes=2)
    send((METER, ac.until(now)), (VEHICLE, dc.until(now)))
    check(now)
    assert set(told) == {1}


@pytest.mark.usefixtures("servers")
def test_a_tick_that_failed_leaves_nothing_in_memory(
    told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_fleet("alpha")
    ac, dc = pair(random.Random(2))
    send((METER, ac.until(END)), (VEHICLE, dc.until(END)))
    check(END)
    now = END + timedelta(minutes=3)
    send((METER, ac.until(now)), (VEHICLE, dc.until(now)))

    def broken(*_: Any) -> None:
        raise RuntimeError("after the hours were written, before they were committed")

    with monkeypatch.context() as patched:
        patched.setattr("models.evidence.mark", broken)
        with pytest.raises(RuntimeError):
            rollup.tick(now)
    check(now)
    assert set(told) == {1}


@pytest.mark.usefixtures("servers")
def test_a_tick_that_gives_way_is_gone_on_with(told: list[int]) -> None:
    """Wherever it stops between two transactions; and what is remembered stays true."""
    make_fleet("alpha")
    ac, dc = pair(random.Random(5))
    send((METER, ac.until(END)), (VEHICLE, dc.until(END)))
    check(END)
    for calls in range(5):
        now = END + timedelta(minutes=3 * calls + 3)
        send((METER, ac.until(now)), (VEHICLE, dc.until(now)))
        left = iter(range(calls))

        def between(left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise rollup.GaveWay

        with suppress(rollup.GaveWay):  # the last one gets through
            rollup.tick(now, between)
        check(now)
    assert set(told) == {1}
    assert len(rollup.memory._registers[METER]) == 1
