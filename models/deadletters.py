"""Readings that could not be stored, kept with their reason until an operator decides."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, select
from sqlalchemy.dialects.postgresql import insert

from models import conservation
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


def find(
    conn: Connection,
    *,
    kind: str | None = None,
    code: str | None = None,
    ids: Collection[int] | None = None,
    after: int = 0,
    limit: int,
) -> Sequence[Row[Any]]:
    """Dead letters by id: of a kind, with a reason code, among `ids`, if wanted."""
    query = select(DeadLetter.__table__).where(DeadLetter.id > after)
    if kind is not None:
        query = query.where(DeadLetter.kind == kind)
    if code is not None:
        query = query.where(DeadLetter.reason == code)
    if ids is not None:
        query = query.where(DeadLetter.id.in_(ids))
    return conn.execute(query.order_by(DeadLetter.id).limit(limit)).all()


def take(conn: Connection, letter_id: int, *, decision: str, reason: str) -> Row[Any] | None:
    """Remove a letter and write the audit line; the letter, or None when it is gone already.

    Nobody else decides about it until the caller's transaction ends.
    """
    statement = delete(DeadLetter).where(DeadLetter.id == letter_id)
    letter = conn.execute(statement.returning(*DeadLetter.__table__.columns)).one_or_none()
    if letter is not None:
        conservation.decide(
            conn,
            kind=letter.kind,
            decision=decision,
            subject=f"dead letter {letter.id}: entry {letter.entry_id}, position"
            f" {letter.position}, fleet {letter.fleet_id}, {letter.reason}",
            reason=reason,
        )
    return letter
