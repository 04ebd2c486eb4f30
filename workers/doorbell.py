"""Rings for the flush: "there is work". A hint and nothing more: the sweep covers a lost one."""

from __future__ import annotations

import structlog
from kombu.exceptions import OperationalError

from models.kinds import Kind
from workers.celery import app
from workers.metrics import DOORBELLS_LOST

log = structlog.get_logger(__name__)

#: A doorbell nobody heard for this long is stale: the sweep has been there meanwhile.
EXPIRES_SECONDS = 5


def ring(kind: Kind) -> None:
    """Ask a worker to flush `kind`. Never raises: the reading is already safe in the stream."""
    try:
        app.send_task("flush-readings", args=(kind.name,), expires=EXPIRES_SECONDS, retry=False)
    except (OperationalError, OSError) as error:
        DOORBELLS_LOST.inc()
        log.warning("doorbell lost", kind=kind.name, error=str(error))
