"""python -m bench.detector: how often the rules cry wolf, and how soon they find what is wrong.

A simulated fleet (winters, cars on several powers, unequal sessions) is judged by the very code
that raises alarms. Healthy vehicles tell false alarms per vehicle-year, faulty ones the delay. The
simulation has the same functional form as the detector's model: take order and magnitude from it,
not a promise.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median

from workers.alarms import rules
from workers.alarms.engine import chains, judge
from workers.alarms.evaluation import Day, Episode
from workers.alarms.model import expected_dc_kwh

START = datetime(2024, 1, 1, tzinfo=UTC)
ONE_DAY = timedelta(days=1)
#: Days of health before a fault begins, and days in which it may be found.
HEALTHY_DAYS, FAULTY_DAYS = 240, 120
#: What a socket, a wallbox at half and at full power give, kW.
POWERS_KW = (2.3, 3.7, 7.4, 11.0, 22.0)


@dataclass(frozen=True, slots=True)
class Car:
    """A vehicle's true parameters; the detector knows none of them."""

    eta_c: float
    p_aux_kw: float
    #: Bias of the pair of meters, a factor on DC.
    bias: float
    #: Extra AC per degree below 5 C, kWh.
    heating_kwh: float
    #: Where it charges, and how often there.
    powers: tuple[float, float]
    second_power_share: float
    standby_kw: float


#: Changes a session `days` after the fault began.
Fault = Callable[[Episode, int], Episode]


def _worse_by(points: float) -> Fault:
    def fault(e: Episode, _: int) -> Episode:
        return _with(e, dc=(e.dc_kwh or 0.0) - points / 100 * (e.ac_kwh or 0.0))

    return fault


def _drifting(points_per_day: float) -> Fault:
    def fault(e: Episode, days: int) -> Episode:
        return _with(e, dc=(e.dc_kwh or 0.0) - points_per_day * days / 100 * (e.ac_kwh or 0.0))

    return fault


def _wrongly_mapped(e: Episode, _: int) -> Episode:
    """The meter of a neighbour that charges less."""
    return _with(e, dc=(e.ac_kwh or 0.0) * 1.15)


def _unchanged(e: Episode, _: int) -> Episode:
    return e


#: Name -> (what it does to sessions, standby added to days in kW, how many days it may take).
FAULTS: dict[str, tuple[Fault, float, int]] = {
    "5 pt lost": (_worse_by(5), 0.0, FAULTY_DAYS),
    "3 pt lost": (_worse_by(3), 0.0, FAULTY_DAYS),
    "drift 0.04 pt/day": (_drifting(0.04), 0.0, 240),
    "standby 150 W": (_unchanged, 0.15, FAULTY_DAYS),
    "DC above AC": (_wrongly_mapped, 0.0, FAULTY_DAYS),
}


def _with(e: Episode, *, dc: float) -> Episode:
    ac = e.ac_kwh or 0.0
    ratio, width = dc / ac, 0.1 / ac  # 0.05 kWh of doubt on the DC side
    known = ratio <= 1.02
    return replace(
        e,
        dc_kwh=dc,
        raw_ratio=ratio,
        efficiency=ratio if known else None,
        efficiency_low=ratio - width / 2,
        efficiency_high=ratio + width / 2,
        confidence="high" if ratio <= 1 else ("low" if known else "none"),
    )


def car(chance: random.Random) -> Car:
    """One of the fleet."""
    powers = chance.sample(POWERS_KW, 2)
    return Car(
        eta_c=chance.uniform(0.92, 0.955),
        p_aux_kw=chance.uniform(0.13, 0.42),
        bias=1 + max(-0.022, min(0.022, chance.gauss(0, 0.011))),
        heating_kwh=chance.uniform(0.02, 0.10),
        powers=(powers[0], powers[1]),
        second_power_share=chance.choice((0.0, 0.1, 0.3, 0.5)),
        standby_kw=chance.uniform(0.002, 0.015),
    )


def lived(chance: random.Random, days: int, fault: str | None) -> tuple[list[Episode], list[Day]]:
    """A vehicle's sessions and days; with a fault from day HEALTHY_DAYS on."""
    one, sessions, finished = car(chance), [], []
    change, leak_kw, _ = FAULTS[fault] if fault else (_unchanged, 0.0, 0)
    for number in range(days):
        faulty = fault is not None and number >= HEALTHY_DAYS
        session = _session(chance, one, number) if chance.random() < 0.85 else None
        if session is not None and faulty:
            session = change(session, number - HEALTHY_DAYS)
        if session is not None:
            sessions.append(session)
        finished.append(_day(one, number, session, leak_kw if faulty else 0.0))
    return sessions, finished


