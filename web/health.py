"""/healthz (the process lives), /readyz (it can keep its promises), /metrics (Prometheus)."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory
from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models import checks, conservation
from models.clock import rfc3339
from models.conservation import StreamTally
from models.engine import patience, reading, transaction
from models.kinds import KINDS
from workers import stream
from workers.stream import StreamUnavailable

blueprint = Blueprint("health", __name__)

#: A probe gives up soon; a server that does not answer in this time is away.
PATIENCE_SECONDS = 3.0


@blueprint.get("/healthz")
def healthz() -> dict[str, str]:
    """No I/O: a process that answers lives."""
    return {"status": "ok"}


@blueprint.get("/readyz")
def readyz() -> tuple[dict[str, Any], int]:
    """200 when everything that 202 promises holds; else 503 with each unmet condition by name."""
    unmet = _stream_conditions() | _database_conditions()
    status: dict[str, Any] = {"status": "not ready", "unmet": unmet} if unmet else {}
    if not {"STREAM_UNAVAILABLE", "DATABASE_UNAVAILABLE", "MIGRATIONS_PENDING"} & unmet.keys():
        status["streams"] = _streams()
    return {"status": "ready"} | status, 200 if not unmet else 503


@blueprint.get("/metrics")
def metrics() -> Response:
    """All processes of this machine when PROMETHEUS_MULTIPROC_DIR is set, else this one."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _stream_conditions() -> dict[str, str]:
    try:
        return stream.unsafe_settings()
    except StreamUnavailable as error:
        return {"STREAM_UNAVAILABLE": str(error)}


def _database_conditions() -> dict[str, str]:
    try:
        with patience(PATIENCE_SECONDS), transaction() as conn:
            return checks.unsafe_settings(conn, expected_revision())
    except ProgrammingError:
        return {"MIGRATIONS_PENDING": "the schema has never been made"}
    except (DBAPIError, PoolTimeout) as error:
        return {"DATABASE_UNAVAILABLE": str(error).splitlines()[0]}


def _streams() -> dict[str, dict[str, Any]]:
    """Per kind: how old the oldest waiting request is, and whether all that was accepted is there.

    Details, no condition: to turn readings away would not bring lost ones back.
    """
    with reading() as conn:
        tallies = {tally.kind: tally for tally in conservation.tallies(conn)}
    details = {}
    for kind in KINDS.values():
        backlog, tally = stream.backlog(kind), tallies.get(kind.name)
        details[kind.name] = {
            "waitingRequests": backlog.entries,
            "oldestWaitingSeconds": backlog.oldest_seconds,
            "conservation": None if tally is None else _conserved(tally),
        }
    return details


def _conserved(tally: StreamTally) -> dict[str, Any]:
    return {
        "settledRequests": tally.entries,
        "settledReadings": tally.readings,
        "inserted": tally.inserted,
        "duplicates": tally.duplicates,
        "conflicts": tally.conflicts,
        "dead": tally.dead,
        "differences": {
            "requests": tally.requests_lost,
            "forgotten": tally.requests_forgotten,
            "readings": tally.readings_lost,
            "deadLetters": tally.dead_letters_lost,
        },
        "checkedAt": tally.checked_at and rfc3339(tally.checked_at),
    }


@cache
def expected_revision() -> str:
    """The newest migration this code brings along."""
    config = Config(toml_file=Path(__file__).parent.parent / "pyproject.toml")
    return ScriptDirectory.from_config(config).get_current_head() or ""
