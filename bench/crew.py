"""Processes that live as long as the benchmark: they generate the load and write the bare COPY.

A task first prepares (builds requests, connects), then all processes begin at the same moment.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from typing import Protocol

from bench.pacing import Answers

#: Longest time for everybody to be prepared.
PREPARE_SECONDS = 120.0


class Task(Protocol):
    """What one process does; must survive pickling."""

    def prepare(self) -> Callable[[], Answers]:
        """Do everything that is not to be measured; the answer is what is."""


@dataclass(frozen=True, slots=True)
class Done:
    """When a measured part began and ended (monotonic seconds), and the CPU seconds it took."""

    began: float
    ended: float
    cpu_seconds: float
    #: Of an open loop.
    answers: Answers = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Span:
    """From the first beginning to the last end of a set of tasks."""

    began: float
    ended: float
    #: Of its core, what the busiest process used, %. Near 100 the load generator is the bottleneck.
    busy_percent: float
    #: CPU seconds of all processes together.
    cpu_seconds: float = 0.0
    #: Of an open loop, all processes' together.
    answers: Answers = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


def span(done: Sequence[Done]) -> Span:
    """All of it together."""
    busy = max(100 * one.cpu_seconds / max(one.ended - one.began, 1e-9) for one in done)
    return Span(
        min(one.began for one in done),
        max(one.ended for one in done),
        busy,
        sum(one.cpu_seconds for one in done),
        [answer for one in done for answer in one.answers],
    )


class Crew:
    """The processes, idle between two calls of `run`."""

    def __init__(self, pool: ProcessPoolExecutor, size: int) -> None:
        self._pool = pool
        self.size = size
        waiting = [pool.submit(_begin_together, size) for _ in range(size)]
        self.pids = [future.result() for future in waiting]

    def run(self, tasks: Sequence[Task]) -> Span:
        """Do all tasks at once, one per process; raises what one of them raised."""
        return span([future.result() for future in self.start(tasks)])

    def start(self, tasks: Sequence[Task]) -> list[Future[Done]]:
        """The same without waiting for the end. At most `size` tasks."""
        return [self._pool.submit(_work, task, len(tasks)) for task in tasks]


@contextmanager
def hired(size: int) -> Iterator[Crew]:
    """A crew of `size` processes, sent home at the end."""
    context = multiprocessing.get_context("spawn")
    barriers = {parties: context.Barrier(parties) for parties in range(1, size + 1)}
    with ProcessPoolExecutor(
        size, mp_context=context, initializer=_remember, initargs=(barriers,)
    ) as pool:
        yield Crew(pool, size)


_barriers: dict[int, Barrier] = {}


def _remember(barriers: dict[int, Barrier]) -> None:
    _barriers.update(barriers)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to handle


def _begin_together(parties: int) -> int:
    _barriers[parties].wait(PREPARE_SECONDS)
    return os.getpid()


def _work(task: Task, parties: int) -> Done:
    measured = task.prepare()
    gc.collect()
    gc.disable()  # a pause of ours would look like one of the server's
    try:
        _begin_together(parties)
        began, cpu_began = time.monotonic(), time.process_time()
        answers = measured()
        return Done(began, time.monotonic(), time.process_time() - cpu_began, answers)
    finally:
        gc.enable()
