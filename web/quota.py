"""What one key may do: requests and readings a second, over all web processes together.

A process decides by what it knows, so a request costs no question to anybody. Four times a second
the processes tell each other, over the stream's Redis, what their keys have used, and each takes
the others' use off its own buckets. Between two tellings each could let through what a bucket
still holds; what was too much then is a debt, and paid off by waiting. While Redis does not answer
each process counts for itself.

A batch counts when it is accepted, however large: who has anything left may send one, and the
bucket goes below zero. So a limit never makes a lawful batch impossible, and a refusal is made
before a byte of the body is read.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import structlog

import settings
from web.refusals import Refused
from workers import stream
from workers.stream import StreamUnavailable

log = structlog.get_logger(__name__)

REQUESTS, READINGS = "requests", "readings"
#: A bucket holds the allowance of so many seconds: who was silent may send a burst.
BURST_SECONDS = 10.0
#: The processes tell each other this often.
SHARE_SECONDS = 0.25
#: After a telling that failed, none is tried for this long.
SILENCE_SECONDS = 5.0
#: The longest that a sender is told to wait; with a larger debt it is told so again.
MAX_WAIT_SECONDS = 60
#: Buckets of a process; with more, all start afresh (full).
MAX_BUCKETS = 20_000

#: Tells what was used and returns what all processes together ever used, by name.
Share = Callable[[Mapping[str, int]], Mapping[str, int]]


class Bucket:
    """An allowance that fills up steadily; below zero it is a debt. Times in seconds."""

    __slots__ = ("_at", "_level", "_used", "rate", "seen", "unsaid")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._at, self._level, self._used = now, rate * BURST_SECONDS, 0
        #: Used here and not told the others yet.
        self.unsaid = 0
        #: What all had used at the last telling; None before the first.
        self.seen: int | None = None

    def level(self, now: float) -> float:
        """What is left."""
        return min(self._filled(now), self.rate * BURST_SECONDS) - self._used

    def use(self, count: int) -> None:
        """Take `count` out, even if so much is not there."""
        self._used += count
        self.unsaid += count

    def hear(self, said: int, total: int | None) -> int:
        """What others used since the last telling, given that we said `said`.

        A total of None was not to be had; `said` is then told again. A total smaller than the last
        is that of a server that lost its count.
        """
        if total is None:
            return 0
        others = 0 if self.seen is None else max(0, total - self.seen - said)
        self.seen, self.unsaid = total, self.unsaid - said
        return others

    def settle(self, now: float, others: int) -> None:
        """Book what others used since the last time. Before the cap: their use was spread out."""
        left = self._filled(now) - self._used - others
        self._level, self._at, self._used = min(left, self.rate * BURST_SECONDS), now, 0

    def _filled(self, now: float) -> float:
        return self._level + self.rate * max(0.0, now - self._at)


class Quota:
    """One process's view of what each key has left."""

    def __init__(
        self,
        share: Share = stream.share_usage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share, self._clock = share, clock
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._told_at = clock()
        self._buckets: dict[str, Bucket] = {}
        #: Of these something is to be told or heard at the next telling.
        self._touched: set[str] = set()

    def admit(self, key_id: str) -> None:
        """Count a request of this key. Raises Refused RATE_LIMITED when it has nothing left."""
        if rates := _rates():
            self._exchange()
        for name, wait in self._waits(key_id, rates):
            detail = f"This key may send {rates[name]:g} {name} a second."
            raise Refused("RATE_LIMITED", detail, retry_after=min(wait, MAX_WAIT_SECONDS))
        self.count_request(key_id)

    def has_left(self, key_id: str) -> bool:
        """Whether `admit` is sure to admit, and need tell nobody first. Counts nothing."""
        rates = _rates()
        if not rates:
            return True
        is_told = self._clock() - self._told_at < SHARE_SECONDS or self._telling.locked()
        return is_told and not any(self._waits(key_id, rates))

    def count_request(self, key_id: str) -> None:
        """Count a request that was found to have something left."""
        self._use(key_id, REQUESTS, settings.load().key_requests_per_second, 1)

    def count_readings(self, key_id: str, count: int) -> None:
        """Count accepted readings of this key."""
        self._use(key_id, READINGS, settings.load().key_readings_per_second, count)

    def _waits(self, key_id: str, rates: Mapping[str, float]) -> Iterator[tuple[str, int]]:
        """Of what a key has nothing left, and for how many seconds."""
        for name, rate in rates.items():
            if wait := self._wait_seconds(f"{key_id}:{name}", rate):
                yield name, wait

    def _wait_seconds(self, name: str, rate: float) -> int:
        with self._lock:
            level = self._bucket(name, rate).level(self._clock())
        # A whole one must be there, or all that fits into a small bucket.
        missing = min(1.0, rate * BURST_SECONDS) - level
        return math.ceil(missing / rate) if missing > 0 else 0

    def _use(self, key_id: str, name: str, rate: float, count: int) -> None:
        if rate > 0:
            with self._lock:
                self._bucket(f"{key_id}:{name}", rate).use(count)

    def _bucket(self, name: str, rate: float) -> Bucket:
        self._touched.add(name)
        bucket = self._buckets.get(name)
        if bucket is None or bucket.rate != rate:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.clear()
            bucket = self._buckets[name] = Bucket(rate, self._clock())
        return bucket

    def _exchange(self) -> None:
        """Tell and hear what was used, if it is time; one thread does, the others go on."""
        if self._clock() - self._told_at < SHARE_SECONDS or not self._telling.acquire(
            blocking=False
        ):
            return
        try:
            self._told_at = self._clock()
            with self._lock:
                names, self._touched = self._touched, set()
                touched = {name: self._buckets[name] for name in names if name in self._buckets}
                said = {name: bucket.unsaid for name, bucket in touched.items()}
            totals = self._heard(said)
            with self._lock:
                for name, bucket in touched.items():
                    bucket.settle(self._clock(), bucket.hear(said[name], totals.get(name)))
        finally:
            self._telling.release()

    def _heard(self, said: Mapping[str, int]) -> Mapping[str, int]:
        """What all have used; nothing when the server does not say."""
        try:
            return self._share(said) if said else {}
        except StreamUnavailable as error:
            log.warning("quota counted per process", error=str(error))
            self._told_at += SILENCE_SECONDS  # whoever asks waits for a server that hangs
            return {}


def _rates() -> dict[str, float]:
    """What is limited, and to how much a second."""
    limits = settings.load()
    rates = {REQUESTS: limits.key_requests_per_second, READINGS: limits.key_readings_per_second}
    return {name: rate for name, rate in rates.items() if rate > 0}
