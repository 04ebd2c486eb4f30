"""When a car charges and how hard: the calendar of 28 days that it repeats.

Energies, powers and hours of arrival follow seed.sessions_data.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from seed.knobs import Knobs
from seed.sessions_data import arrival_minute, on_ladder

DAY_MIN = 24 * 60
#: Days after which a car's calendar repeats: whole weeks, long enough not to look like a loop.
CYCLE_DAYS = 28
CYCLE_MIN = CYCLE_DAYS * DAY_MIN
#: A car is unplugged at least this long between two sessions, minutes.
LEAST_DRIVE_MIN = 30
#: Longest session, minutes: the longest stay in the AC data.
LONGEST_SESSION_MIN = 600
#: Share of cars that charge a second time on a day.
SECOND_SESSION_SHARE = 0.25
#: State of charge below which no driver arrives, percent.
LOWEST_SOC_PCT = 5


@dataclass(frozen=True, slots=True)
class Session:
    """One charge: its first minute in the 28 days, AC watts of each minute, minutes plugged in."""

    start: int
    watts: Sequence[int]
    stay: int


def power_curve(knobs: Knobs, energy_wh: float) -> Sequence[int]:
    """AC watts of each minute of a session of about `energy_wh`; DC fast charging tapers."""
    mean_w = knobs.shape.mean_of_peak * knobs.peak_w
    minutes = max(1, min(LONGEST_SESSION_MIN, round(60 * energy_wh / mean_w)))
    # A straight line from peak to `last` has the mean that was measured for the class.
    drop = 2 * (1 - knobs.shape.mean_of_peak)
    return array(
        "i", (int(knobs.peak_w * (1 - drop * (i + 0.5) / minutes)) for i in range(minutes))
    )


def plan_sessions(knobs: Knobs, rng: random.Random) -> list[Session]:
    """The sessions of 28 days in order, none touching the next; after the last comes the first."""
    arrivals = sorted(
        day * DAY_MIN + arrival_minute(knobs.shape, rng.random())
        for day in range(CYCLE_DAYS)
        for _ in range(1 + (rng.random() < SECOND_SESSION_SHARE))
    )
    # The driver's limit leaves room for this much, seen from the AC side.
    most_wh = knobs.battery_wh * (knobs.limit_pct - LOWEST_SOC_PCT) / 100
    charges: list[tuple[int, Sequence[int]]] = []
    busy_until = arrivals[0]
    latest = arrivals[0] + CYCLE_MIN - 2 * LEAST_DRIVE_MIN
    for start in arrivals:
        watts = power_curve(knobs, min(most_wh, _drawn_wh(knobs, rng)))
        # A car that still charges doesn't arrive a second time.
        if busy_until <= start <= latest:
            charges.append((start, watts))
            busy_until = start + len(watts) + LEAST_DRIVE_MIN
    return _with_stays(charges, rng)


def _drawn_wh(knobs: Knobs, rng: random.Random) -> float:
    return 1000 * on_ladder(knobs.shape.energy_kwh, rng.random())


def _with_stays(charges: Sequence[tuple[int, Sequence[int]]], rng: random.Random) -> list[Session]:
    """The charges as sessions; the last one may be cut short, so that the cycle closes."""
    sessions = []
    starts = [start for start, _ in charges]
    for (start, watts), following in zip(
        charges, [*starts[1:], starts[0] + CYCLE_MIN], strict=True
    ):
        room = following - start - LEAST_DRIVE_MIN
        charged = watts[:room]
        idle = min(room - len(charged), LONGEST_SESSION_MIN)
        sessions.append(Session(start, charged, len(charged) + int(rng.random() * idle)))
    return sessions
