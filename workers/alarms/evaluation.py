"""What is judged: qualified evaluations, each with fresh energy of its own.

A rolling window looked at every minute is the same evidence 1,440 times. Here each finished
charging episode counts once; short ones are merged until they weigh enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from workers.alarms.thresholds import EPSILON, Thresholds

#: The least confidence of an evaluation, and how wide its bounds may be when it was merged.
GOOD_ENOUGH = ("high", "medium")
MERGED_MAX_WIDTH = 0.06
#: An episode of less AC energy is of low confidence for its size alone, which merging heals.
SMALL_KWH = 2.0
#: A session whose battery was colder than this spends energy on heating: normal, not a fault.
COLD_BELOW_C = 5.0


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished charging episode over [started_at, ended_at), idle to idle."""

    started_at: datetime
    ended_at: datetime
    ac_kwh: float | None
    dc_kwh: float | None
    efficiency: float | None
    efficiency_low: float | None
    efficiency_high: float | None
    raw_ratio: float | None
    confidence: str
    charging_hours: float
    avg_ac_power_kw: float | None = None
    battery_temp_min_c: float | None = None
    meter_id: str | None = None


@dataclass(frozen=True, slots=True)
class Day:
    """A finished UTC day of a vehicle."""

    day: date
    ended_at: datetime
    ac_kwh: float | None
    dc_kwh: float | None
    idle_ac_kwh: float | None
    idle_hours: float
    events: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One or more episodes with enough energy to say something. Efficiencies are fractions."""

    started_at: datetime
    at: datetime
    ac_kwh: float
    dc_kwh: float
    efficiency: float
    low: float
    high: float
    charging_hours: float
    power_kw: float | None
    cold_degrees: float
    meter_id: str | None


def qualified(episodes: Iterable[Episode], limits: Thresholds) -> list[Evaluation]:
    """The qualified evaluations in `episodes`, oldest first; the order of the input is nothing."""
    found: list[Evaluation] = []
    pending: list[Episode] = []
    for episode in in_order(episodes):
        if not _usable(episode):
            continue
        if pending and _other_meter(pending[-1], episode):
            pending = []  # two meters' energy is no one's efficiency
        pending.append(episode)
        merged = _merge(pending)
        too_soon = found and merged.at - found[-1].at < timedelta(hours=limits.min_hours_between)
        if merged.ac_kwh < limits.min_evaluation_kwh - EPSILON or too_soon:
            continue
        if _good_enough(pending, merged):
            found.append(merged)
        pending = []
    return found


def in_order(episodes: Iterable[Episode]) -> list[Episode]:
    """By time, each start once (what is told twice is the same episode)."""
    by_start = {episode.started_at: episode for episode in episodes}
    return [by_start[start] for start in sorted(by_start)]


def _usable(episode: Episode) -> bool:
    """Whether it has an efficiency that is doubtful for its small energy at the most."""
    if episode.efficiency is None or not episode.ac_kwh or episode.dc_kwh is None:
        return False
    return episode.confidence in GOOD_ENOUGH or (
        episode.confidence == "low" and episode.ac_kwh < SMALL_KWH
    )


def _other_meter(one: Episode, other: Episode) -> bool:
    return None not in (one.meter_id, other.meter_id) and one.meter_id != other.meter_id


def _good_enough(parts: Sequence[Episode], merged: Evaluation) -> bool:
    if len(parts) == 1:
        return parts[0].confidence in GOOD_ENOUGH
    return merged.high - merged.low <= MERGED_MAX_WIDTH + EPSILON


def _merge(parts: Sequence[Episode]) -> Evaluation:
    ac = sum(part.ac_kwh or 0.0 for part in parts)
    dc = sum(part.dc_kwh or 0.0 for part in parts)
    hours = sum(part.charging_hours for part in parts)
    temperatures = [t for part in parts if (t := part.battery_temp_min_c) is not None]
    powers = [part.avg_ac_power_kw for part in parts]
    return Evaluation(
        started_at=parts[0].started_at,
        at=parts[-1].ended_at,
        ac_kwh=ac,
        dc_kwh=dc,
        efficiency=dc / ac,
        low=_weighted(parts, [part.efficiency_low for part in parts]),
        high=_weighted(parts, [part.efficiency_high for part in parts]),
        charging_hours=hours,
        power_kw=powers[0] if len(parts) == 1 and powers[0] else (ac / hours if hours else None),
        cold_degrees=max(0.0, COLD_BELOW_C - min(temperatures)) if temperatures else 0.0,
        meter_id=next((part.meter_id for part in parts if part.meter_id), None),
    )


def _weighted(parts: Sequence[Episode], bounds: Sequence[float | None]) -> float:
    """The mean of bounds by AC energy; where a bound is unknown, the efficiency stands for it."""
    total = sum(part.ac_kwh or 0.0 for part in parts)
    return (
        sum(
            (part.ac_kwh or 0.0) * (bound if bound is not None else part.efficiency or 0.0)
            for part, bound in zip(parts, bounds, strict=True)
        )
        / total
    )
