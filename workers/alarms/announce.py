"""Telling others: every transition of an alarm is an event, in the transaction that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection

from models import webhooks
from workers.alarms.lifecycle import RAISE, RESOLVED, RETURN, past_tense
from workers.alarms.public import shown
from workers.alarms.reconcile import Step
from workers.metrics import ALARM_TRANSITIONS

log = structlog.get_logger(__name__)


def event_type(step: Step) -> str:
    """alarm.opened, alarm.reopened, alarm.returned, alarm.acknowledged, alarm.resolved, ..."""
    if step.action == RAISE:
        return "alarm.opened" if step.from_state is None else "alarm.reopened"
    if step.to_state == RESOLVED:
        return "alarm.resolved"
    if step.action == RETURN:
        return "alarm.returned"
    if step.action in {"stale", "renotify"}:
        return {"stale": "alarm.stale", "renotify": "alarm.renotified"}[step.action]
    return f"alarm.{past_tense(step.action)}"


def announce(conn: Connection, alarm: Mapping[str, Any], step: Step) -> None:
    """Tell of one transition of `alarm` (its row after the change)."""
    kind = event_type(step)
    transition = {"at": step.at, "who": step.who, "note": step.note, "from": step.from_state}
    payload = {"alarm": shown(alarm), "transition": {**transition, "to": step.to_state}}
    ALARM_TRANSITIONS.labels(alarm["rule"], kind).inc()
    _deliver(
        conn,
        fleet_id=alarm["fleet_id"],
        event_type=kind,
        subject=alarm["vehicle_id"],
        payload=msgspec.to_builtins(payload),  # JSON and nothing else: instants are text
    )


def _deliver(
    conn: Connection, *, fleet_id: int, event_type: str, subject: str, payload: Mapping[str, Any]
) -> None:
    """The log is the receiver that is always there; the fleet's webhooks hear of it as well."""
    log.info(
        "alarm",
        fleet_id=fleet_id,
        event_type=event_type,
        vehicle_id=subject,
        **{name: payload["alarm"][name] for name in ("id", "rule", "severity", "state")},
    )
    webhooks.enqueue(
        conn, fleet_id=fleet_id, event_type=event_type, subject=subject, payload=payload
    )
