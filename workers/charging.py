"""What the vehicle did meanwhile: charging or idle, in steps of five minutes (domain rule 2.8).

A step in which the battery took more than 0.2 kW is charging, any other idle. AC energy in idle
steps is what standby, leakage and preconditioning cost; the rest of the loss is the conversion's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from models.clock import HOUR_US
from workers.energy import Span
from workers.timeline import BORDER_US

#: Mean DC power above which a step is charging, kW.
CHARGING_KW = 0.2
#: Idle steps (15 minutes) that end a session: a shorter pause is part of it.
PAUSE_US = 3 * BORDER_US


class Step(NamedTuple):
    """Up to five minutes between two borders: the energy of both sides, and whether it charged."""

    span: Span
    ac_kwh: float
    dc_kwh: float
    charging: bool


class Split(NamedTuple):
    """A window by what the vehicle did."""

    charging_ac_kwh: float
    charging_dc_kwh: float
    charging_hours: float
    charging_sessions: int
    idle_ac_kwh: float
    idle_hours: float


def borders(span: Span) -> list[int]:
    """The span's ends and all five-minute borders (of the UTC clock) between them, µs."""
    first = span.from_us // BORDER_US * BORDER_US + BORDER_US
    return [span.from_us, *range(first, span.to_us, BORDER_US), span.to_us]


def steps(instants: Sequence[int], ac_kwh: Sequence[float], dc_kwh: Sequence[float]) -> list[Step]:
    """The steps between `instants`, from both sides' registers at each of them."""
    return [
        Step(Span(a, b), ac_b - ac_a, dc_b - dc_a, dc_b - dc_a > CHARGING_KW * (b - a) / HOUR_US)
        for (a, b), (ac_a, ac_b), (dc_a, dc_b) in zip(
            pairwise(instants), pairwise(ac_kwh), pairwise(dc_kwh), strict=True
        )
    ]


def sessions(steps: Sequence[Step]) -> list[Span]:
    """When the vehicle charged, each from its first charging step to the end of its last."""
    found: list[Span] = []
    for step in steps:
        if not step.charging:
            continue
        if found and step.span.from_us - found[-1].to_us < PAUSE_US:
            found[-1] = Span(found[-1].from_us, step.span.to_us)
        else:
            found.append(step.span)
    return found


def split(steps: Sequence[Step]) -> Split:
    """The energy and the hours of charging and of idling."""
    charging = [step for step in steps if step.charging]
    idle = [step for step in steps if not step.charging]
    return Split(
        sum(step.ac_kwh for step in charging),
        sum(step.dc_kwh for step in charging),
        _hours(charging),
        len(sessions(steps)),
        sum(step.ac_kwh for step in idle),
        _hours(idle),
    )


def _hours(steps: Sequence[Step]) -> float:
    return sum(step.span.to_us - step.span.from_us for step in steps) / HOUR_US
