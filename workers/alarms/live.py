"""A8 and A10: conditions of the present, with delays against flutter. Pure: `now` is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from workers.alarms import rules
from workers.alarms.spans import MANUAL, RECOVERED, Evidence, Span
from workers.alarms.thresholds import Thresholds


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition from when it began: it opens after its on-delay, ends after its off-delay."""

    rule: str
    began_at: datetime
    seen_at: datetime
    value: float
    threshold: float
    opened_at: datetime | None = None
    ok_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look shows: a breach (since when), that all is well (since when), or neither."""

    rule: str
    value: float
    threshold: float
    breach_since: datetime | None = None
    well_since: datetime | None = None


def stream_sight(
    limits: Thresholds,
    *,
    last_at: datetime,
    interval_seconds: float | None,
    partner_moved: bool,
    now: datetime,
) -> Sight:
    """A8: one side is silent for longer than is usual, while the other's counter goes on."""
    allowed = max(limits.stale_min_seconds, limits.stale_intervals * (interval_seconds or 0.0))
    silence = (now - last_at).total_seconds()
    if silence <= allowed:
        return Sight(rules.STREAM, silence, allowed, well_since=last_at)
    began = last_at + timedelta(seconds=allowed)
    return Sight(rules.STREAM, silence, allowed, breach_since=began if partner_moved else None)


def skew_sight(limits: Thresholds, *, skew_seconds: float, now: datetime) -> Sight:
    """A10: a side's clock is off."""
    size, limit = abs(skew_seconds), limits.skew_seconds
    return Sight(
        rules.SKEW,
        size,
        limit,
        breach_since=now if size > limit else None,
        well_since=now if size < limits.skew_clear_seconds else None,
    )


def step(
    limits: Thresholds, before: Condition | None, sight: Sight, now: datetime
) -> Condition | None:
    """The condition after one more look; None when there is none (any more)."""
    on, off = _delays(limits, sight.rule)
    if sight.breach_since is not None:
        held = before or Condition(
            sight.rule, sight.breach_since, now, sight.value, sight.threshold
        )
        due = held.began_at + on
        if held.opened_at is None and now >= due:
            return replace(
                held, opened_at=due, seen_at=now, value=sight.value, threshold=sight.threshold
            )
        return replace(held, ok_at=None)
    if before is None or sight.well_since is None:
        return before
    if before.opened_at is None:
        return None  # over before its on-delay: flutter
    ok_at = before.ok_at or max(sight.well_since, before.opened_at)
    ended = ok_at + off if now >= ok_at + off else None
    return replace(before, ok_at=ok_at, ended_at=ended)


def span_of(condition: Mapping[str, Any], resolved: Sequence[datetime] = ()) -> Span:
    """The span of a stored condition that has opened.

    `resolved`: when people resolved alarms of its rule; a condition they closed stays closed.
    """
    seen = Evidence(condition["seen_at"], condition["value"], condition["threshold"], breach=True)
    ended: datetime | None = condition["ended_at"]
    opened: datetime = condition["opened_at"]
    closed = min(
        (at for at in resolved if at >= opened and (not ended or at < ended)), default=None
    )
    return Span(
        rule=condition["rule"],
        opened_at=opened,
        since=condition["began_at"],
        severity="warning",
        evidence=(seen,),
        avoidable_kwh=0.0,
        cleared_at=closed or ended,
        cleared_by=MANUAL if closed else (RECOVERED if ended else None),
    )


def _delays(limits: Thresholds, rule: str) -> tuple[timedelta, timedelta]:
    if rule == rules.STREAM:
        seconds = limits.stale_on_seconds, limits.stale_off_seconds
    else:
        seconds = limits.skew_on_seconds, limits.skew_off_seconds
    return timedelta(seconds=seconds[0]), timedelta(seconds=seconds[1])
