"""The sender: batches of readings over several connections, each sent until it is accepted.

202 is the only answer after which readings may be forgotten. At 503 and 429 the sender waits as
long as the API asks, and a random bit longer so that its connections don't come back all at once;
then it sends the same bytes again. Readings that arrive twice do no harm.
"""

from __future__ import annotations

import gzip
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Self

from seed.api import Answer, Connection, RefusedError, Target, UnreachableError

#: Kind of reading to path.
PATHS = {"meter": "/ingestion/meter", "vehicle": "/ingestion/vehicle"}

#: The API has decided on each reading of the batch.
DECIDED = frozenset({HTTPStatus.ACCEPTED, HTTPStatus.UNPROCESSABLE_ENTITY})
#: The API is there and asks for patience: wait, for as long as it takes.
BUSY = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})
#: Something between here and the API is broken, perhaps for a moment.
BROKEN = frozenset(
    {HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}
)
#: A broken connection or API is given up after so many seconds.
PATIENCE_S = 120.0
#: Waits without Retry-After: the first one, doubled each time up to the last, seconds.
FIRST_WAIT_S, LAST_WAIT_S = 0.2, 10.0
#: Waits are longer than asked for by up to this share.
JITTER = 0.25
#: How often a waiting thread looks whether the others are still well, seconds.
LOOK_UP_S = 0.2


@dataclass(frozen=True, slots=True)
class Batch:
    """The body of one request."""

    kind: str
    readings: int
    body: bytes


@dataclass(slots=True)
class Tally:
    """What became of the readings; by `code` of the refusal, by reason of the retry."""

    sent: int = 0
    accepted: int = 0
    requests: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, batch: Batch, answer: Answer) -> None:
        """Books a batch that the API has decided on."""
        said = answer.json()
        refused = Counter(str(one.get("code")) for one in said.get("rejected", []))
        if not refused and answer.status == HTTPStatus.UNPROCESSABLE_ENTITY:
            refused[str(said.get("code", "HTTP 422"))] = batch.readings
        with self.lock:
            self.requests += 1
            self.sent += batch.readings
            self.accepted += batch.readings - refused.total()
            self.rejected += refused

    def retried(self, reason: str) -> None:
        """Books a batch that must be sent again."""
        with self.lock:
            self.retries[reason] += 1


class Sender:
    """A context: `put` readings inside; leaving it waits until all of them are delivered."""

    def __init__(
        self,
        target: Target,
        *,
        connections: int = 4,
        batch: int = 500,
        compress: bool = False,
        on_delivered: Callable[[int], None] = lambda _readings: None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`on_delivered` is told the readings of each decided batch, from the senders' threads."""
        self.tally = Tally()
        self._batch, self._compress = batch, compress
        self._on_delivered, self._patience_s = on_delivered, patience_s
        self._pending: dict[str, list[str]] = {kind: [] for kind in PATHS}
        # Short, so that the generator doesn't run far ahead of the API.
        self._queue: queue.Queue[Batch | None] = queue.Queue(maxsize=2 * connections)
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._threads = [
            threading.Thread(target=self._work, args=(target,), name=f"sender-{n}", daemon=True)
            for n in range(connections)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
                for _thread in self._threads:
                    self._enqueue(None)
            else:
                self._stop.set()
        finally:
            for thread in self._threads:
                thread.join()
        if error is None and self._failure:
            raise self._failure

    def put(self, kind: str, lines: Sequence[str]) -> None:
        """Takes JSON texts of readings of one kind; waits while all connections are busy."""
        pending = self._pending[kind]
        pending += lines
        full = len(pending) - len(pending) % self._batch
        for begin in range(0, full, self._batch):
            self._send(kind, pending[begin : begin + self._batch])
        del pending[:full]

    def flush(self) -> None:
        """Sends what doesn't fill a batch yet."""
        for kind, pending in self._pending.items():
            if pending:
                self._send(kind, pending)
                self._pending[kind] = []

    def _send(self, kind: str, lines: Sequence[str]) -> None:
        body = ("[" + ",".join(lines) + "]").encode()
        if self._compress:
            body = gzip.compress(body, compresslevel=1, mtime=0)
        self._enqueue(Batch(kind, len(lines), body))

    def _enqueue(self, batch: Batch | None) -> None:
        while not self._failure:
            try:
                return self._queue.put(batch, timeout=LOOK_UP_S)
            except queue.Full:
                # Look whether anybody still works on the queue.
                continue
        raise self._failure

    def _batches(self) -> Iterator[Batch]:
        """What there is to send, until the sender is left or stops."""
        while not self._stop.is_set():
            try:
                batch = self._queue.get(timeout=LOOK_UP_S)
            except queue.Empty:
                continue
            if batch is None:
                return
            yield batch

    def _work(self, target: Target) -> None:
        connection = Connection(target)
        try:
            for batch in self._batches():
                self._deliver(connection, batch)
        except Exception as error:  # Raised again in the thread that uses the sender.
            self._failure = self._failure or error
            self._stop.set()
        finally:
            connection.close()

    def _deliver(self, connection: Connection, batch: Batch) -> None:
        """Sends a batch until it is decided on, or the sender stops."""
        wait_s, working = FIRST_WAIT_S, time.monotonic()
        while not self._stop.is_set():
            answer = self._post(connection, batch)
            if answer and answer.status in DECIDED:
                self.tally.answered(batch, answer)
                self._on_delivered(batch.readings)
                return
            if answer and answer.status not in BUSY | BROKEN:
                raise RefusedError(f"{answer.problem()} (batches of {batch.readings} readings)")
            reason = answer.problem() if answer else "connection lost"
            self.tally.retried(reason)
            if answer and answer.status in BUSY:
                working = time.monotonic()
            elif time.monotonic() - working > self._patience_s:
                raise UnreachableError(f"gave up after {self._patience_s:.0f} s: {reason}")
            self._stop.wait(pause_s(answer, wait_s))
            wait_s = min(LAST_WAIT_S, 2 * wait_s)

    def _post(self, connection: Connection, batch: Batch) -> Answer | None:
        extra = {"Content_Encoding": "gzip"} if self._compress else {}
        path = PATHS[batch.kind]
        return connection.request(
            "POST", path, batch.body, Content_Type="application/json", **extra
        )


def pause_s(answer: Answer | None, otherwise_s: float) -> float:
    """Seconds to wait before sending again: at least what the API asks for, with jitter."""
    asked_s = answer.retry_after_s(time.time()) if answer else None
    # "Retry-After: 0" must not become a busy loop.
    least_s = otherwise_s if asked_s is None else max(asked_s, FIRST_WAIT_S)
    return least_s * random.uniform(1, 1 + JITTER)
