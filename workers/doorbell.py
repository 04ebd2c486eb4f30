"""Rings for the flush: "there is work". A hint and nothing more: the sweep covers a lost one.

The door rings before it says 202, so a ring must be quick whatever the broker does: half a second
at the most, and after a lost one silence for a while, in which the sweep does the work.
"""

from __future__ import annotations

import time

import structlog
from kombu.exceptions import KombuError
from kombu.pools import producers

from models.kinds import Kind
from workers.celery import app
from workers.metrics import DOORBELLS_LOST

log = structlog.get_logger(__name__)

#: A doorbell nobody heard for this long is stale: the sweep has been there meanwhile.
EXPIRES_SECONDS = 5
#: The longest a broker that hangs may hold up a request.
TIMEOUT_SECONDS = 0.5
#: After a lost ring none is tried for this long.
SILENCE_SECONDS = 5.0

_PATIENCE = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
_silent_until = 0.0


def ring(kind: Kind) -> None:
    """Ask a worker to flush `kind`. Never raises: the reading is already safe in the stream."""
    if time.monotonic() < _silent_until:
        DOORBELLS_LOST.inc()
        return
    try:
        _publish(kind)
    except (KombuError, OSError) as error:  # the broker's trouble, or all connections in use
        _lost(kind, error)


def _publish(kind: Kind) -> None:
    connection = app.connection_for_write(transport_options=_PATIENCE)
    with producers[connection].acquire(block=True, timeout=TIMEOUT_SECONDS) as producer:
        app.send_task(
            "flush-readings",
            args=(kind.name,),
            expires=EXPIRES_SECONDS,
            retry=False,
            producer=producer,
        )


def _lost(kind: Kind, error: Exception) -> None:
    global _silent_until  # noqa: PLW0603  (a process's one memory of its broker)
    _silent_until = time.monotonic() + SILENCE_SECONDS
    DOORBELLS_LOST.inc()
    log.warning("doorbell lost", kind=kind.name, error=str(error))
