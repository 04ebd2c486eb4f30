"""A8 and A10: what the present shows, held against flutter."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import pytest

from tests.factories import at
from workers.alarms import live, rules
from workers.alarms.announce import event_type
from workers.alarms.live import Condition
from workers.alarms.reconcile import Step
from workers.alarms.thresholds import DEFAULTS


def clock(minutes: float) -> datetime:
    return at(12, minutes=minutes)


def skewed(sights: Iterable[tuple[float, float]]) -> Condition | None:
    """What becomes of looks at (minute, skew in s)."""
    condition: Condition | None = None
    for minute, seconds in sights:
        now = clock(minute)
        sight = live.skew_sight(DEFAULTS, skew_seconds=seconds, now=now)
        condition = live.step(DEFAULTS, condition, sight, now)
    return condition


def test_a_clock_must_be_off_for_half_an_hour() -> None:
    assert skewed([(0, 120)]) is None
    held = skewed([(0, 121), (29, -300)])
    assert held is not None
    assert (held.began_at, held.opened_at) == (clock(0), None)
    opened = skewed([(0, 121), (29, -300), (31, 200)])
    assert opened is not None
    assert (opened.opened_at, opened.value, opened.threshold) == (clock(30), 200, 120)


def test_a_clock_that_was_off_for_a_moment_is_flutter() -> None:
    assert skewed([(0, 121), (10, 59)]) is None
    held = skewed([(0, 121), (10, 100), (31, 121)])  # between the limits nothing changes
    assert held is not None
    assert held.opened_at == clock(30)


def test_a_clock_is_right_again_below_60_seconds() -> None:
    off = [(0.0, 200.0), (31.0, 200.0)]
    for seconds, ended in ((60, None), (59, clock(40)), (-59, clock(40))):
        condition = skewed([*off, (40, seconds)])
        assert condition is not None
        assert condition.ended_at == ended


@pytest.mark.parametrize(
    ("interval_seconds", "silent_minutes", "breach"),
    [(None, 15, False), (None, 16, True), (60, 16, True), (300, 49, False), (300, 51, True)],
)
def test_how_long_a_side_may_be_silent_depends_on_its_interval(
    interval_seconds: float | None, silent_minutes: float, breach: bool
) -> None:
    sight = live.stream_sight(
        DEFAULTS,
        last_at=clock(0),
        interval_seconds=interval_seconds,
        partner_moved=True,
        now=clock(silent_minutes),
    )
    assert (sight.breach_since is not None) == breach
    if breach:
        allowed = max(15, 10 * (interval_seconds or 0) / 60)
        assert sight.breach_since == clock(allowed)


def test_silence_beside_a_partner_that_stands_still_is_neither_wrong_nor_right() -> None:
    sight = live.stream_sight(
        DEFAULTS, last_at=clock(0), interval_seconds=60, partner_moved=False, now=clock(60)
    )
    assert (sight.breach_since, sight.well_since) == (None, None)
    known = Condition(rules.STREAM, clock(15), clock(30), 900, 900, opened_at=clock(30))
    assert live.step(DEFAULTS, known, sight, clock(60)) == known


def test_a_side_that_falls_silent_again_within_the_off_delay_has_not_returned() -> None:
    opened = Condition(rules.STREAM, clock(15), clock(30), 900, 900, opened_at=clock(30))
    well = live.Sight(rules.STREAM, 10, 900, well_since=clock(40))
    waiting = live.step(DEFAULTS, opened, well, clock(41))
    assert waiting is not None
    assert (waiting.ok_at, waiting.ended_at) == (clock(40), None)
    again = live.Sight(rules.STREAM, 901, 900, breach_since=clock(55))
    broken = live.step(DEFAULTS, waiting, again, clock(56))
    assert broken is not None
    assert broken.ok_at is None
    ended = live.step(DEFAULTS, waiting, well, clock(45))
    assert ended is not None
    assert ended.ended_at == clock(45)


def test_a_condition_that_was_closed_by_hand_stays_closed() -> None:
    row = {
        "rule": rules.STREAM,
        "began_at": clock(15),
        "seen_at": clock(30),
        "opened_at": clock(30),
        "ended_at": None,
        "value": 900.0,
        "threshold": 900.0,
    }
    assert live.span_of(row).cleared_at is None
    assert live.span_of(row, [clock(20)]).cleared_at is None  # of an earlier one
    closed = live.span_of(row, [clock(40), clock(50)])
    assert (closed.cleared_at, closed.cleared_by) == (clock(40), "manual")
    over = live.span_of(row | {"ended_at": clock(35)}, [clock(40)])
    assert (over.cleared_at, over.cleared_by) == (clock(35), "recovered")


# --- what others are told -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "from_state", "to_state", "told"),
    [
        ("raise", None, "open", "alarm.opened"),
        ("raise", "resolved", "open", "alarm.reopened"),
        ("return", "open", "rtn_unack", "alarm.returned"),
        ("return", "acknowledged", "resolved", "alarm.resolved"),
        ("acknowledge", "open", "acknowledged", "alarm.acknowledged"),
        ("acknowledge", "rtn_unack", "resolved", "alarm.resolved"),
        ("shelve", "open", "shelved", "alarm.shelved"),
        ("unshelve", "shelved", "open", "alarm.unshelved"),
        ("expire", "shelved", "open", "alarm.expired"),
        ("suppress", "open", "suppressed", "alarm.suppressed"),
        ("unsuppress", "suppressed", "open", "alarm.unsuppressed"),
        ("withdraw", "open", "resolved", "alarm.resolved"),
        ("resolve", "open", "resolved", "alarm.resolved"),
        ("stale", "open", "open", "alarm.stale"),
        ("renotify", "open", "open", "alarm.renotified"),
    ],
)
def test_each_transition_has_a_name(
    action: str, from_state: str | None, to_state: str, told: str
) -> None:
    step = Step(at(0) + timedelta(0), action, from_state, to_state)
    assert event_type(step) == told
