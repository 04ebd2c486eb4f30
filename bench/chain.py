"""Requests and readings per second: the product, and the floors under it.

Every measurement takes about as long as it is told to: how much to send is judged by the last
round's rate.
"""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]

from bench.copying import BLOCK_READINGS, Copies, device_keys
from bench.crew import Span
from bench.figures import Figures
from bench.load import CONNECTIONS, Gets, Target, shares
from bench.readings import DEVICES, KINDS, device_id
from bench.stage import Stage
from bench.usage import difference

#: Readings in a batch.
BATCH = 500
#: Per second; the first round corrects them.
_FIRST_GUESS = {
    "bare": 5_000.0,
    "healthz": 1_500.0,
    "performance": 500.0,
    "door.single": 800.0,
    "door.batch": 50_000.0,
    "single.history": 400.0,
    "batch.history": 8_000.0,
    "copy": 50_000.0,
}


class Chain:
    """The measurements of one run; each method is one round of one of them."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._rates = dict(_FIRST_GUESS)

    def bare(self, seconds: float) -> Figures:
        """Granian with an application that does nothing."""
        return self._gets("bare", self._stage.bare, ["/"], seconds)

    def healthz(self, seconds: float) -> Figures:
        """Granian and Flask: the product's route without any work."""
        return self._gets("healthz", self._stage.web, ["/healthz"], seconds)

    def performance(self, seconds: float) -> Figures:
        """GET the 24 h performance of one vehicle after the other."""
        vehicles = (device_id("vehicle", device) for device in range(DEVICES))
        paths = [f"/v1/analytics/performance/{vehicle}" for vehicle in vehicles]
        return self._gets("performance", self._stage.web, paths, seconds)

    def door(self, seconds: float) -> Figures:
        """The ingest route with the queue taken out: authenticate, validate, answer."""
        return {
            **self._door("door.single", 1, seconds / 2),
            **self._door("door.batch", BATCH, seconds / 2),
        }

    def single(self, seconds: float) -> Figures:
        """One reading per POST."""
        return self._chain("single", 1, seconds)

    def batch(self, seconds: float) -> Figures:
        """500 readings per POST."""
        return self._chain("batch", BATCH, seconds)

    def copy(self, seconds: float) -> Figures:
        """The same rows by bare COPY, with as many connections as the flush has."""
        stage = self._stage
        writers = flush_workers(stage)
        blocks = max(writers, round(self._rates["copy"] * seconds / BLOCK_READINGS))
        blocks += -blocks % len(KINDS)
        turns = blocks // len(KINDS)
        first = stage.take(turns * BLOCK_READINGS)
        keys = device_keys(stage.database_url)
        span = stage.crew.run(
            [
                Copies(stage.database_url, stage.fleet, keys, range(n, blocks, writers), first)
                for n in range(writers)
            ]
        )
        return self._rate("copy", blocks * BLOCK_READINGS, span)

    def rate(self, name: str) -> float:
        """What the last round found, or a guess."""
        return self._rates[name]

    def _gets(self, name: str, target: Target, paths: list[str], seconds: float) -> Figures:
        crew, count = self._stage.crew, self._count(name, seconds, 1)
        each = CONNECTIONS // crew.size
        parts = [len(part) for part in shares(count, crew.size)]
        return self._rate(
            name, count, crew.run([Gets(target, paths, part, each) for part in parts])
        )

    def _door(self, name: str, size: int, seconds: float) -> Figures:
        count = self._count(name, seconds, size)
        span = self._stage.post(self._stage.without_queue, count, size, self._stage.taken)
        return self._rate(name, count * size, span)

    def _chain(self, name: str, size: int, seconds: float) -> Figures:
        stage = self._stage
        count = self._count(f"{name}.history", seconds, size)
        readings = count * size
        first = stage.take(readings // len(KINDS))
        before = stage.usage.cpu_seconds()
        span = stage.post(stage.web, count, size, first)
        stored_at = stage.wait_until_stored()
        used = difference(before, stage.usage.cpu_seconds())
        self._rates[f"{name}.history"] = readings / (stored_at - span.began)
        return {
            f"{name}.accepted": readings / span.seconds,
            f"{name}.history": self._rates[f"{name}.history"],
            f"busy.{name}": span.busy_percent,
            **{f"cpu.{name}.{program}": used[program] / readings * 1e6 for program in used},
        }

    def _count(self, name: str, seconds: float, size: int) -> int:
        """Requests that take about `seconds`: as many of each kind on every connection."""
        turns = round(self._rates[name] * seconds / size / (CONNECTIONS * len(KINDS)))
        return CONNECTIONS * len(KINDS) * max(1, turns)

    def _rate(self, name: str, count: int, span: Span) -> Figures:
        self._rates[name] = count / span.seconds
        return {name: self._rates[name], f"busy.{name}": span.busy_percent}


def flush_workers(stage: Stage) -> int:
    """Processes that flush, and so connections that write."""
    parent = psutil.Process(stage.stack.pid("worker-flush"))
    return max(1, min(len(parent.children()), stage.crew.size))
