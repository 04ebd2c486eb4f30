"""Writing in the book of alarms: by the rules (workers/watch.py) and by people (web/alarms.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from models import alarms, standing
from workers.alarms import lifecycle
from workers.alarms.announce import announce
from workers.alarms.reconcile import Change, Draft
from workers.alarms.spans import MANUAL, RECOVERED


def apply(
    conn: Connection, change: Change, subject: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write one change, its history and its announcements; the alarm's row after it."""
    if change.alarm_id is None:
        assert subject is not None  # noqa: S101  (a new alarm is about somebody)
        before = alarms.newest_id(conn, subject["vehicle_key"], change.rule)
        named = {"rule": change.rule, "reopened_from": before}
        row = alarms.add(conn, {**change.fields, **subject, **named})
    else:
        row = alarms.change(conn, change.alarm_id, change.fields)
    alarms.add_transitions(conn, [{"alarm_id": row["id"], **asdict(s)} for s in change.steps])
    for step in change.steps:
        announce(conn, row, step)
    standing.show(conn, row["vehicle_key"])
    return row


def act(
    conn: Connection,
    row: Mapping[str, Any],
    action: str,
    *,
    who: str,
    note: str | None,
    now: datetime,
    until: datetime | None = None,
) -> dict[str, Any]:
    """What a person does with a (locked) alarm; its row after it. Raises NotPossible.

    `until` is when a shelf ends.
    """
    draft = Draft(row)
    target = draft.act(action, now, who, note)
    if action == lifecycle.ACKNOWLEDGE:
        draft.set(acknowledged_at=now, acknowledged_by=who, acknowledged_note=note)
    elif action == lifecycle.SHELVE:
        draft.set(shelved_until=until, shelved_by=who, shelved_note=note, suppressed_reason=None)
    elif action == lifecycle.UNSHELVE:
        draft.set(shelved_until=None, shelved_by=None, shelved_note=None)
    if target == lifecycle.RESOLVED:
        by_hand = action == lifecycle.RESOLVE
        draft.resolved(now, MANUAL if by_hand else RECOVERED, who, note)
        draft.set(returned_at=row["returned_at"] or now)
    return apply(conn, draft.change)
