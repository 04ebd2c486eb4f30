"""A day in the life of an electric car: when it charges, how hard, and what meter and car see.

Everything is a pure function of (knobs, sessions, minute), with minutes counted from the fleet's
epoch: a second run over the same hours tells the same story, and a later run continues it. So that
this costs nothing, a car repeats a calendar of 28 days: the registers at any minute are known
without walking through all days before.

Power is whole watts for a minute and energy whole joules, so that registers are exact: no rounding
error can make one go backwards.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from seed.knobs import Knobs
from seed.sessions import CYCLE_MIN, DAY_MIN, Session

MINUTE_S = 60

#: What is computed at once. Battery values are drawn as straight lines within it.
BLOCK_MIN = 10
BLOCK_S = BLOCK_MIN * MINUTE_S

#: Battery warming is a first-order lag with this time constant, minutes.
WARMING_LAG_MIN = 60
#: Air in the depot: mean, half the swing between seasons, half the swing within a day, Celsius.
AIR_MEAN_C, AIR_SEASON_C, AIR_DAY_C = 11.0, 9.0, 4.0
#: The coldest day of the year and the warmest hour of the day.
COLDEST_DAY, WARMEST_HOUR = 20, 15
#: Slow swing of the mains voltage within a day, volts.
MAINS_SWING_V = 1.5


@dataclass(frozen=True, slots=True)
class Block:
    """Ten minutes: both registers as each minute begins, power during it, and the rest."""

    ac_j: list[int]
    ac_w: list[int]
    dc_j: list[int]
    dc_w: list[int]
    volts: list[float]
    soc_pct: list[float]
    battery_c: list[float]

    def shifted(self, ac_j: int, dc_j: int) -> Block:
        """The same ten minutes with joules added to the registers."""
        return replace(self, ac_j=[j + ac_j for j in self.ac_j], dc_j=[j + dc_j for j in self.dc_j])


class Life:
    """All that happens to one pair of car and charge point, at any minute since the epoch."""

    def __init__(self, knobs: Knobs, sessions: Sequence[Session]) -> None:
        self.knobs = knobs
        self.sessions = sessions
        self._starts = [session.start for session in sessions]
        ac = [sum(session.watts) * MINUTE_S for session in sessions]
        dc = [sum(map(knobs.dc_watts, session.watts)) * MINUTE_S for session in sessions]
        self._ac_before = list(accumulate(ac, initial=0))
        self._dc_before = list(accumulate(dc, initial=0))
        self._arrival_pct = [
            knobs.limit_pct - 100 * joules / (3600 * knobs.battery_wh) for joules in dc
        ]

    def _latest(self, minute: int) -> int:
        """Number of the last session that began at or before `minute`, counted over all cycles."""
        cycle, inside = divmod(minute, CYCLE_MIN)
        return cycle * len(self.sessions) + bisect_right(self._starts, inside) - 1

    def _session(self, number: int) -> tuple[int, Session]:
        """First minute since the epoch, and session."""
        cycle, index = divmod(number, len(self.sessions))
        return cycle * CYCLE_MIN + self._starts[index], self.sessions[index]

    def registers(self, minute: int) -> tuple[int, int]:
        """AC and DC register as `minute` begins, joules."""
        number = self._latest(minute)
        start, session = self._session(number)
        cycle, index = divmod(number, len(self.sessions))
        ac = self.knobs.meter_start_j + self.knobs.standby_w * minute * MINUTE_S
        dc = self.knobs.vehicle_start_j
        ac += cycle * self._ac_before[-1]
        dc += cycle * self._dc_before[-1]
        if minute >= start + len(session.watts):
            return ac + self._ac_before[index + 1], dc + self._dc_before[index + 1]
        so_far = session.watts[: minute - start]
        ac += self._ac_before[index] + sum(so_far) * MINUTE_S
        dc += self._dc_before[index] + sum(map(self.knobs.dc_watts, so_far)) * MINUTE_S
        return ac, dc

    def _charging(self, first: int) -> list[int]:
        """AC watts into the car for each of the block's minutes."""
        number = self._latest(first)
        load = [0] * BLOCK_MIN
        # The sessions of a block: one that runs already, or one that begins within it. Never more,
        # because a car drives longer than a block in between.
        for start, session in (self._session(number), self._session(number + 1)):
            begin, end = max(first, start), min(first + BLOCK_MIN, start + len(session.watts))
            if begin < end:
                load[begin - first : end - first] = session.watts[begin - start : end - start]
        return load

    def battery(self, minute: int) -> tuple[float, float]:
        """State of charge in percent, and temperature in Celsius."""
        number = self._latest(minute)
        start, session = self._session(number)
        earlier, before = self._session(number - 1)
        warmth = air_c(minute) + self._warming(session, minute - start)
        return self._soc_pct(number, minute - start), warmth + self._warming(
            before, minute - earlier
        )

    def _soc_pct(self, number: int, since: int) -> float:
        start, session = self._session(number)
        arrival = self._arrival_pct[number % len(self.sessions)]
        limit = self.knobs.limit_pct
        if since < len(session.watts):
            done, mean = since / len(session.watts), self.knobs.shape.mean_of_peak
            return arrival + (limit - arrival) * (done - (1 - mean) * done * done) / mean
        if since < session.stay:
            return limit
        following, _ = self._session(number + 1)
        drive = (since - session.stay) / (following - start - session.stay)
        return limit + (self._arrival_pct[(number + 1) % len(self.sessions)] - limit) * drive

    def _warming(self, session: Session, since: int) -> float:
        charged = min(since, len(session.watts))
        rise = self.knobs.warming_k * (1 - math.exp(-charged / WARMING_LAG_MIN))
        return rise * math.exp((charged - since) / WARMING_LAG_MIN)

    def block(self, number: int) -> Block:
        """Ten minutes, the `number`-th since the epoch."""
        knobs, first = self.knobs, number * BLOCK_MIN
        load = self._charging(first)
        ac_w = [knobs.standby_w + watts for watts in load]
        dc_w = [knobs.dc_watts(watts) for watts in load]
        ac_j, dc_j = self.registers(first)
        idle_v = knobs.mains_v + MAINS_SWING_V * math.cos(math.tau * first / DAY_MIN)
        soc, warmth = self.battery(first)
        soc_later, warmth_later = self.battery(first + BLOCK_MIN)
        return Block(
            ac_j=list(accumulate((w * MINUTE_S for w in ac_w[:-1]), initial=ac_j)),
            ac_w=ac_w,
            dc_j=list(accumulate((w * MINUTE_S for w in dc_w[:-1]), initial=dc_j)),
            dc_w=dc_w,
            volts=[idle_v - knobs.sag_v * watts / knobs.peak_w for watts in load],
            soc_pct=[soc + (soc_later - soc) * i / BLOCK_MIN for i in range(BLOCK_MIN)],
            battery_c=[warmth + (warmth_later - warmth) * i / BLOCK_MIN for i in range(BLOCK_MIN)],
        )


def air_c(minute: int) -> float:
    """Air temperature, Celsius; the epoch is a first of January."""
    day = minute / DAY_MIN
    season = math.cos(math.tau * (day - COLDEST_DAY) / 365.25)
    hours = math.cos(math.tau * (day - WARMEST_HOUR / 24))
    return AIR_MEAN_C - AIR_SEASON_C * season + AIR_DAY_C * hours