def _session(chance: random.Random, one: Car, number: int) -> Episode:
    """A night's charging: 12 kWh in the median."""
    power = one.powers[chance.random() < one.second_power_share] * chance.uniform(0.97, 1.0)
    ac = min(60.0, max(0.6, chance.lognormvariate(math.log(12), 0.6)))
    hours = ac / power
    temperature = 10 - 10 * math.cos(2 * math.pi * (number - 20) / 365) + chance.gauss(0, 4)
    cold = max(0.0, 5 - temperature)
    heating = one.heating_kwh * cold * min(1.0, ac / 8) * chance.uniform(0.8, 1.2)
    overhead = chance.uniform(0.05, 0.15)
    carried = expected_dc_kwh(ac - heating - overhead, hours, one.eta_c, one.p_aux_kw)
    dc = max(0.05, carried * one.bias * (1 + chance.gauss(0, 0.006)) + chance.gauss(0, 0.03))
    begin = START + number * ONE_DAY + timedelta(hours=chance.uniform(0, 4))
    made = Episode(
        started_at=begin,
        ended_at=begin + timedelta(hours=hours),
        ac_kwh=ac,
        dc_kwh=dc,
        efficiency=None,
        efficiency_low=None,
        efficiency_high=None,
        raw_ratio=None,
        confidence="high",
        charging_hours=hours,
        avg_ac_power_kw=power,
        battery_temp_min_c=temperature,
        meter_id="meter",
    )
    made = _with(made, dc=dc)
    return replace(made, confidence="low" if ac < 2 else made.confidence)


def _day(one: Car, number: int, session: Episode | None, leak_kw: float) -> Day:
    hours = session.charging_hours if session else 0.0
    idle_hours = max(0.0, 24 - hours)
    idle = (one.standby_kw + leak_kw) * idle_hours
    begin = START + number * ONE_DAY
    charged = (session.ac_kwh or 0.0, session.dc_kwh or 0.0) if session else (0.0, 0.0)
    return Day(
        day=begin.date(),
        ended_at=begin + ONE_DAY,
        ac_kwh=charged[0] + idle,
        dc_kwh=charged[1],
        idle_ac_kwh=idle,
        idle_hours=idle_hours,
    )


@dataclass(frozen=True, slots=True)
class Found:
    """How a fault was found among the vehicles that have it."""

    vehicles: int
    delays_days: tuple[float, ...]
    by_rule: dict[str, int]

    @property
    def median_days(self) -> float | None:
        """Median delay of those found."""
        return median(self.delays_days) if self.delays_days else None

    def share_within(self, days: float) -> float:
        """Of all vehicles with the fault."""
        return sum(delay <= days for delay in self.delays_days) / self.vehicles


def _raised(seed: int, days: int, fault: str | None) -> list[tuple[str, float]]:
    """(rule, day) of a vehicle's alarms."""
    sessions, finished = lived(random.Random(seed), days, fault)  # noqa: S311
    found = chains(judge(sessions, finished).spans)
    return [(c.rule, (c.spans[0].opened_at - START) / ONE_DAY) for c in found]


def _each(
    count: int, days: int, fault: str | None, seed: int, processes: int
) -> list[list[tuple[str, float]]]:
    one = partial(_raised, days=days, fault=fault)
    seeds = range(seed, seed + count)
    if processes == 1:
        return [one(s) for s in seeds]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(one, seeds, chunksize=8))


def false_alarms(
    vehicles: int, days: int, *, seed: int = 1, processes: int = 1
) -> dict[str, float]:
    """False alarms per vehicle-year, by rule."""
    counted: Counter[str] = Counter()
    for raised in _each(vehicles, days, None, seed, processes):
        counted.update(rule for rule, _ in raised)
    years = vehicles * days / 365
    return {rule: counted[rule] / years for rule in rules.EVALUATED_RULES}


def detection(fault: str, vehicles: int, *, seed: int = 10_000, processes: int = 1) -> Found:
    """When a fault's vehicles alarm first, and which rules ever do, after the fault began."""
    delays, by_rule = [], Counter[str]()
    days = HEALTHY_DAYS + FAULTS[fault][2]
    for raised in _each(vehicles, days, fault, seed, processes):
        after = [(rule, day - HEALTHY_DAYS) for rule, day in raised if day >= HEALTHY_DAYS]
        by_rule.update({rule for rule, _ in after})
        if after:
            delays.append(min(day for _, day in after))
    return Found(vehicles, tuple(delays), dict(by_rule))


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, judge, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.detector", description=__doc__)
    parser.add_argument("--vehicles", type=int, default=400, help="healthy ones (400)")
    parser.add_argument("--days", type=int, default=730, help="that each lives (730)")
    parser.add_argument("--faulty", type=int, default=100, help="vehicles per fault (100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args(arguments)
    begin = time.monotonic()
    print(f"Healthy: {chosen.vehicles} vehicles x {chosen.days} days, seed {chosen.seed}\n")
    print(f"{'rule':<20}{'false alarms per vehicle-year':>32}")
    rates = false_alarms(chosen.vehicles, chosen.days, seed=chosen.seed, processes=chosen.processes)
    for rule, rate in rates.items():
        print(f"{rule:<20}{rate:>32.4f}")
    print(f"\n{chosen.faulty} vehicles per fault, which begins after {HEALTHY_DAYS} good days\n")
    print(f"{'fault':<20}{'found':>7}{'in 30 d':>9}{'median':>9}  rules that raised it")
    for fault in FAULTS:
        found = detection(
            fault, chosen.faulty, seed=10_000 + chosen.seed, processes=chosen.processes
        )
        _show(fault, found)
    print(f"\n{time.monotonic() - begin:.0f} s")
    return 0


def _show(fault: str, found: Found) -> None:
    days = f"{found.median_days:.1f} d" if found.median_days is not None else "-"
    share = len(found.delays_days) / found.vehicles
    by = ", ".join(
        f"{rule} {count / found.vehicles:.0%}" for rule, count in sorted(found.by_rule.items())
    )
    print(f"{fault:<20}{share:>7.0%}{found.share_within(30):>9.0%}{days:>9}  {by}")


if __name__ == "__main__":
    sys.exit(main())
