"""Delivers webhooks: what models/webhooks.py holds ready is signed and POSTed, until it arrives.

    lease (a short transaction) -> POST (no transaction, no lock) -> settle (a short transaction)

At least once: a worker that dies between POST and settle leaves a lease that runs out, and the
event is sent again under the same id. Each endpoint has one request under way per worker, and one
that is in trouble is left alone for a while, so a slow or dead receiver holds up its own events
only. The task has a queue and a worker of its own: it waits for strangers, which no roll-up should.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import msgspec
import psycopg
import structlog
from sqlalchemy.exc import OperationalError

import settings
from models import webhooks
from models.clock import rfc3339
from models.engine import transaction
from models.webhooks import Leased
from workers import webhook_target
from workers.celery import app
from workers.metrics import WEBHOOK_OLDEST_DUE_SECONDS, WEBHOOKS_SENT
from workers.webhook_post import Answer, PostFailed, post, signature
from workers.webhook_target import TargetRefused

log = structlog.get_logger(__name__)

#: Requests under way at once, each to another endpoint.
MAX_AT_ONCE = 16
#: A tick leases nothing new after this long; the next one goes on.
TICK_SECONDS = 60.0
#: Seconds between two looks for new work while requests are under way.
LOOK_SECONDS = 1.0
#: Longer than the longest attempt (a resolver may take half a minute): then it counts as lost.
LEASE = timedelta(seconds=90)
#: 10 s, 30 s, 90 s ... 6 h: twelve attempts in 27 hours outlast a night without anybody on call.
FIRST_DELAY_SECONDS, DELAY_FACTOR, MAX_DELAY_SECONDS = 10.0, 3, 6 * 3600.0
MAX_ATTEMPTS = 12
#: Share of a delay by which it varies: what failed together does not come back together.
JITTER = 0.1
#: Longest time an endpoint in trouble is left alone with its other events.
MAX_QUIET_SECONDS = 300.0
#: Events are kept this long for the delivery list.
KEEP = timedelta(days=30)
PRUNE_BITE = 10_000

_EXPECTED = (OperationalError, psycopg.OperationalError)


# No events: a tick every few seconds would bury everything else in Flower.
@app.task(name="deliver-webhooks", ignore_result=True, throws=_EXPECTED, send_events=False)
def deliver_webhooks() -> dict[str, int]:
    """Send what is due; the result tells how it went."""
    return deliver_due(lambda: datetime.now(UTC))


@app.task(name="prune-webhooks", ignore_result=True, throws=_EXPECTED)
def prune_webhooks() -> dict[str, int]:
    """Forget events that are older than the delivery list shows."""
    return {"pruned": prune(datetime.now(UTC))}


def prune(now: datetime) -> int:
    """Delete old events, in bites the statement timeout admits; how many."""
    pruned = 0
    while True:
        with transaction() as conn:
            bite = webhooks.prune(conn, now - KEEP, PRUNE_BITE)
        pruned += bite
        if bite < PRUNE_BITE:
            return pruned


def deliver_due(clock: Callable[[], datetime]) -> dict[str, int]:
    """Send what is due by `clock`, and what becomes due meanwhile, for up to TICK_SECONDS."""
    deadline = time.monotonic() + TICK_SECONDS
    outcomes = dict.fromkeys(("delivered", "failed", "dead"), 0)
    under_way: dict[Future[str], int] = {}
    with ThreadPoolExecutor(MAX_AT_ONCE, "webhook") as pool:
        while True:
            if time.monotonic() < deadline and len(under_way) < MAX_AT_ONCE:
                for leased in _lease(clock(), under_way):
                    under_way[pool.submit(_deliver, leased, clock)] = leased.endpoint_id
            if not under_way:
                break
            done, _ = wait(under_way, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                del under_way[future]
                outcomes[future.result()] += 1
    _observe(clock())
    return outcomes


def _lease(now: datetime, under_way: dict[Future[str], int]) -> list[Leased]:
    with transaction() as conn:
        return webhooks.lease(
            conn,
            now,
            until=now + LEASE,
            busy=set(under_way.values()),
            limit=MAX_AT_ONCE - len(under_way),
        )


def _deliver(leased: Leased, clock: Callable[[], datetime]) -> str:
    """One attempt, and what came of it: delivered, failed or dead."""
    answer: Answer | None = None
    try:
        answer = _attempt(leased, clock())
        error = _fault_of(answer)
    except TargetRefused as refused:
        error = f"TARGET_REFUSED: {refused}"
    except PostFailed as failed:
        error = str(failed)
    outcome = _settle(leased, answer, error, clock())
    WEBHOOKS_SENT.labels(outcome).inc()
    if error is not None:
        log.info(
            "webhook not delivered",
            endpoint=leased.endpoint_id,
            event_id=str(leased.event_id),
            attempt=leased.attempt,
            outcome=outcome,
            error=error,
        )
    return outcome


def _attempt(leased: Leased, now: datetime) -> Answer:
    # Judged at each attempt: the name may have moved since it was registered.
    target = webhook_target.parse(leased.url)
    allow_private = settings.load().webhook_allow_private
    addresses = webhook_target.resolve(target, allow_private=allow_private)
    body, message_id, timestamp = body_of(leased), str(leased.event_id), int(now.timestamp())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "energy-ingestion-engine",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(leased.secret, message_id, timestamp, body),
    }
    return post(target, addresses, body, headers)


def body_of(leased: Leased) -> bytes:
    """What is sent: the same bytes at every attempt."""
    return msgspec.json.encode(
        {
            "id": str(leased.event_id),
            "type": leased.event_type,
            "timestamp": rfc3339(leased.created_at),
            "subject": leased.subject,
            "data": leased.payload,
        }
    )


def _fault_of(answer: Answer) -> str | None:
    """Why an answer is no delivery; None when it is one."""
    if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return None
    if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
        return f"REDIRECT: answered {answer.status}; redirects are not followed"
    if answer.status == HTTPStatus.GONE:
        return "GONE: answered 410, the endpoint is disabled"
    return f"HTTP_STATUS: answered {answer.status}"


def _settle(leased: Leased, answer: Answer | None, error: str | None, now: datetime) -> str:
    status = answer.status if answer else None
    with transaction() as conn:
        if error is None and status is not None:
            webhooks.settle_delivered(conn, leased, status, now)
            return "delivered"
        if status == HTTPStatus.GONE:
            webhooks.settle_gone(
                conn, leased, status_code=HTTPStatus.GONE, error=error or "", now=now
            )
            return "dead"
        last = leased.attempt >= MAX_ATTEMPTS
        wait_seconds = _wait_seconds(leased.attempt, answer, now)
        webhooks.settle_failed(
            conn,
            leased,
            status_code=status,
            error=error or "",
            next_attempt_at=None if last else now + timedelta(seconds=wait_seconds),
            quiet_until=_quiet_until(status, wait_seconds, now),
        )
        return "dead" if last else "failed"


def delay_seconds(attempt: int) -> float:
    """How long after the failure of this attempt (from 1) the next is due, before jitter."""
    delay: float = FIRST_DELAY_SECONDS * DELAY_FACTOR ** (attempt - 1)
    return min(delay, MAX_DELAY_SECONDS)


def _wait_seconds(attempt: int, answer: Answer | None, now: datetime) -> float:
    jitter = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  (no secret in it)
    asked = retry_after_seconds(answer.retry_after, now) if answer else 0.0
    return max(delay_seconds(attempt) * jitter, asked)


def retry_after_seconds(header: str | None, now: datetime) -> float:
    """What a Retry-After asks for, in seconds or as a date: at most MAX_DELAY_SECONDS, else 0."""
    if header is None:
        return 0.0
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_DELAY_SECONDS)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0.0  # neither of the two forms: as if it were not there
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), MAX_DELAY_SECONDS)


def _quiet_until(status: int | None, wait_seconds: float, now: datetime) -> datetime | None:
    """Until when an endpoint in trouble is left alone; a refusal of one event is no trouble."""
    in_trouble = (
        status is None
        or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        or status == HTTPStatus.TOO_MANY_REQUESTS
    )
    return now + timedelta(seconds=min(wait_seconds, MAX_QUIET_SECONDS)) if in_trouble else None


def _observe(now: datetime) -> None:
    with transaction() as conn:
        since = webhooks.oldest_due(conn, now)
    WEBHOOK_OLDEST_DUE_SECONDS.set((now - since).total_seconds() if since else 0.0)
