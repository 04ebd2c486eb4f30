"""Outgoing webhooks: who wants to hear of what, what happened, and which delivery stands where.

A transactional outbox: `enqueue` writes the event and its deliveries in the caller's transaction,
so an event exists exactly when what it tells of was committed. `lease` hands deliveries out: it
moves their next attempt into the future and counts the attempt, so one whose worker was killed
comes back by itself. A delivery may thus be made twice; the event id tells the receiver.
"""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Connection,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Row,
    Select,
    Text,
    UniqueConstraint,
    Uuid,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Instant, Name
from models.registry import Fleet

#: How a secret begins, by the Standard Webhooks specification.
SECRET_PREFIX = "whsec_"  # noqa: S105  (a prefix, not a secret)
SECRET_BYTES = 32
#: Endpoints a fleet may have: each event becomes a request to every one of them.
MAX_ENDPOINTS_PER_FLEET = 20
PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"
#: Longest `last_error` kept.
MAX_ERROR_CHARS = 300


class TooMany(Exception):
    """The fleet has as many endpoints as it may."""


class Disabled(Exception):  # noqa: N818  (a verdict, not a defect)
    """The endpoint said 410 Gone and gets nothing any more."""


class WebhookEndpoint(Base):
    """An address of a fleet's that wants to hear of events."""

    __tablename__ = "webhook_endpoints"
    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    fleet_id: Mapped[int] = mapped_column(ForeignKey("fleets.id"), index=True)
    url: Mapped[Name]
    #: As it was shown, `whsec_...`: signing needs the secret itself, a hash would not do.
    secret: Mapped[Name]
    #: Types wanted; null is all.
    event_types: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    created_at: Mapped[Instant] = mapped_column(server_default=func.now())
    #: It answered 410 Gone.
    disabled_at: Mapped[Instant | None]
    #: Nothing is sent before this instant: it was in trouble a moment ago.
    quiet_until: Mapped[Instant | None]


class WebhookEvent(Base):
    """Something that happened to a fleet; its id is the same in every delivery of it."""

    __tablename__ = "webhook_events"
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    fleet_id: Mapped[int] = mapped_column(ForeignKey("fleets.id"))
    type: Mapped[Name]
    #: What it is about, e.g. a vehicle's id.
    subject: Mapped[Name]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[Instant] = mapped_column(server_default=func.now(), index=True)


