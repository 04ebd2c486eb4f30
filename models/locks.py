"""Advisory locks: of all workers, one is at a kind of work at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

ROLLUP, EPISODES, ALARMS = "energy-rollup", "energy-episodes", "energy-alarms"
PACKING = "energy-packing"

#: Held to the end of the transaction: two beats, or two workers, never interleave.
_TRY = text("SELECT pg_try_advisory_xact_lock(hashtext(:name))")


def try_lock(conn: Connection, name: str) -> bool:
    """Whether this transaction is the only one at the work of this name now."""
    return bool(conn.execute(_TRY, {"name": name}).scalar_one())


_TRY_SESSION = text("SELECT pg_try_advisory_lock(hashtext(:name))")
_UNLOCK_SESSION = text("SELECT pg_advisory_unlock(hashtext(:name))")


@contextmanager
def held(conn: Connection, name: str) -> Iterator[bool]:
    """Whether the lock was free and is held now, by the session: for work in no transaction.

    It ends with the connection at the latest.
    """
    free = bool(conn.execute(_TRY_SESSION, {"name": name}).scalar_one())
    try:
        yield free
    finally:
        if free and not conn.invalidated and not conn.closed:
            conn.execute(_UNLOCK_SESSION, {"name": name})
