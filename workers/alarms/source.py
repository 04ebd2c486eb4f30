"""What the rules are given: evidence from stored rows, thresholds from the settings."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from functools import lru_cache

import settings
from models.episodes import DayRow, EpisodeRow
from workers.alarms.evaluation import Day, Episode
from workers.alarms.thresholds import DEFAULTS, Thresholds


def in_force() -> Thresholds:
    """The thresholds as the settings say."""
    chosen = settings.load()
    return _thresholds(
        chosen.alarm_floor_pct, chosen.alarm_drop_pts, chosen.alarm_cusum_k, chosen.alarm_cusum_h
    )


@lru_cache(maxsize=1)  # asked for with every summary that is read
def _thresholds(floor_pct: float, drop_pts: float, cusum_k: float, cusum_h: float) -> Thresholds:
    return DEFAULTS.changed(
        floor=floor_pct / 100, drop_pts=drop_pts, cusum_k=cusum_k, cusum_h=cusum_h
    )


def as_episode(row: EpisodeRow) -> Episode:
    """A stored episode as the rules take it."""
    return Episode(
        started_at=row.started_at,
        ended_at=row.ended_at,
        ac_kwh=row.ac_kwh,
        dc_kwh=row.dc_kwh,
        efficiency=row.efficiency,
        efficiency_low=row.efficiency_low,
        efficiency_high=row.efficiency_high,
        raw_ratio=row.raw_ratio,
        confidence=row.confidence,
        charging_hours=row.charging_hours,
        avg_ac_power_kw=row.avg_ac_power_kw,
        battery_temp_min_c=row.battery_temp_min_c,
        meter_id=row.meter_id,
    )


def as_day(row: DayRow) -> Day:
    """A stored day as the rules take it; a day's events are those of both registers."""
    events = dict(row.ac_events)
    for name, count in row.dc_events.items():
        events[name] = events.get(name, 0) + count
    ended = datetime.combine(row.day, time.min, UTC) + timedelta(days=1)
    return Day(
        day=row.day,
        ended_at=ended,
        ac_kwh=row.ac_kwh,
        dc_kwh=row.dc_kwh,
        idle_ac_kwh=row.idle_ac_kwh,
        idle_hours=row.idle_hours,
        events=events,
    )
