"""Judges what a refreshed hour shows beside plain rises, and hours that this changes in turn.

Most hours are plain and never come here. A suspect one is walked (workers/register.py) from the
last sample before it that nothing can change any more, to the first sample after it from which on
everything stands as it stood. The judgements are kept as events; each hour that holds a changed one
is refreshed once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from models import events, hours, ratings
from models.clock import HOUR_US, from_us, to_us
from models.events import Judged, Raw
from models.kinds import Kind
from models.ratings import Rating
from workers.energy import Sample
from workers.register import Point, State, walk

#: Samples read at first; doubled while nothing settles.
PAGE = 128
ONE_HOUR = timedelta(hours=1)
_BEGIN = datetime.min.replace(tzinfo=UTC)


def refresh(
    conn: Connection, kind: Kind, touched: Sequence[tuple[int, datetime]]
) -> set[tuple[int, datetime]]:
    """Bring the hourly rows of these (device key, hour) up to date, judgements included.

    Returns further ones that say something else now, because samples in them are judged otherwise.
    """
    if not touched:
        return set()
    hours.refresh(conn, kind, touched)
    suspects = events.suspects(conn, kind, touched)
    rated = ratings.read(conn, kind, {device_key for device_key, _ in suspects})
    stale: set[tuple[int, datetime]] = set()
    for device_key, hour in suspects:
        changed = _judge_hour(conn, kind, device_key, hour, rated[device_key])
        stale |= {(device_key, from_us(to_us(at) // HOUR_US * HOUR_US)) for at in changed}
    hours.refresh(conn, kind, sorted(stale))
    return stale.difference(touched)


def _judge_hour(
    conn: Connection, kind: Kind, device_key: int, hour: datetime, rating: Rating
) -> set[datetime]:
    """Walk the hour and what it touches; the instants whose judgement changed."""
    state = _settled_state(conn, kind, device_key, hour)
    begin = from_us(state.at_us) if state else _BEGIN
    raw: list[Raw] = []
    page = PAGE
    while True:
        after = raw[-1].at if raw else begin
        found = events.samples_after(conn, kind, device_key, after, page)
        raw += found
        steps = list(walk(state, [Sample(to_us(r.at), r.kwh) for r in raw], rating))
        settled = _settled_at(raw, steps, hour + ONE_HOUR)
        if settled is not None or len(found) < page:
            break
        page *= 2
    walked = list(zip(raw, steps, strict=True))[:settled]
    judged, previous = [], state
    for sample, (now, point) in walked:
        if point.special and previous:
            judged.append(_judged(sample.at, previous, now, point))
        previous = now
    end = walked[-1][0].at if walked else begin
    return events.replace(conn, kind, device_key, (begin, end), judged)


def _settled_at(
    raw: Sequence[Raw], steps: Sequence[tuple[State, Point]], end: datetime
) -> int | None:
    """How many samples must be walked: to the first one past `end` that is plain, as it was before.

    From a plain sample on, nothing depends on what was before it. None when there is none yet.
    """
    for index, (sample, (_, point)) in enumerate(zip(raw, steps, strict=True)):
        if sample.at >= end and sample.dropped is None and not point.special:
            return index + 1
    return None


def _settled_state(conn: Connection, kind: Kind, device_key: int, hour: datetime) -> State | None:
    """The state after the newest sample before `hour` that is plain, or judged for good.

    Not the nearest judged one: the sample that follows it may be another now.
    None when there is none: the register begins here.
    """
    before, nearest = hour, True
    while page := events.samples_before(conn, kind, device_key, before, PAGE):
        for raw in page:
            if raw.dropped is None:
                return State(to_us(raw.at), raw.kwh, raw.kwh)
            if raw.final and not raw.dropped and raw.high_kwh is not None and not nearest:
                return State(to_us(raw.at), raw.kwh, raw.high_kwh)
            nearest = False
        before = page[-1].at
    return None


def _judged(at: datetime, before: State, after: State, point: Point) -> Judged:
    difference_kwh = after.kwh - before.kwh  # none when dropped: the state stays
    return Judged(
        at,
        point.event,
        point.dropped,
        point.energy_kwh,
        after.high_kwh,
        point.energy_kwh - difference_kwh,
        point.uncertain_kwh,
        point.final,
    )
