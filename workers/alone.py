"""Work that one worker does at a time: whoever comes second leaves at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from models import locks
from models.engine import transaction


class Overlap(Exception):  # noqa: N818  (a state of the world, not a programming error)
    """Another worker is at this work."""


@contextmanager
def alone(lock: str) -> Iterator[Connection]:
    """A transaction that holds `lock` (models/locks.py); raises Overlap when another has it."""
    with transaction() as conn:
        if not locks.try_lock(conn, lock):
            raise Overlap
        yield conn
