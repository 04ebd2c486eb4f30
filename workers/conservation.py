"""Looks every few seconds whether accepted = history + duplicates + conflicts + dead + waiting.

Two laws together say that, and both hold to the last reading:

    requests   what has left the stream   = what is settled - what is settled and not yet removed
    readings   what settled requests held = inserted + duplicates + conflicts + dead

The stream's server itself counts what it ever took (`entries-added`, in the same write as the
entry), so the door does nothing for this. PostgreSQL counts what is settled, in the transaction
that stores it (models/conservation.py). The look holds that count still for a few milliseconds and
compares.
"""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import redis
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from models import conservation
from models.conservation import Differences, StreamTally
from models.engine import transaction
from models.kinds import KINDS, Kind
from workers import stream
from workers.celery import app
from workers.metrics import CONSERVATION_DIFFERENCE
from workers.stream import Census

log = structlog.get_logger(__name__)

#: Tries to find the stream standing still. While the count is held, a worker can only remove what
#: it has committed already, so the second or third try succeeds.
TRIES = 50

_EXPECTED = (OperationalError, psycopg.OperationalError, redis.RedisError)


class Restless(Exception):  # noqa: N818  (a state of the world, not a defect)
    """The stream did not stand still: somebody else than the flush removes entries."""


@app.task(name="check-conservation", ignore_result=True, throws=_EXPECTED)
def check_conservation() -> dict[str, dict[str, int]]:
    """Look at every kind; the result tells what is missing."""
    return {kind.name: _told(kind, check(kind, datetime.now(UTC))) for kind in KINDS.values()}


def check(kind: Kind, now: datetime) -> Differences:
    """What is missing now. The first look of all only begins the count."""
    with transaction() as conn:
        tally = conservation.hold(conn, kind.name)
        census, kept = _stand_still(conn, kind)
        removed_before = _removed_before(tally, census, kept)
        found = _differences(conn, tally, census, kept, removed_before)
        conservation.note(
            conn,
            tally,
            found,
            removed_before=removed_before,
            added_seen=max(tally.added_seen, census.added),
            now=now,
        )
    return found


def write_off(kind: Kind, reason: str) -> Differences:
    """Take today's differences as known: they are told of no more. What they were."""
    with transaction() as conn:
        tally = conservation.hold(conn, kind.name)
        census, kept = _stand_still(conn, kind)
        tally.removed_before = _removed_before(tally, census, kept)
        found = _differences(conn, tally, census, kept, tally.removed_before)
        conservation.write_off(conn, tally, found, added=census.added, reason=reason)
    return found


def _stand_still(conn: Connection, kind: Kind) -> tuple[Census, int]:
    """(the stream's own count, how many settled entries it still holds), of one moment.

    The caller holds the tally, so nothing is settled meanwhile.
    """
    receipts = conservation.receipts(conn, kind.name)
    ids = sorted({entry_id for on_one in receipts.values() for entry_id in on_one})
    for _ in range(TRIES):
        before = stream.census(kind)
        present = stream.present(kind, ids)
        after = stream.census(kind)
        if before.removed == after.removed:
            spent = [key for key, on_one in receipts.items() if not present.intersection(on_one)]
            conservation.spend(conn, spent)
            return after, len(present)
    raise Restless(kind.name)


def _removed_before(tally: StreamTally, census: Census, kept: int) -> int:
    """What had left the stream before anybody counted: known from the first look on."""
    if tally.removed_before is not None:
        return tally.removed_before
    return census.removed - (tally.entries - kept)


def _differences(
    conn: Connection, tally: StreamTally, census: Census, kept: int, removed_before: int
) -> Differences:
    accounted_for = conservation.dead_letters_accounted_for(conn, tally.kind)
    return Differences(
        requests=census.removed - removed_before - (tally.entries - kept),
        forgotten=max(tally.added_seen - census.added, 0),
        readings=conservation.readings_lost(tally),
        dead_letters=tally.dead_letters - accounted_for - tally.dead_letters_written_off,
    )


def _told(kind: Kind, found: Differences) -> dict[str, int]:
    told = {
        "requests": found.requests,
        "forgotten": found.forgotten,
        "readings": found.readings,
        "dead_letters": found.dead_letters,
    }
    for law, difference in told.items():
        CONSERVATION_DIFFERENCE.labels(kind.name, law).set(difference)
    if found:
        log.error("conservation is violated", kind=kind.name, **told)
    return told
