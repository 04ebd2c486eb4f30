"""A deterministic fleet: pairs meter-001/vehicle-001 ..., and all that they send in a window.

The same plan gives the same bytes. Apart from planted faults, a reading depends only on the seed,
the pair's number and the time: a second run over the same hours repeats itself, a later one goes on
where the first ended, and vehicle-001 is the same car in a small and in a large fleet.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from typing import NamedTuple, Protocol

from seed import couriers, faults
from seed.charging_day import BLOCK_S, Block, Life
from seed.knobs import draw_knobs
from seed.sessions import plan_sessions
from seed.telemetry import Device, minute_stamps, sample_times

HOUR_S = 3600
#: Registers count from the first of January of every fifth year: far enough back to hold any
#: window, near enough for registers of a believable size.
EPOCH_YEARS = 5
#: Decimals of a register in kWh, as sold.
RESOLUTIONS = (2, 3)
#: Length of the offline gap, seconds (a quarter of the window if that is less).
GAP_S = 3 * HOUR_S
#: Share of the window after which a silent vehicle sends no more.
SILENT_AT = 1 / 4
#: The reset falls on a full six hours, so that a second run soon after tells the same story.
RESET_GRID_S = 6 * HOUR_S


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fleet is and when it sends: readings of [start, end)."""

    vehicles: int
    start: datetime
    end: datetime
    interval_s: int = 60
    seed: int = 1
    #: Number of the first pair.
    first: int = 1
    #: Pairs per fault, see faults.parse_mix.
    mix: Mapping[str, int] = field(default_factory=dict)
    #: Hours before the end at which lasting faults (degraded, standby) begin; None: ever.
    fault_hours: float | None = None

    @property
    def numbers(self) -> range:
        """The pairs' numbers."""
        return range(self.first, self.first + self.vehicles)

    @property
    def readings(self) -> int:
        """About how many readings a fleet without faults sends."""
        seconds = (self.end - self.start).total_seconds()
        return int(2 * self.vehicles * seconds / self.interval_s)


class Window(NamedTuple):
    """The plan's window in seconds since the epoch."""

    begin: int
    end: int

    def at(self, share: float) -> int:
        """The second at which `share` (0..1) of the window has passed."""
        return int(self.begin + (self.end - self.begin) * share)


class Readings(NamedTuple):
    """JSON texts of readings, in the order in which they arrive."""

    meters: list[str]
    vehicles: list[str]


class Source(Protocol):
    """What a pair's registers show."""

    def block(self, number: int) -> Block:
        """Ten minutes, the `number`-th since the epoch."""


@dataclass(slots=True)
class Pair:
    """A car with its charge point."""

    number: int
    fault: str | None
    meter: Device
    vehicle: Device
    source: Source
    meter_courier: couriers.Courier
    vehicle_courier: couriers.Courier

    def readings(
        self, number: int, stamps: list[str], window: Window, interval_s: int
    ) -> tuple[list[str], list[str]]:
        """What arrives from meter and vehicle; `window` lies in block `number`, counted from it."""
        block = self.source.block(number)
        meter_times = sample_times(*window, self.meter.phase, interval_s)
        vehicle_times = sample_times(*window, self.vehicle.phase, interval_s)
        now = number * BLOCK_S + window.end
        return (
            self.meter_courier.carry(self.meter.meter_lines(block, stamps, meter_times), now),
            self.vehicle_courier.carry(
                self.vehicle.vehicle_lines(block, stamps, vehicle_times), now
            ),
        )