class WebhookDelivery(Base):
    """One event on its way to one endpoint."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "endpoint_id"),
        CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state"),
        Index(
            "webhook_deliveries_due_idx",
            "endpoint_id",
            "next_attempt_at",
            postgresql_where=text("state = 'pending'"),
        ),
        Index("webhook_deliveries_newest_idx", "endpoint_id", "id"),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    event_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhook_events.id", ondelete="CASCADE"))
    endpoint_id: Mapped[int] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    state: Mapped[Name] = mapped_column(server_default=PENDING)
    #: Attempts begun; counted before the request, so one that kills its worker counts as well.
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    #: When it is due; while an attempt is under way, when it counts as failed.
    next_attempt_at: Mapped[Instant] = mapped_column(server_default=func.now())
    last_status_code: Mapped[int | None] = mapped_column(Integer)
    last_error: Mapped[Name | None]
    delivered_at: Mapped[Instant | None]


# --- what happened --------------------------------------------------------------------------------


def enqueue(
    conn: Connection,
    *,
    fleet_id: int,
    event_type: str,
    subject: str,
    payload: Mapping[str, Any],
) -> uuid.UUID:
    """Tell the fleet's endpoints that something happened; the event's id.

    Writes into the caller's transaction and sends nothing: the deliveries begin after its COMMIT,
    and a rollback takes the event back. `payload` must be plain JSON.
    """
    event_id = _write_event(conn, fleet_id, event_type, subject, payload)
    wanting = select(literal(event_id, Uuid), WebhookEndpoint.id).where(
        WebhookEndpoint.fleet_id == fleet_id,
        WebhookEndpoint.disabled_at.is_(None),
        or_(
            WebhookEndpoint.event_types.is_(None),
            WebhookEndpoint.event_types.contains([event_type]),
        ),
    )
    conn.execute(insert(WebhookDelivery).from_select(["event_id", "endpoint_id"], wanting))
    return event_id


def enqueue_test(conn: Connection, fleet_id: int, endpoint_id: int) -> uuid.UUID | None:
    """A `webhook.test` event for one endpoint, whatever types it wants; None when unknown.

    Raises Disabled.
    """
    if not _is_enabled(conn, fleet_id, endpoint_id):
        return None
    event_id = _write_event(
        conn, fleet_id, "webhook.test", str(endpoint_id), {"webhookId": endpoint_id}
    )
    conn.execute(insert(WebhookDelivery).values(event_id=event_id, endpoint_id=endpoint_id))
    return event_id


def _write_event(
    conn: Connection, fleet_id: int, event_type: str, subject: str, payload: Mapping[str, Any]
) -> uuid.UUID:
    event_id = uuid.uuid4()
    conn.execute(
        insert(WebhookEvent).values(
            id=event_id,
            fleet_id=fleet_id,
            type=event_type,
            subject=subject,
            payload=dict(payload),
        )
    )
    return event_id


# --- who wants to hear of it ----------------------------------------------------------------------

#: (id, url, event_types, created_at, disabled_at)
Endpoint = Row[int, str, list[str] | None, datetime, datetime | None]


def _endpoints(fleet_id: int) -> Select[int, str, list[str] | None, datetime, datetime | None]:
    return select(
        WebhookEndpoint.id,
        WebhookEndpoint.url,
        WebhookEndpoint.event_types,
        WebhookEndpoint.created_at,
        WebhookEndpoint.disabled_at,
    ).where(WebhookEndpoint.fleet_id == fleet_id)


def add_endpoint(
    conn: Connection, fleet_id: int, url: str, event_types: Collection[str] | None
) -> tuple[Endpoint, str]:
    """A new endpoint and its secret, which no list will show again. Raises TooMany."""
    # Two requests at once would both count 19: the fleet's row makes one wait. FOR NO KEY UPDATE
    # leaves the foreign keys of devices that register meanwhile alone.
    conn.execute(select(Fleet.id).where(Fleet.id == fleet_id).with_for_update(key_share=True))
    ours = select(func.count(WebhookEndpoint.id)).where(WebhookEndpoint.fleet_id == fleet_id)
    if conn.execute(ours).scalar_one() >= MAX_ENDPOINTS_PER_FLEET:
        raise TooMany
    secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    made = conn.execute(
        insert(WebhookEndpoint)
        .values(
            fleet_id=fleet_id,
            url=url,
            secret=secret,
            event_types=None if event_types is None else sorted(set(event_types)),
        )
        .returning(WebhookEndpoint.id)
    ).scalar_one()
    return conn.execute(_endpoints(fleet_id).where(WebhookEndpoint.id == made)).one(), secret


def endpoint(conn: Connection, fleet_id: int, endpoint_id: int) -> Endpoint | None:
    """The fleet's endpoint with this id."""
    return conn.execute(_endpoints(fleet_id).where(WebhookEndpoint.id == endpoint_id)).one_or_none()


def endpoints(conn: Connection, fleet_id: int, *, after: int, limit: int) -> Sequence[Endpoint]:
    """The fleet's endpoints by id."""
    query = _endpoints(fleet_id).where(WebhookEndpoint.id > after)
    return conn.execute(query.order_by(WebhookEndpoint.id).limit(limit)).all()


def remove_endpoint(conn: Connection, fleet_id: int, endpoint_id: int) -> bool:
    """Whether the fleet had such an endpoint; its deliveries are gone with it."""
    statement = delete(WebhookEndpoint).where(
        WebhookEndpoint.fleet_id == fleet_id, WebhookEndpoint.id == endpoint_id
    )
    return conn.execute(statement).rowcount == 1


