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

from models import checks
from models.engine import patience, transaction
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
    status = {"status": "ready"} if not unmet else {"status": "not ready", "unmet": unmet}
    return status, 200 if not unmet else 503


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


@cache
def expected_revision() -> str:
    """The newest migration this code brings along."""
    config = Config(toml_file=Path(__file__).parent.parent / "pyproject.toml")
    return ScriptDirectory.from_config(config).get_current_head() or ""
