"""Conservation: what was accepted is what was stored, set aside, or waits. Counted, not assumed.

The flush settles entries in the very transaction that stores their readings: it adds them to
`stream_tally` and leaves a receipt with their ids until they are out of the stream. An entry that
comes a second time, because its worker died before it could remove it, is found on a receipt and
not counted again. docs/adr/0011 says why this and not another way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Connection,
    Identity,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Instant, Name
from models.derived import DeadLetter
from models.engine import driver
from models.writes import Stored

#: An operator's decisions about a dead letter, after which it is in `dead_letters` no more.
REPLAYED, DISCARDED = "replayed", "discarded"
#: An operator's decision that a difference is known and not to be told of again.
WRITTEN_OFF = "written off"


class AlreadySettled(Exception):
    """Some entries are counted already; the caller's transaction is to be rolled back."""

    def __init__(self, entry_ids: frozenset[str]) -> None:
        self.entry_ids = entry_ids
        super().__init__(f"{len(entry_ids)} entries")


class StreamTally(Base):
    """What became of everything one kind's stream has ever carried: one row per kind."""

    __tablename__ = "stream_tally"
    kind: Mapped[Name] = mapped_column(primary_key=True)
    #: Entries (accepted requests) of which each reading is committed.
    entries: Mapped[int] = mapped_column(BigInteger, server_default="0")
    #: Readings in them, as the door counted.
    readings: Mapped[int] = mapped_column(BigInteger, server_default="0")
    #: What became of these.
    inserted: Mapped[int] = mapped_column(BigInteger, server_default="0")
    duplicates: Mapped[int] = mapped_column(BigInteger, server_default="0")
    conflicts: Mapped[int] = mapped_column(BigInteger, server_default="0")
    dead: Mapped[int] = mapped_column(BigInteger, server_default="0")
    #: Rows made in `dead_letters`: one for a whole unreadable entry.
    dead_letters: Mapped[int] = mapped_column(BigInteger, server_default="0")
    #: Entries that had left the stream before counting began, or whose loss was written off.
    removed_before: Mapped[int | None] = mapped_column(BigInteger)
    #: Most entries the stream's server has ever said it took.
    added_seen: Mapped[int] = mapped_column(BigInteger, server_default="0")
    readings_written_off: Mapped[int] = mapped_column(BigInteger, server_default="0")
    dead_letters_written_off: Mapped[int] = mapped_column(BigInteger, server_default="0")
    #: What the last look found; see `Differences`.
    checked_at: Mapped[Instant | None]
    requests_lost: Mapped[int] = mapped_column(BigInteger, server_default="0")
    requests_forgotten: Mapped[int] = mapped_column(BigInteger, server_default="0")
    readings_lost: Mapped[int] = mapped_column(BigInteger, server_default="0")
    dead_letters_lost: Mapped[int] = mapped_column(BigInteger, server_default="0")


class FlushReceipt(Base):
    """Entries that are committed and perhaps still in the stream: one row per transaction."""

    __tablename__ = "flush_receipts"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[Name]
    entry_ids: Mapped[list[str]] = mapped_column(ARRAY(Text))


class OperatorDecision(Base):
    """The audit line of what an operator decided about readings; never changed or deleted."""

    __tablename__ = "operator_decisions"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    decided_at: Mapped[Instant] = mapped_column(server_default=func.now())
    kind: Mapped[Name]
    decision: Mapped[Name]
    #: Which dead letter (id, entry, position, fleet, reason), or which difference.
    subject: Mapped[Name]
    reason: Mapped[Name]


@dataclass(frozen=True, slots=True)
class Settled:
    """Entries whose readings a transaction stores, and what becomes of these."""

    entry_ids: Sequence[str]
    #: As the door counted.
    readings: int
    stored: Stored
    dead: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class Differences:
    """What is missing, by the law that says so; negative: there is too much. All 0 is well.

    requests: left the stream without having been stored. forgotten: the stream's server has taken
    fewer than it once said. readings: of stored requests, became nothing. dead letters: gone
    without a decision.
    """

    requests: int
    forgotten: int
    readings: int
    dead_letters: int

    def __bool__(self) -> bool:
        return any((self.requests, self.forgotten, self.readings, self.dead_letters))


# The first statement waits for whoever settles entries of this kind at the moment, until it has
# committed: so the second, with its own snapshot, sees that one's receipt, whatever the timing.
_COUNT = """
    INSERT INTO stream_tally AS t
        (kind, entries, readings, inserted, duplicates, conflicts, dead, dead_letters)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (kind) DO UPDATE SET
        entries = t.entries + excluded.entries,
        readings = t.readings + excluded.readings,
        inserted = t.inserted + excluded.inserted,
        duplicates = t.duplicates + excluded.duplicates,
        conflicts = t.conflicts + excluded.conflicts,
        dead = t.dead + excluded.dead,
        dead_letters = t.dead_letters + excluded.dead_letters
"""
# The receipt of this transaction is not in the snapshot of the statement that writes it. The spent
# one is, and hundreds of entries would be compared with its hundreds.
_RECEIPT = """
    WITH spent AS (DELETE FROM flush_receipts WHERE id = %(spent)s),
    made AS (
        INSERT INTO flush_receipts (kind, entry_ids) VALUES (%(kind)s, %(ids)s) RETURNING id
    )
    SELECT made.id, ARRAY (
        SELECT unnest(entry_ids) FROM flush_receipts
        WHERE kind = %(kind)s AND id IS DISTINCT FROM %(spent)s::bigint AND entry_ids && %(ids)s
    ) FROM made
"""


