"""Summaries as they were last told, each until PostgreSQL says that it has changed.

A vehicle is asked for many times between two roll-ups, and the answer is the same (docs/adr/0021).
What is kept is believed only while PostgreSQL is known to be there, and while nothing that it has
said waits to be read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Generic, TypeVar

import structlog

from models import changes
from models.engine import Hotline, patience
from models.registry import Device

log = structlog.get_logger(__name__)

#: A PostgreSQL that has said nothing for this long may have changed everything.
TRUST_SECONDS = 3.0
#: Longest wait for its answer, when it was silent and is asked.
PATIENCE_SECONDS = 1.5
#: Until it is tried again, when it is away.
RETRY_SECONDS = 1.0
#: Longest wait for the end of listening.
CLOSE_SECONDS = 1.0
#: Summaries kept at once, those that were read last: some 3.4 KB each.
MOST = 10_000

T = TypeVar("T")


class Kept(Generic[T]):
    """What an event loop has told. For that loop alone; call `listen` before anything else."""

    def __init__(self) -> None:
        #: How often something was heard. What was read before the last time may be old.
        self.news = 0
        self._told: dict[Device, tuple[int, T]] = {}
        self._vehicles: dict[int, Device] = {}  # by key
        self._trusted_until = 0.0
        self._line = Hotline()
        self._listening: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    def listen(self) -> None:
        """Begin to hear of changes, unless that has begun."""
        loop = asyncio.get_running_loop()
        if self._listening is None or self._listening[0] is not loop or self._listening[1].done():
            self._forget()
            self._listening = loop, loop.create_task(self._hear())

    def find(self, vehicle: Device) -> T | None:
        """What a vehicle's summary says now; None when that is not known."""
        kept = self._told.get(vehicle)
        if kept is None or time.monotonic() > self._trusted_until or self._line.has_arrived():
            return None
        return kept[1]

    def keep(self, vehicle: Device, key: int, told: T, *, read_after: int) -> None:
        """Keep what was read from PostgreSQL when `news` was `read_after`."""
        if read_after != self.news:
            return
        self._drop(vehicle)
        self._drop(self._vehicles.get(key))
        self._told[vehicle], self._vehicles[key] = (key, told), vehicle
        if len(self._told) > MOST:
            self._drop(next(iter(self._told)))

    def _drop(self, vehicle: Device | None) -> None:
        if vehicle in self._told:
            key, _ = self._told.pop(vehicle)
            del self._vehicles[key]

    async def close(self) -> None:
        """Hear of nothing any more, and believe nothing."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening[1].cancel()
            # psycopg takes ten seconds to give up a question that a frozen server does not answer.
            await asyncio.wait({listening[1]}, timeout=CLOSE_SECONDS)
        self._forget()

    async def _hear(self) -> None:
        """Until it is cancelled."""
        away = False
        while True:
            try:
                async with self._line.open() as conn:
                    with patience(PATIENCE_SECONDS):
                        async for changed in changes.of_summaries(conn):
                            away = False
                            self._void(changed)
            except Exception as error:  # whatever it is, it must not end the listening
                if not away:
                    log.warning("summaries are not kept, each is asked for", error=repr(error))
                away = True
            self._forget()
            await asyncio.sleep(RETRY_SECONDS)

    def _void(self, changed: Collection[int] | None) -> None:
        if changed is None:
            self._forget()
        elif changed:
            self.news += 1
            for key in changed:
                self._drop(self._vehicles.get(key))
        self._trusted_until = time.monotonic() + TRUST_SECONDS

    def _forget(self) -> None:
        self._told.clear()
        self._vehicles.clear()
        self.news += 1
        self._trusted_until = 0.0
