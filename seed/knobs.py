"""What may be turned on one pair of car and charge point, and how a fleet's pairs are drawn.

The loss model is P_dc = eta_c * P_ac - P_aux. The four cars were fitted to pairs of efficiencies
that ADAC measured on a 2.3 kW socket and an 11 kW wallbox in 2022.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

from seed.sessions_data import AC_SHAPES, DC_SHAPES, SessionShape, on_ladder

JOULES_PER_KWH = 3_600_000

#: Share of pairs at a DC fast charger; the others charge AC.
DC_SHARE = 0.2
#: Usable batteries, kWh.
BATTERIES_KWH = (52, 58, 64, 77, 82, 100)
#: Charge limits that drivers choose, percent.
LIMITS_PCT = (80, 85, 90, 100)
#: Draw of a charge point that nobody uses, watts.
STANDBY_W = (2, 15)
#: Registers at the epoch, kWh.
START_KWH = (1_500.0, 9_000.0)
#: How far an individual car is from its model: points of eta_c, share of P_aux (at most).
ETA_SPREAD, AUX_SPREAD = 0.006, 0.1


class Car(NamedTuple):
    """A car model's fitted losses: eta_c (0..1) and P_aux (watts)."""

    eta_c: float
    p_aux_w: int


ZOE, MODEL_3 = Car(0.941, 422), Car(0.943, 218)
ID_3, FIAT_500E = Car(0.922, 134), Car(0.954, 186)
CARS = (MODEL_3, ID_3, FIAT_500E)
#: The Zoe's charger works on three phases; on one it would lose a quarter.
THREE_PHASE_CARS = (*CARS, ZOE)


@dataclass(frozen=True, slots=True)
class Knobs:
    """One pair of car and charge point; what may be turned."""

    shape: SessionShape
    #: Peak AC power while charging, watts.
    peak_w: int
    #: Usable battery, watt-hours.
    battery_wh: int
    #: State of charge at which the driver's limit ends a session, percent.
    limit_pct: int
    #: Draw of the charge point itself, always, watts.
    standby_w: int
    #: Share of AC power that conversion lets through, and what the car's electronics take off it.
    eta_c: float
    p_aux_w: int
    #: Mains voltage without load, and its sag at peak power, volts.
    mains_v: float
    sag_v: float
    #: Battery warming after long charging at peak power, kelvin.
    warming_k: float
    #: Registers at the epoch, joules.
    meter_start_j: int
    vehicle_start_j: int

    def dc_watts(self, ac_watts: int) -> int:
        """Power that reaches the battery of `ac_watts` from the charge point, watts."""
        return max(0, int(self.eta_c * ac_watts) - self.p_aux_w)


def draw_knobs(rng: random.Random) -> Knobs:
    """One pair of a believable fleet."""
    shapes = DC_SHAPES if rng.random() < DC_SHARE else AC_SHAPES
    shape = rng.choices(shapes, [shape.sessions for shape in shapes])[0]
    car = rng.choice(THREE_PHASE_CARS if shape is AC_SHAPES[-1] else CARS)
    fast = shapes is DC_SHAPES
    # Four of five sessions must find room below the lowest charge limit.
    least_kwh = shape.energy_kwh[-3] / 0.75
    return Knobs(
        shape=shape,
        peak_w=int(1000 * on_ladder(shape.peak_kw, rng.random())),
        battery_wh=1000 * rng.choice([kwh for kwh in BATTERIES_KWH if kwh >= least_kwh]),
        limit_pct=rng.choice(LIMITS_PCT),
        standby_w=rng.randint(*STANDBY_W),
        eta_c=car.eta_c + rng.uniform(-ETA_SPREAD, ETA_SPREAD),
        p_aux_w=int(car.p_aux_w * rng.uniform(1 - AUX_SPREAD, 1 + AUX_SPREAD)),
        mains_v=rng.uniform(228.0, 233.0),
        sag_v=rng.uniform(1.5, 6.0),
        warming_k=rng.uniform(14.0, 24.0) if fast else rng.uniform(2.0, 6.0),
        meter_start_j=int(JOULES_PER_KWH * rng.uniform(*START_KWH)),
        vehicle_start_j=int(JOULES_PER_KWH * rng.uniform(*START_KWH)),
    )
