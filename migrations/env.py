"""Runs the migrations: one at a time, and as a guest who does not keep production waiting."""

from __future__ import annotations

import re
from typing import Any

from alembic import context
from sqlalchemy import text

import models
from models.engine import engine

#: A migration that cannot get its lock gives up instead of queueing every reader behind it.
LOCK_TIMEOUT = "4s"
STATEMENT_TIMEOUT = "60s"
#: Two deployments starting at once: the second waits here and then finds nothing to do.
ADVISORY_LOCK = "SELECT pg_advisory_xact_lock(hashtext('energy-migrations'))"

_PARTITION = re.compile(r"_telemetry_history_(p\d{8}|default)(_|$)")


def _ours(_object: Any, name: str | None, type_: str, *_: Any) -> bool:
    """Partitions come and go with the calendar; they are no part of the model."""
    return type_ not in {"table", "index"} or not _PARTITION.search(name or "")


def run() -> None:
    with engine().connect() as connection, connection.begin():
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))
        connection.execute(text(ADVISORY_LOCK))
        context.configure(
            connection=connection,
            target_metadata=models.Base.metadata,
            include_object=_ours,
            compare_type=True,
            compare_server_default=True,
        )
        context.run_migrations()


if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql", target_metadata=models.Base.metadata, literal_binds=True
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    run()