class Fleet:
    """All pairs of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.epoch = datetime(plan.start.year // EPOCH_YEARS * EPOCH_YEARS, 1, 1, tzinfo=UTC)
        self.window = Window(self.seconds(plan.start), self.seconds(plan.end))
        self.faults = faults.assign(plan.mix, plan.numbers, plan.seed)
        swapped = [number for number, fault in self.faults.items() if fault == "swapped"]
        self._meter_of = dict(zip(swapped, swapped[1:] + swapped[:1], strict=True))
        self._invalid = self._plan_invalid()
        self.pairs = [self._pair(number) for number in plan.numbers]

    def seconds(self, moment: datetime) -> int:
        """Whole seconds since the epoch."""
        return int((moment - self.epoch).total_seconds())

    def readings(self) -> Iterator[Readings]:
        """All readings of the window in order of arrival, some at a time."""
        yield from self.between(*self.window)
        yield Readings(
            interleaved(pair.meter_courier.rest() for pair in self.pairs),
            interleaved(pair.vehicle_courier.rest() for pair in self.pairs),
        )

    def between(self, begin: int, end: int) -> Iterator[Readings]:
        """What arrives in [begin, end), seconds since the epoch."""
        for number in range(begin // BLOCK_S, -(-end // BLOCK_S)):
            origin = number * BLOCK_S
            part = Window(max(begin, origin) - origin, min(end - origin, BLOCK_S))
            yield self._block(number, part)

    def _block(self, number: int, part: Window) -> Readings:
        stamps = minute_stamps(self.epoch, number)
        interval = self.plan.interval_s
        sent = [pair.readings(number, stamps, part, interval) for pair in self.pairs]
        readings = Readings(
            interleaved(meter for meter, _ in sent), interleaved(vehicle for _, vehicle in sent)
        )
        while self._invalid and self._invalid[0][0] < number * BLOCK_S + part.end:
            _, kind, line = self._invalid.pop(0)
            (readings.meters if kind == "meter" else readings.vehicles).append(line)
        return readings

    def _plan_invalid(self) -> list[tuple[int, str, str]]:
        """Readings to be refused, evenly over the window: second since the epoch, kind, text."""
        count = self.plan.mix.get(faults.INVALID, 0)
        ids = f"meter-{self.plan.first:03d}", f"vehicle-{self.plan.first:03d}"
        lines = faults.invalid_lines(*ids, f"{self.plan.start.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
        return [(self.window.at((i + 0.5) / count), *lines[i % len(lines)]) for i in range(count)]

    def _pair(self, number: int) -> Pair:
        plan, fault = self.plan, self.faults.get(number)
        rng = random.Random(f"{plan.seed}/{number}/devices")
        interval = plan.interval_s
        meter_number = self._meter_of.get(number, number)
        return Pair(
            number=number,
            fault=fault,
            meter=Device(
                f"meter-{meter_number:03d}", rng.choice(RESOLUTIONS), int(rng.random() * interval)
            ),
            vehicle=Device(
                f"vehicle-{number:03d}", rng.choice(RESOLUTIONS), int(rng.random() * interval)
            ),
            source=self._source(number, fault),
            meter_courier=self._courier(number, fault, "meter"),
            vehicle_courier=self._courier(number, fault, "vehicle"),
        )

    def _source(self, number: int, fault: str | None) -> Source:
        rng = random.Random(f"{self.plan.seed}/{number}/life")
        knobs = draw_knobs(rng)
        sessions = plan_sessions(knobs, rng)
        life = Life(knobs, sessions)
        turned = faults.faulty_knobs(fault, knobs)
        if fault == "reset":
            moment = self.window.at(0.5)
            on_grid = moment - moment % RESET_GRID_S
            at = on_grid if on_grid > self.window.begin else moment
            return faults.MeterReset(life, at // BLOCK_S)
        if turned == knobs:
            return life
        if self.plan.fault_hours is None:
            return Life(turned, sessions)
        onset = self.window.end - int(self.plan.fault_hours * HOUR_S)
        return faults.Turned(life, Life(turned, sessions), onset // BLOCK_S)

    def _courier(self, number: int, fault: str | None, kind: str) -> couriers.Courier:
        if fault == "silent" and kind == "vehicle":
            return couriers.Falling(self.window.at(SILENT_AT))
        if fault == "glitch" and kind == "meter":
            return couriers.Glitch([self.window.at(1 / 3), self.window.at(2 / 3)])
        if fault == "duplicates":
            return couriers.Twice()
        if fault == "late":
            return couriers.Late()
        if fault == "offline-gap":
            half = min(GAP_S, (self.window.end - self.window.begin) // 4) // 2
            middle = self.window.at(0.5)
            rng = random.Random(f"{self.plan.seed}/{number}/{kind}/gap")
            return couriers.OfflineGap(middle - half, middle + half, rng)
        return couriers.Prompt()


def interleaved(queues: Iterable[list[str]]) -> list[str]:
    """Each device's first reading, then each one's second, and so on, as they arrive in life."""
    rows = zip_longest(*queues)
    return [line for row in rows for line in row if line is not None]
