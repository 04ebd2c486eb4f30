"""Back-pressure: the door closes before the stream's server is full, and opens by itself."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

import settings
from models.kinds import KINDS
from web.refusals import Refused
from workers import stream
from workers.stream import Pressure, StreamUnavailable

#: The server is asked at most this often; between, the last answer holds.
LOOK_SECONDS = 0.25
#: An answer older than this is none.
KNOWN_SECONDS = 1.0

_KINDS = list(KINDS.values())


class Admission:
    """One process's view of how much more the stream can take."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked_at = 0.0
        self._pressure = Pressure(0, 0.0, writable=True)
        self._prepared = False

    def check(self) -> None:
        """Raises Refused BACKLOG_FULL, or StreamUnavailable when the server does not answer."""
        if refused := _refused(self._look()):
            raise refused

    def is_open(self) -> bool:
        """Whether `check` is known to pass. For an event loop: the next look is made beside it."""
        age = time.monotonic() - self._looked_at
        if age >= LOOK_SECONDS and not self._lock.locked():
            with suppress(RuntimeError):  # no thread to be had: then `check` looks
                asyncio.get_running_loop().run_in_executor(None, self._look_beside)
        return age < KNOWN_SECONDS and _refused(self._pressure) is None

    def _look_beside(self) -> None:
        with suppress(StreamUnavailable):  # nothing new is known, and `check` is asked soon
            self._look()

    def _look(self) -> Pressure:
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return self._pressure
        # One thread asks, the others go on with the last answer.
        if self._lock.acquire(blocking=False):
            try:
                if not self._prepared:
                    stream.prepare(_KINDS)
                    self._prepared = True
                self._pressure = stream.pressure(_KINDS)
                self._looked_at = time.monotonic()
            finally:
                self._lock.release()
        return self._pressure


def _refused(pressure: Pressure) -> Refused | None:
    """Why nothing may come in under this pressure; None when it may."""
    limits = settings.load()
    if not pressure.writable:
        return Refused("STREAM_UNAVAILABLE", "The stream server cannot write at present.")
    if pressure.entries >= limits.backlog_max_entries:
        return Refused("BACKLOG_FULL", f"{pressure.entries} requests wait to be stored.")
    if pressure.memory_percent >= limits.stream_memory_max_percent:
        detail = f"The stream's memory is {pressure.memory_percent:.0f} % full."
        return Refused("BACKLOG_FULL", detail)
    return None
