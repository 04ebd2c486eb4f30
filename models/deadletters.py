"""Readings that could not be stored, kept with their reason until an operator decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from models.derived import DeadLetter


@dataclass(frozen=True, slots=True)
class Dead:
    """One unstorable reading; position -1 means that its whole entry is unreadable."""

    kind: str
    entry_id: str
    position: int
    fleet_id: int | None
    raw: bytes
    reason: str
    detail: str


def bury(conn: Connection, dead: Sequence[Dead]) -> None:
    """Keep `dead`; burying the same reading of the same entry again changes nothing."""
    if dead:
        rows = [{field: getattr(one, field) for field in Dead.__slots__} for one in dead]
        for row in rows:  # a decoder's message may quote what no text column holds
            row["detail"] = row["detail"].replace("\0", "\\0")
        conn.execute(insert(DeadLetter).on_conflict_do_nothing(), rows)