def settle(conn: Connection, kind: str, settled: Settled, *, spent: int | None) -> int:
    """Count entries as committed with the caller's transaction; the id of their receipt.

    The last thing before COMMIT: from here on nobody else settles entries of this kind. `spent` is
    a receipt whose entries have left the stream. Raises AlreadySettled.
    """
    run, ids, stored = driver(conn).execute, list(settled.entry_ids), settled.stored
    counts = (stored.inserted, stored.duplicates, stored.conflicts)
    dead = (settled.dead, settled.dead_letters)
    run(_COUNT, (kind, len(ids), settled.readings, *counts, *dead))
    row = run(_RECEIPT, {"kind": kind, "ids": ids, "spent": spent}).fetchone()
    assert row is not None  # noqa: S101  (an INSERT's RETURNING)
    receipt: int = row[0]
    if again := frozenset(row[1]) & frozenset(ids):
        raise AlreadySettled(again)
    return receipt


def hold(conn: Connection, kind: str) -> StreamTally:
    """A kind's tally, standing still until the caller's transaction ends."""
    driver(conn).execute(
        "INSERT INTO stream_tally (kind) VALUES (%s) ON CONFLICT DO NOTHING", (kind,)
    )
    query = select(StreamTally.__table__).where(StreamTally.kind == kind).with_for_update()
    return StreamTally(**conn.execute(query).one()._asdict())


def tallies(conn: Connection) -> list[StreamTally]:
    """Every kind's tally as it was last committed."""
    query = select(StreamTally.__table__).order_by(StreamTally.kind)
    return [StreamTally(**row._asdict()) for row in conn.execute(query)]


def receipts(conn: Connection, kind: str) -> dict[int, list[str]]:
    """The entry ids on each of a kind's receipts."""
    query = select(FlushReceipt.id, FlushReceipt.entry_ids).where(FlushReceipt.kind == kind)
    return {row.id: row.entry_ids for row in conn.execute(query)}


def spend(conn: Connection, receipt_ids: Collection[int]) -> None:
    """Forget receipts whose entries have left the stream."""
    conn.execute(delete(FlushReceipt).where(FlushReceipt.id.in_(receipt_ids)))


def dead_letters_accounted_for(conn: Connection, kind: str) -> int:
    """Dead letters that are there, and those that left by an operator's decision."""
    there = select(func.count()).select_from(DeadLetter).where(DeadLetter.kind == kind)
    decided = (
        select(func.count())
        .select_from(OperatorDecision)
        .where(
            OperatorDecision.kind == kind,
            OperatorDecision.decision.in_((REPLAYED, DISCARDED)),
        )
    )
    return conn.execute(there).scalar_one() + conn.execute(decided).scalar_one()


def readings_lost(tally: StreamTally) -> int:
    """Readings of settled entries that became nothing."""
    became = tally.inserted + tally.duplicates + tally.conflicts + tally.dead
    return tally.readings - became - tally.readings_written_off


def note(
    conn: Connection,
    tally: StreamTally,
    found: Differences,
    *,
    removed_before: int,
    added_seen: int,
    now: datetime,
) -> None:
    """Remember what a look has found."""
    conn.execute(
        update(StreamTally)
        .where(StreamTally.kind == tally.kind)
        .values(
            removed_before=removed_before,
            added_seen=added_seen,
            checked_at=now,
            requests_lost=found.requests,
            requests_forgotten=found.forgotten,
            readings_lost=found.readings,
            dead_letters_lost=found.dead_letters,
        )
    )


def write_off(
    conn: Connection, tally: StreamTally, found: Differences, *, added: int, reason: str
) -> None:
    """From here on these differences are known; an audit line says why."""
    conn.execute(
        update(StreamTally)
        .where(StreamTally.kind == tally.kind)
        .values(
            removed_before=(tally.removed_before or 0) + found.requests,
            added_seen=added,
            readings_written_off=StreamTally.readings_written_off + found.readings,
            dead_letters_written_off=StreamTally.dead_letters_written_off + found.dead_letters,
            requests_lost=0,
            requests_forgotten=0,
            readings_lost=0,
            dead_letters_lost=0,
        )
    )
    decide(
        conn,
        kind=tally.kind,
        decision=WRITTEN_OFF,
        subject=f"requests {found.requests}, forgotten {found.forgotten},"
        f" readings {found.readings}, dead letters {found.dead_letters}",
        reason=reason,
    )


def decide(conn: Connection, *, kind: str, decision: str, subject: str, reason: str) -> None:
    """Write an audit line."""
    conn.execute(
        insert(OperatorDecision).values(
            kind=kind, decision=decision, subject=subject, reason=reason
        )
    )
