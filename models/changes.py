"""PostgreSQL tells which summaries have changed, at the COMMIT that changed them (migration 0008).

docs/adr/0021 says who wants to know, and why.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

import psycopg

#: After so much silence PostgreSQL is asked whether it is still there.
BEAT_SECONDS = 1.0


async def of_summaries(
    conn: psycopg.AsyncConnection[Any],
) -> AsyncIterator[Collection[int] | None]:
    """The keys of vehicles whose summary has changed, as they change; None: any may have.

    Nobody's, at the latest after BEAT_SECONDS and an answer, say that PostgreSQL is there and has
    told everything. Raises psycopg.OperationalError when it is not.
    """
    await conn.execute("LISTEN summaries")
    yield None
    while True:
        async for notice in conn.notifies(timeout=BEAT_SECONDS):
            yield [int(key) for key in notice.payload.split(",")] if notice.payload else None
        await conn.execute("SELECT 1")
        yield ()
