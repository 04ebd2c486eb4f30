"""Catching up: two million readings wait, the flush starts, and readings keep arriving meanwhile.

The stream keeps the limits it has in the product. When so many readings do not fit, the door says
503 and the run is broken, which is what it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from threading import Event, Thread

from bench import Broken
from bench.bars import BACKLOG_READINGS
from bench.chain import BATCH, Chain
from bench.figures import Figures
from bench.load import BATCH_CONNECTIONS, Posts, receive
from bench.progress import say
from bench.readings import KINDS
from bench.stage import Stage
from models.kinds import KINDS as TABLES
from workers import stream

#: What keeps arriving.
ARRIVING_PER_SECOND = 5_000.0
#: Longest time to drain.
PATIENCE_SECONDS = 600.0
#: Between two looks at the stream; between two at the memory of all processes.
_LOOK_SECONDS, _MEMORY_SECONDS = 0.02, 0.5
#: Seconds of the bare COPY right after it, the floor.
_COPY_SECONDS = 4.0
_MB = 1_000_000


@dataclass(slots=True)
class Drained:
    """What was seen while the backlog went; monotonic seconds."""

    started: float
    #: When the first of it was committed, and when all of it was.
    moved: float = 0.0
    ended: float = 0.0
    #: Committed in between, later ones among them.
    readings: int = 0
    memory_mb: float = 0.0


def measure(stage: Stage, chain: Chain, readings: int = BACKLOG_READINGS) -> Figures:
    """Fill, drain, and the floor right after it."""
    stage.stack.supervisor.stop("worker-flush")
    requests = max(1, readings // BATCH // len(KINDS)) * len(KINDS)
    say(f"backlog: the flush is stopped, {requests * BATCH:,} readings are posted")
    first = stage.take(requests * BATCH // len(KINDS))
    filled = stage.post(stage.web, requests, BATCH, first, connections=BATCH_CONNECTIONS)
    held = _memory_mb()
    say("backlog: the flush starts")
    with stage.usage.afresh(_MEMORY_SECONDS) as memory, _arriving(stage):
        drained = _drain(stage)
    stage.wait_until_stored()
    floor = chain.copy(_COPY_SECONDS)
    return {
        "backlog.readings": requests * BATCH,
        "backlog.filled": requests * BATCH / filled.seconds,
        "backlog.stream": max(held, drained.memory_mb),
        "backlog.limit": _limit_mb(),
        "backlog.seconds": drained.ended - drained.started,
        "backlog.start": drained.moved - drained.started,
        "backlog.drained": drained.readings / (drained.ended - drained.moved),
        "backlog.copy": floor["copy"],
        **{f"backlog.rss.{name}": seen.largest for name, seen in memory.items()},
    }


def _drain(stage: Stage) -> Drained:
    """Start the flush; return when nothing that was waiting then is left."""
    newest_us, committed = stream.now_us(), stage.committed()
    found = Drained(time.monotonic())
    # Started from a thread: supervisor answers when the program has run for a second.
    starting = Thread(target=stage.start, args=["worker-flush"])
    starting.start()
    while True:
        gone, now = stage.committed() - committed, time.monotonic()
        if gone and not found.moved:
            found.moved = now
            committed += gone  # the first of it went in an unknown time: it does not count
        found.memory_mb = max(found.memory_mb, _memory_mb())
        oldest = [us for kind in TABLES.values() if (us := stream.oldest_us(kind)) is not None]
        if all(us > newest_us for us in oldest):
            break
        if now > found.started + PATIENCE_SECONDS:
            raise Broken(f"the backlog is not drained after {PATIENCE_SECONDS:.0f} s")
        time.sleep(_LOOK_SECONDS)
    found.ended, found.readings = time.monotonic(), stage.committed() - committed
    starting.join()
    return found


@contextmanager
def _arriving(stage: Stage) -> Iterator[None]:
    """Batches keep coming at planned instants until the block ends. Raises Broken for a refusal."""
    over, failures = Event(), list[Exception]()

    def send() -> None:
        try:
            _send_until(over, stage)
        except (Broken, OSError) as error:
            failures.append(error)

    sender = Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()
    if failures:
        raise Broken(f"while the backlog was drained: {failures[0]}")


def _send_until(over: Event, stage: Stage) -> None:
    interval, due = BATCH / ARRIVING_PER_SECOND, time.monotonic()
    with closing(stage.web.connect()) as connection:
        while not over.wait(max(0.0, due - time.monotonic())):
            turns = Posts(stage.web, stage.fleet, range(0), BATCH, stage.take(BATCH), 1)
            for number in range(len(KINDS)):
                connection.sendall(turns.request(number))
                receive(connection, b"202")
            due += interval * len(KINDS)


def _memory_mb() -> float:
    return float(stream.client().info("memory")["used_memory"]) / _MB


def _limit_mb() -> float:
    """What the stream's server may hold at most."""
    return float(stream.client().info("memory")["maxmemory"]) / _MB
