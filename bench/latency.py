"""How long a reading takes from its 202 to `meter_status_latest`, and the floor: one commit."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event

from bench import Broken
from bench.chain import BATCH, Chain
from bench.copying import connect
from bench.figures import Figures
from bench.load import BATCH_CONNECTIONS, CONNECTIONS, Posts, receive, shares
from bench.readings import KINDS
from bench.stage import Stage
from models import writes
from models.clock import to_us
from models.codec import Row
from models.engine import transaction
from models.kinds import METER

#: Devices whose readings are followed; each has one reading on its way at a time.
PROBES = tuple(f"meter-probe-{number:02d}" for number in range(16))
#: Between two probes, so that they meet every phase of sweep and doorbell: while nothing else
#: happens, and beside a load that they hardly add to.
IDLE_PAUSE_SECONDS, LOADED_PAUSE_SECONDS = (0.02, 0.12), (0.005, 0.025)
#: Between two looks at latest.
LOOK_SECONDS = 0.001
#: Longest wait for one reading.
PATIENCE_SECONDS = 30.0
#: Moderate load: this share of what the chain stores per second when it is driven to its limit.
LOAD_SHARE = 1 / 3
#: What issue and docs/performance.md name.
OFFERED_PER_SECOND = 10_000.0
#: Of what is accepted at most, this much single readings are offered: more would measure a queue.
SINGLE_SHARE = 0.5
#: A load begins so many seconds before the probes count.
_RAMP_SECONDS = 0.2

_SEEN = (
    "SELECT device_id, recorded_at FROM meter_status_latest JOIN meters ON key = device_key"
    " WHERE device_id = ANY (%s)"
)

Samples = list[float]


@dataclass(slots=True)
class Probe:
    """One reading that is followed; instants are monotonic seconds."""

    device: str
    at: datetime
    accepted: float = 0.0
    seen: float | None = None


def measure(stage: Stage, chain: Chain, seconds: float) -> Figures:
    """One round: the floor, idle, and beside three kinds of load."""
    batches = chain.rate("batch.history") * LOAD_SHARE
    singles = min(OFFERED_PER_SECOND, chain.rate("single.accepted") * SINGLE_SHARE)
    return {
        "latency.commit": commits(stage, seconds / 3),
        "latency.idle": idle(stage, seconds),
        "latency.third": loaded(stage, seconds, batches, BATCH),
        "latency.offered": loaded(stage, seconds, OFFERED_PER_SECOND, BATCH),
        "latency.singles": loaded(stage, seconds, singles, 1),
        "offered.third": batches,
        "offered.offered": OFFERED_PER_SECOND,
        "offered.singles": singles,
    }


def idle(stage: Stage, seconds: float) -> Samples:
    """Seconds from 202 to latest of each probe, while nothing else happens."""
    deadline = time.monotonic() + seconds
    followed = _follow(stage, lambda: time.monotonic() < deadline, IDLE_PAUSE_SECONDS)
    return [_seconds(probe) for probe in followed]


def loaded(stage: Stage, seconds: float, readings_per_second: float, size: int) -> Samples:
    """The same beside requests of `size` readings that leave at planned instants."""
    crew, per_second = stage.crew, readings_per_second / size
    requests = len(KINDS) * max(1, round(seconds * per_second / len(KINDS)))
    first = stage.take(requests * size // len(KINDS))
    each = (CONNECTIONS if size == 1 else BATCH_CONNECTIONS) // crew.size
    parts = zip(shares(requests, crew.size), stage.paces(per_second), strict=True)
    load = crew.start(
        [Posts(stage.web, stage.fleet, part, size, first, each, pace) for part, pace in parts]
    )
    followed = _follow(stage, lambda: not all(one.done() for one in load), LOADED_PAUSE_SECONDS)
    done = [one.result() for one in load]
    begin, end = min(one.began for one in done) + _RAMP_SECONDS, max(one.ended for one in done)
    stage.wait_until_stored()
    return [_seconds(probe) for probe in followed if begin <= probe.accepted <= end]


def commits(stage: Stage, seconds: float) -> Samples:
    """Seconds of the flush's transaction for one reading: history, latest, COMMIT on disk."""
    deadline, found = time.monotonic() + seconds, []
    with transaction() as conn:
        fleet = conn.exec_driver_sql("SELECT min(id) FROM fleets").scalar_one()
        keys = writes.resolve_devices(conn, METER, {(fleet, "meter-commit")})
    (key,) = keys.values()
    while time.monotonic() < deadline:
        now_us = to_us(datetime.now(UTC))
        began = time.perf_counter()
        with transaction() as conn:
            writes.store(conn, METER, [Row(key, now_us, now_us, (1.0, 230.0))])
        found.append(time.perf_counter() - began)
        stage.rows += 1
        time.sleep(0.01)
    return found


def _seconds(probe: Probe) -> float:
    assert probe.seen is not None  # noqa: S101  (narrows; `_follow` waits for it)
    return max(0.0, probe.seen - probe.accepted)  # seen before the 202 was read: no time at all


def _follow(
    stage: Stage, going: Callable[[], bool], pause_seconds: tuple[float, float]
) -> list[Probe]:
    """Send probes while it goes on, another thread looking for them; all, once all are seen."""
    free, sent = deque(PROBES), []
    underway: list[Probe] = []
    over = Event()
    with ThreadPoolExecutor(1) as pool, closing(stage.web.connect()) as http:
        watching = pool.submit(_watch, stage.database_url, underway, over)
        try:
            while going():
                if free:
                    probe = Probe(free.popleft(), datetime.now(UTC))
                    underway.append(probe)
                    http.sendall(stage.web.post("/ingestion/meter", _reading(probe)))
                    receive(http, b"202")
                    probe.accepted = time.monotonic()
                    stage.rows += 1
                    sent.append(probe)
                time.sleep(random.uniform(*pause_seconds))  # noqa: S311
                _set_free(underway, free)
        finally:
            over.set()
        watching.result()
    return sent


def _set_free(underway: list[Probe], free: deque[str]) -> None:
    now = time.monotonic()
    for probe in [probe for probe in underway if probe.seen is not None]:
        underway.remove(probe)
        free.append(probe.device)
    late = [probe for probe in underway if now > probe.accepted + PATIENCE_SECONDS]
    if late:
        raise Broken(f"{late[0].device}: not in latest after {PATIENCE_SECONDS:.0f} s")


def _watch(database_url: str, underway: list[Probe], over: Event) -> None:
    """Note when each probe is in latest; until it is over and all are."""
    given_up = None
    with connect(database_url) as conn:
        conn.autocommit = True
        while (missing := [probe for probe in underway if probe.seen is None]) or not over.is_set():
            if missing:
                wanted = [probe.device for probe in missing]
                latest = dict(conn.execute(_SEEN, [wanted]).fetchall())
                now = time.monotonic()
                for probe in missing:
                    if latest.get(probe.device) == probe.at:
                        probe.seen = now
            if over.is_set():
                given_up = given_up or time.monotonic() + PATIENCE_SECONDS
                if time.monotonic() > given_up:
                    raise Broken(f"probes are not in latest after {PATIENCE_SECONDS:.0f} s")
            time.sleep(LOOK_SECONDS)


def _reading(probe: Probe) -> str:
    spelled = probe.at.isoformat().replace("+00:00", "Z")
    return f'{{"meterId":"{probe.device}","kwhConsumedAc":1,"voltage":230,"timestamp":"{spelled}"}}'
