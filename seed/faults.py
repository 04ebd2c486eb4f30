"""The faults that can be planted in a fleet: what each does, and where an operator finds it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from seed.charging_day import Block, Life
from seed.knobs import Knobs

#: Conversion share that a degraded charger loses: 8 points.
DEGRADED_ETA = 0.08
#: What a car that never sleeps, or a foreign load, draws behind the meter, watts.
STANDBY_FAULT_W = 150


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault."""

    #: What the pair does.
    does: str
    #: Where it shows.
    look_for: str
    #: Fewest pairs that can have it.
    least: int = 1


FAULTS: Mapping[str, Fault] = {
    "degraded": Fault(
        "the charger's conversion is 8 points worse (eta_c)",
        "efficiency about 8 points below its like; alarm",
    ),
    "standby": Fault(
        "150 W flow through the meter day and night",
        "AC rises while DC stands still: idle loss of 3.6 kWh a day",
    ),
    "reset": Fault(
        "the meter's register starts again at 0 in mid-window",
        "the 24 h energy stays right; one reset counted",
    ),
    "glitch": Fault(
        "the meter sends a single 0 twice in the window",
        "the 24 h energy stays right; two readings dropped",
    ),
    "silent": Fault(
        "the vehicle stops sending after a quarter of the window",
        "the window of both is cut to what it covers; its status grows old",
    ),
    "offline-gap": Fault(
        "both devices are offline for 3 h in mid-window, then send that in shuffled order",
        "after the last batch nothing is missing; latest never went back",
    ),
    "duplicates": Fault(
        "each tenth reading of both devices is sent twice",
        "figures as if sent once",
    ),
    "late": Fault(
        "every reading of the pair arrives 30 min late",
        "figures catch up; the alarm is late, not lost",
    ),
    "swapped": Fault(
        "the meters of these pairs are mixed up",
        "DC exceeds AC at one, AC without DC at another",
        least=2,
    ),
}

#: For `--faults default`, in the order of importance: a small fleet gets the first ones.
DEFAULT_MIX = "degraded=2,standby=1,reset=1,silent=1,offline-gap=1,duplicates=1,late=1"
#: Not a fault of a pair: this many single readings that the API must refuse.
INVALID = "invalid"


def parse_mix(text: str, vehicles: int) -> dict[str, int]:
    """Pairs per fault, of "none", "default" or "degraded=2,reset=1".

    Raises ValueError when a fault is unknown or the fleet is too small for all.
    """
    if text == "none":
        return {}
    if text == "default":
        return _first_of(parse_mix(DEFAULT_MIX, vehicles=len(FAULTS) * 10), vehicles // 2)
    mix = {}
    for part in text.split(","):
        name, _, count = part.strip().partition("=")
        if name not in FAULTS and name != INVALID:
            known = ", ".join([*FAULTS, INVALID])
            raise ValueError(f"unknown fault {name!r}; known are {known}, or none, or default")
        if not count.isdecimal():
            raise ValueError(f"{part!r}: write {name}=NUMBER")
        mix[name] = int(count)
        if name in FAULTS and 0 < mix[name] < FAULTS[name].least:
            raise ValueError(f"{name} needs at least {FAULTS[name].least} pairs")
    planted = sum(count for name, count in mix.items() if name in FAULTS)
    if planted > vehicles:
        raise ValueError(f"{planted} pairs with faults, but only {vehicles} in the fleet")
    return mix


def _first_of(mix: dict[str, int], pairs: int) -> dict[str, int]:
    """The mix cut down to so many pairs, one of each fault before two of any."""
    cut = dict.fromkeys(mix, 0)
    for turn in range(max(mix.values())):
        for name in (name for name, count in mix.items() if count > turn):
            if sum(cut.values()) < pairs:
                cut[name] += 1
    return {name: count for name, count in cut.items() if count}


def assign(mix: Mapping[str, int], numbers: range, seed: int) -> dict[int, str]:
    """Which pair has which fault, by the pair's number."""
    names = [name for name, count in mix.items() if name in FAULTS for _ in range(count)]
    chosen = random.Random(f"{seed}/faults").sample(numbers, len(names))
    return dict(zip(chosen, names, strict=True))


def faulty_knobs(fault: str | None, knobs: Knobs) -> Knobs:
    """The knobs as the fault turns them; most faults leave them alone."""
    if fault == "degraded":
        return replace(knobs, eta_c=knobs.eta_c - DEGRADED_ETA)
    if fault == "standby":
        return replace(knobs, standby_w=STANDBY_FAULT_W)
    return knobs


class Turned:
    """A life that follows `before`, and from a block on `after`, without a step in a register."""

    def __init__(self, before: Life, after: Life, from_block: int) -> None:
        """`from_block` counts blocks since the epoch."""
        self.before, self.after, self.from_block = before, after, from_block
        old, new = before.block(from_block), after.block(from_block)
        self.shift = (old.ac_j[0] - new.ac_j[0], old.dc_j[0] - new.dc_j[0])

    def block(self, number: int) -> Block:
        """Ten minutes, the `number`-th since the epoch."""
        if number < self.from_block:
            return self.before.block(number)
        return self.after.block(number).shifted(*self.shift)


class MeterReset:
    """A life whose meter starts again at 0 with a block."""

    def __init__(self, life: Life, at_block: int) -> None:
        """`at_block` counts blocks since the epoch."""
        self.life, self.at_block = life, at_block
        self.lost_j = life.block(at_block).ac_j[0]

    def block(self, number: int) -> Block:
        """Ten minutes, the `number`-th since the epoch."""
        block = self.life.block(number)
        return block.shifted(-self.lost_j, 0) if number >= self.at_block else block


def invalid_lines(meter_id: str, vehicle_id: str, stamp: str) -> list[tuple[str, str]]:
    """Readings that the API must refuse, as (kind, JSON text): each breaks one rule."""
    meter = '{"meterId":"%s","kwhConsumedAc":%s,"voltage":%s,"timestamp":"%s"}'
    vehicle = '{"vehicleId":"%s","soc":%s,"kwhDeliveredDc":%s,"batteryTemp":21,"timestamp":"%s"}'
    return [
        ("meter", meter % (meter_id, -1, 230, stamp)),
        ("vehicle", vehicle % (vehicle_id, 140, 98, stamp)),
        ("meter", meter % (meter_id, 98, 5000, stamp)),
        ("vehicle", vehicle % (vehicle_id, 55, '"many"', stamp)),
        ("meter", meter % (meter_id, 98, 230, "2100-01-01T00:00:00Z")),
        ("vehicle", vehicle % (vehicle_id, 55, 98, stamp.removesuffix("Z"))),
        ("meter", f'{{"meterId":"{meter_id}","kwhConsumedAc":98,"voltage":230}}'),
    ]