def _is_enabled(conn: Connection, fleet_id: int, endpoint_id: int) -> bool:
    """Whether the fleet has this endpoint. Raises Disabled."""
    found = endpoint(conn, fleet_id, endpoint_id)
    if found is not None and found.disabled_at is not None:
        raise Disabled
    return found is not None


# --- which delivery stands where ------------------------------------------------------------------


_DELIVERY: tuple[Any, ...] = (
    WebhookDelivery.id,
    WebhookDelivery.event_id,
    WebhookEvent.type,
    WebhookEvent.subject,
    WebhookEvent.created_at,
    WebhookDelivery.state,
    WebhookDelivery.attempts,
    WebhookDelivery.next_attempt_at,
    WebhookDelivery.last_status_code,
    WebhookDelivery.last_error,
    WebhookDelivery.delivered_at,
)


def deliveries(
    conn: Connection, endpoint_id: int, *, before: int | None, limit: int
) -> Sequence[Row[Any]]:
    """An endpoint's deliveries, newest first. Uses index: webhook_deliveries_newest_idx."""
    query = (
        select(*_DELIVERY)
        .join(WebhookEvent, WebhookEvent.id == WebhookDelivery.event_id)
        .where(WebhookDelivery.endpoint_id == endpoint_id)
    )
    if before is not None:
        query = query.where(WebhookDelivery.id < before)
    return conn.execute(query.order_by(WebhookDelivery.id.desc()).limit(limit)).all()


def redeliver(conn: Connection, fleet_id: int, endpoint_id: int, event_id: uuid.UUID) -> bool:
    """Send an event again, with all its attempts before it; False when there is no such delivery.

    Raises Disabled.
    """
    if not _is_enabled(conn, fleet_id, endpoint_id):
        return False
    statement = (
        update(WebhookDelivery)
        .where(WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.event_id == event_id)
        .values(state=PENDING, attempts=0, next_attempt_at=func.now(), delivered_at=None)
    )
    return conn.execute(statement).rowcount == 1


@dataclass(frozen=True, slots=True)
class Leased:
    """A delivery that is this worker's to make, with all that making it needs."""

    delivery_id: int
    endpoint_id: int
    #: This attempt's number, from 1.
    attempt: int
    url: str
    secret: str
    event_id: uuid.UUID
    event_type: str
    subject: str
    payload: dict[str, Any]
    created_at: datetime


# One delivery per endpoint: a slow receiver holds up its own events and nobody else's. SKIP LOCKED
# under the LATERAL, so that two workers who look at the same moment find different rows.
_LEASE = text("""
    WITH due AS (
        SELECT d.id FROM webhook_endpoints e
        CROSS JOIN LATERAL (
            SELECT id, next_attempt_at FROM webhook_deliveries
            WHERE endpoint_id = e.id AND state = 'pending' AND next_attempt_at <= :now
            ORDER BY next_attempt_at, id LIMIT 1
            FOR UPDATE SKIP LOCKED
        ) d
        WHERE e.disabled_at IS NULL
          AND (e.quiet_until IS NULL OR e.quiet_until <= :now)
          AND e.id <> ALL (:busy)
        ORDER BY d.next_attempt_at, d.id
        LIMIT :limit
    )
    UPDATE webhook_deliveries d
    SET attempts = d.attempts + 1, next_attempt_at = :until
    FROM due, webhook_endpoints e, webhook_events v
    WHERE d.id = due.id AND e.id = d.endpoint_id AND v.id = d.event_id
    RETURNING d.id, d.endpoint_id, d.attempts, e.url, e.secret,
        v.id, v.type, v.subject, v.payload, v.created_at
""")


def lease(
    conn: Connection, now: datetime, *, until: datetime, busy: Collection[int], limit: int
) -> list[Leased]:
    """Up to `limit` due deliveries, one per endpoint that is not `busy`, oldest first.

    They are this worker's until `until`; then they are due again.
    """
    found = conn.execute(_LEASE, {"now": now, "until": until, "busy": list(busy), "limit": limit})
    return [Leased(*row) for row in found]


