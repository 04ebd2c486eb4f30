"""What every measurement works with: a running product, its floors beside it, and the fleet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from psycopg import sql
from sqlalchemy import func, select

from bench import Broken
from bench.crew import Crew, Span
from bench.load import CONNECTIONS, Pace, Posts, Target, shares
from bench.readings import KINDS, Fleet
from bench.usage import Usage
from models.conservation import StreamTally
from models.engine import reading
from models.kinds import KINDS as TABLES
from stack.launcher import Stack
from stack.supervision import call
from workers import stream

#: Longest wait for the stream to run empty.
DRAIN_SECONDS = 120.0


@dataclass(slots=True)
class Stage:
    """The product under test. Counts what was sent, so that the end can be checked."""

    stack: Stack
    crew: Crew
    usage: Usage
    web: Target
    #: The server alone, and the ingest route without the queue (bench/apps.py).
    bare: Target
    without_queue: Target
    fleet: Fleet
    #: Readings of each kind that were given out.
    taken: int = 0
    #: Rows that must be in the two history tables.
    rows: int = 0

    @property
    def database_url(self) -> str:
        """The stack's PostgreSQL."""
        return self.stack.environment["DATABASE_URL"]

    def take(self, count: int) -> int:
        """The first of `count` readings of each kind that nobody has had; they will be stored."""
        first = self.taken
        self.taken += count
        self.rows += len(KINDS) * count
        if self.fleet.instant(self.taken // self.fleet.devices) > datetime.now(UTC):
            raise Broken("this machine is so fast that readings would come from the future")
        return first

    def post(
        self,
        target: Target,
        requests: int,
        size: int,
        first: int,
        *,
        connections: int = CONNECTIONS,
        fleet: Fleet | None = None,
    ) -> Span:
        """Send an even number of requests of `size` readings, all processes at once."""
        parts = shares(requests, self.crew.size)
        each, whose = connections // self.crew.size, fleet or self.fleet
        return self.crew.run([Posts(target, whose, part, size, first, each) for part in parts])

    def paces(self, per_second: float) -> list[Pace]:
        """For each process, so that all together send so many requests, evenly spaced."""
        size = self.crew.size
        return [Pace(size / per_second, number / per_second) for number in range(size)]

    def wait_until_stored(self) -> float:
        """When the stream was empty: what it held is committed. Raises Broken after a while."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while any(stream.waiting(kind) for kind in TABLES.values()):
            if time.monotonic() > deadline:
                raise Broken(f"the stream is not empty after {DRAIN_SECONDS:.0f} s")
            time.sleep(0.01)
        return time.monotonic()

    def committed(self) -> int:
        """Readings that the flush has committed, by its own count (docs/conservation.md)."""
        with reading() as conn:
            return int(conn.execute(select(func.sum(StreamTally.readings))).scalar() or 0)

    def stop_application(self) -> None:
        """Nothing but the data servers goes on."""
        call(self.stack.supervisor.url, "stopProcessGroup", "app")

    def start(self, *names: str) -> None:
        """Start programs that were stopped; return when the web, if among them, listens."""
        for name in names:
            self.stack.supervisor.start(name)
        if "web" in names:
            self.web.wait_until_it_listens()

    def check_rows(self) -> str:
        """Compare history with what was accepted; raises Broken when they differ."""
        self.wait_until_stored()
        histories = [kind.history.name for kind in TABLES.values()]
        found = self._counts([*histories, "dead_letters", "reading_conflicts"])
        stored = sum(found[name] for name in histories)
        if stored != self.rows or found["dead_letters"] or found["reading_conflicts"]:
            raise Broken(f"{self.rows} readings were accepted or copied, but there are {found}")
        return f"{stored:,} rows in history, as many as readings were accepted or copied"

    def _counts(self, tables: list[str]) -> Mapping[str, int]:
        statement = sql.SQL("SELECT count(*) FROM {}")
        with psycopg.connect(self.database_url) as conn:
            answers = {
                name: conn.execute(statement.format(sql.Identifier(name))).fetchone()
                for name in tables
            }
        return {name: row[0] if row else 0 for name, row in answers.items()}
