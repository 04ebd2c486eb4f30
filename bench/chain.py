"""Requests and readings per second: the product, and the floors under it.

Every measurement takes about as long as it is told to: how much to send is judged by the last
round's rate.
"""

from __future__ import annotations

import time

import psutil  # type: ignore[import-untyped]

from bench.copying import Copies, block_count, device_keys
from bench.crew import Span
from bench.figures import Figures
from bench.load import BATCH_CONNECTIONS, CONNECTIONS, Gets, Target, shares
from bench.pacing import Answers
from bench.readings import KINDS, device_id
from bench.stage import Stage
from bench.usage import difference
from workers.flush import BATCH_READINGS

#: Readings in a batch.
BATCH = 500
#: Per second; the first round corrects them.
_FIRST_GUESS = {
    "bare": 5_000.0,
    "healthz": 1_500.0,
    "performance": 500.0,
    "door.single": 800.0,
    "door.batch": 50_000.0,
    "single.accepted": 400.0,
    "single.history": 400.0,
    "batch.history": 8_000.0,
    "copy": 50_000.0,
}


class Chain:
    """The measurements of one run; each method is one round of one of them."""

    def __init__(self, stage: Stage, connections: int = CONNECTIONS) -> None:
        self._stage = stage
        self._connections = connections
        self._rates = dict(_FIRST_GUESS)

    def bare(self, seconds: float) -> Figures:
        """Granian with an application that does nothing."""
        return self._gets("bare", self._stage.bare, ["/"], seconds)

    def healthz(self, seconds: float) -> Figures:
        """Granian and Flask: the product's route without any work."""
        return self._gets("healthz", self._stage.web, ["/healthz"], seconds)

    def performance(self, seconds: float, devices: int | None = None) -> Figures:
        """GET the 24 h performance of one vehicle after the other, then at parts of that rate.

        At a half and a quarter of it requests are planned ahead; seconds count from the planned
        instant. What a server that does nothing makes of half the rate is the floor of these.
        """
        paths = [
            f"/v1/analytics/performance/{device_id('vehicle', device)}"
            for device in range(devices or self._stage.fleet.devices)
        ]
        found = self._gets("performance", self._stage.web, paths, seconds)
        half = self._rates["performance"] / 2
        floor = self._paced(self._stage.bare, ["/"], half, seconds / 2)
        quarter = self._paced(self._stage.web, paths, half / 2, seconds)
        answers = self._paced(self._stage.web, paths, half, seconds)
        return {
            **found,
            "performance.floor": [answer.answered for answer in floor],
            "performance.quarter": [answer.answered for answer in quarter],
            "performance.half": [answer.answered for answer in answers],
            "performance.late": [answer.sent for answer in answers],
        }

    def _paced(self, target: Target, paths: list[str], rate: float, seconds: float) -> Answers:
        crew, stage = self._stage.crew, self._stage
        each, count = self._connections // crew.size, max(1, round(rate * seconds / crew.size))
        return crew.run(
            [Gets(target, paths, count, each, pace) for pace in stage.paces(rate)]
        ).answers

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
        readings = max(1, round(self._rates["copy"] * seconds / len(KINDS)))
        first = stage.take(readings)
        numbers, blocks = range(first, first + readings), block_count(readings, BATCH_READINGS)
        keys = device_keys(stage.database_url, stage.fleet.devices)
        span = stage.crew.run(
            [
                Copies(
                    stage.database_url,
                    stage.fleet,
                    keys,
                    range(n, blocks, writers),
                    numbers,
                    size=BATCH_READINGS,
                )
                for n in range(writers)
            ]
        )
        return {**self._rate("copy", len(KINDS) * readings, span), "busy.copy": span.busy_percent}

    def rate(self, name: str) -> float:
        """What the last round found, or a guess."""
        return self._rates[name]

    def _gets(self, name: str, target: Target, paths: list[str], seconds: float) -> Figures:
        crew, count = self._stage.crew, self._count(name, seconds, 1)
        each = self._connections // crew.size
        parts = [len(part) for part in shares(count, crew.size)]
        span = crew.run([Gets(target, paths, part, each) for part in parts])
        return {**self._rate(name, count, span), **_generator(name, count, span)}

    def _door(self, name: str, size: int, seconds: float) -> Figures:
        stage, count = self._stage, self._count(name, seconds, size)
        span = stage.post(stage.without_queue, count, size, stage.taken, connections=self._of(size))
        return {**self._rate(name, count * size, span), **_generator(name, count, span)}

    def _chain(self, name: str, size: int, seconds: float) -> Figures:
        stage = self._stage
        count = self._count(f"{name}.history", seconds, size)
        readings = count * size
        first = stage.take(readings // len(KINDS))
        before, committed = stage.usage.cpu_seconds(), stage.committed()
        span = stage.post(stage.web, count, size, first, connections=self._of(size))
        # Looked at while the last answers are a moment old: what arrived while they kept coming.
        arrived = (stage.committed() - committed) / (time.monotonic() - span.began)
        stored_at = stage.wait_until_stored()
        used = difference(before, stage.usage.cpu_seconds())
        self._rates[f"{name}.accepted"] = readings / span.seconds
        self._rates[f"{name}.history"] = readings / (stored_at - span.began)
        return {
            f"{name}.accepted": self._rates[f"{name}.accepted"],
            f"{name}.arrived": arrived,
            f"{name}.history": self._rates[f"{name}.history"],
            **_generator(name, count, span),
            **{f"cpu.{name}.{program}": used[program] / readings * 1e6 for program in used},
        }

    def _of(self, size: int) -> int:
        """Connections for requests of so many readings."""
        return self._connections if size == 1 else min(BATCH_CONNECTIONS, self._connections)

    def _count(self, name: str, seconds: float, size: int) -> int:
        """Requests that take about `seconds`: as many of each kind on every connection."""
        together = self._of(size) * len(KINDS)
        return together * max(1, round(self._rates[name] * seconds / size / together))

    def _rate(self, name: str, count: int, span: Span) -> Figures:
        self._rates[name] = count / span.seconds
        return {name: self._rates[name]}


def _generator(name: str, requests: int, span: Span) -> Figures:
    """How busy the load generator was, and what a request costs it."""
    return {f"busy.{name}": span.busy_percent, f"us.{name}": span.cpu_seconds / requests * 1e6}


def flush_workers(stage: Stage) -> int:
    """Processes that flush, and so connections that write."""
    parent = psutil.Process(stage.stack.pid("worker-flush"))
    return max(1, min(len(parent.children()), stage.crew.size))