def settle_delivered(conn: Connection, leased: Leased, status_code: int, now: datetime) -> None:
    """The receiver has it: true also for a worker that had lost its lease."""
    # The endpoint before its deliveries, here and below: who settles two of one endpoint at a time
    # cannot deadlock.
    conn.execute(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id == leased.endpoint_id, WebhookEndpoint.quiet_until.is_not(None))
        .values(quiet_until=None)
    )
    conn.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == leased.delivery_id)
        .values(state=DELIVERED, last_status_code=status_code, last_error=None, delivered_at=now)
    )


def settle_failed(
    conn: Connection,
    leased: Leased,
    *,
    status_code: int | None,
    error: str,
    next_attempt_at: datetime | None,
    quiet_until: datetime | None,
) -> None:
    """The attempt failed; None as `next_attempt_at`: it was the last one.

    Changes nothing when the lease was lost: another attempt is under way, or succeeded already.
    """
    if quiet_until is not None:
        conn.execute(
            update(WebhookEndpoint)
            .where(WebhookEndpoint.id == leased.endpoint_id)
            .values(quiet_until=quiet_until)
        )
    values: dict[str, Any] = {
        "last_status_code": status_code,
        "last_error": error.replace("\0", "\\0")[:MAX_ERROR_CHARS],
    }
    if next_attempt_at is None:
        values["state"] = DEAD
    else:
        values["next_attempt_at"] = next_attempt_at
    conn.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == leased.delivery_id,
            WebhookDelivery.attempts == leased.attempt,
            WebhookDelivery.state == PENDING,
        )
        .values(**values)
    )


def settle_gone(
    conn: Connection, leased: Leased, *, status_code: int, error: str, now: datetime
) -> None:
    """The endpoint wants nothing any more: it is disabled, and what waits for it dies with it."""
    conn.execute(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id == leased.endpoint_id, WebhookEndpoint.disabled_at.is_(None))
        .values(disabled_at=now)
    )
    waiting = update(WebhookDelivery).where(
        WebhookDelivery.endpoint_id == leased.endpoint_id, WebhookDelivery.state == PENDING
    )
    this_one = WebhookDelivery.id == leased.delivery_id
    conn.execute(
        waiting.where(this_one).values(state=DEAD, last_status_code=status_code, last_error=error)
    )
    conn.execute(waiting.values(state=DEAD, last_error=error))


def oldest_due(conn: Connection, now: datetime) -> datetime | None:
    """Since when the longest waiting delivery could be made; None when none could.

    What waits for a receiver in trouble is that one's affair, not a sign of ours being slow.
    """
    due = (
        select(func.min(WebhookDelivery.next_attempt_at))
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .where(
            WebhookDelivery.state == PENDING,
            WebhookDelivery.next_attempt_at <= now,
            WebhookEndpoint.disabled_at.is_(None),
            func.coalesce(WebhookEndpoint.quiet_until, now) <= now,
        )
    )
    found: datetime | None = conn.execute(due).scalar_one()
    return found


def prune(conn: Connection, before: datetime, limit: int) -> int:
    """Forget up to `limit` events older than `before` that nobody waits for; how many."""
    # An event that was written while its endpoint was being disabled stays pending: nobody waits.
    waited_for = (
        select(WebhookDelivery.event_id)
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .where(
            WebhookDelivery.event_id == WebhookEvent.id,
            WebhookDelivery.state == PENDING,
            WebhookEndpoint.disabled_at.is_(None),
        )
    )
    old = (
        select(WebhookEvent.id)
        .where(WebhookEvent.created_at < before, ~waited_for.exists())
        .order_by(WebhookEvent.created_at)
        .limit(limit)
    )
    return conn.execute(delete(WebhookEvent).where(WebhookEvent.id.in_(old))).rowcount
