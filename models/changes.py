"""PostgreSQL tells which summaries have changed, at the COMMIT that changed them (migration 0008).

docs/adr/0021 says who wants to know, and why.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

import psycopg

#: After so much silence PostgreSQL is asked whether it would still tell.
BEAT_SECONDS = 1.0

#: Whether all four triggers are at work, and this session is the one that listens.
_WOULD_TELL = """
    SELECT 'summaries' IN (SELECT pg_listening_channels()) AND 4 = (
        SELECT count(*) FROM pg_trigger
        WHERE tgrelid = 'vehicle_performance_24h'::regclass AND tgenabled = 'A')
"""


async def of_summaries(
    conn: psycopg.AsyncConnection[Any],
) -> AsyncIterator[Collection[int] | None]:
    """The keys of vehicles whose summary has changed, as they change; None: any may have.

    Nobody's, at the latest after BEAT_SECONDS and an answer, say that PostgreSQL is there and has
    told everything. Raises psycopg.OperationalError when it is not, or would not tell.
    """
    await conn.execute("LISTEN summaries")
    told: Collection[int] | None = None  # what was before is not known
    while True:
        answer = await (await conn.execute(_WOULD_TELL)).fetchone()
        if answer != (True,):
            raise psycopg.OperationalError("the triggers of vehicle_performance_24h do not tell")
        yield told
        told = ()
        async for notice in conn.notifies(timeout=BEAT_SECONDS):
            yield _keys(notice.payload)


def _keys(payload: str) -> Collection[int] | None:
    try:
        return [int(key) for key in payload.split(",")]
    except ValueError:  # nothing in it: all of them; or something that is not ours
        return None
