"""Advisory locks: of all workers, one is at a kind of work at a time."""

from __future__ import annotations

from sqlalchemy import Connection, text

ROLLUP, EPISODES, ALARMS = "energy-rollup", "energy-episodes", "energy-alarms"

#: Held to the end of the transaction: two beats, or two workers, never interleave.
_TRY = text("SELECT pg_try_advisory_xact_lock(hashtext(:name))")


def try_lock(conn: Connection, name: str) -> bool:
    """Whether this transaction is the only one at the work of this name now."""
    return bool(conn.execute(_TRY, {"name": name}).scalar_one())
