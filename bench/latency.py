"""How long a reading takes from its 202 to `meter_status_latest`, and the floor: one commit."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime

from bench import Broken
from bench.chain import BATCH
from bench.copying import connect
from bench.load import Posts, receive
from bench.readings import KINDS
from bench.stage import Stage
from models import writes
from models.clock import to_us
from models.codec import Row
from models.engine import transaction
from models.kinds import METER

#: The device whose readings are followed.
PROBE = "meter-probe"
#: Between two probes, so that they meet every phase of sweep and doorbell.
PAUSE_SECONDS = (0.02, 0.12)
#: Longest wait for one reading.
PATIENCE_SECONDS = 30.0
#: Moderate load: this share of what the chain stores per second when it is driven to its limit.
LOAD_SHARE = 1 / 3

_SEEN = (
    "SELECT recorded_at FROM meter_status_latest JOIN meters ON key = device_key"
    " WHERE device_id = %s"
)

Samples = list[float]


def idle(stage: Stage, seconds: float) -> Samples:
    """Seconds from 202 to latest of each probe, while nothing else happens."""
    deadline = time.monotonic() + seconds
    return list(_probe_while(stage, lambda: time.monotonic() < deadline))


def loaded(stage: Stage, seconds: float, stored_per_second: float) -> Samples:
    """The same while batches arrive at a third of what can be stored per second."""
    interval = BATCH / (stored_per_second * LOAD_SHARE)
    requests = len(KINDS) * max(1, round(seconds / interval / len(KINDS)))
    first = stage.take(requests * BATCH // len(KINDS))
    (load,) = stage.crew.start(
        [Posts(stage.web, stage.fleet, range(requests), BATCH, first, 1, interval)]
    )
    time.sleep(interval)  # it prepares
    found = list(_probe_while(stage, lambda: not load.done()))
    load.result()
    stage.wait_until_stored()
    return found


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


def _probe_while(stage: Stage, going: Callable[[], bool]) -> Iterator[float]:
    with closing(stage.web.connect()) as http, connect(stage.database_url) as conn:
        conn.autocommit = True

        def seen() -> datetime | None:
            row = conn.execute(_SEEN, [PROBE]).fetchone()
            return row[0] if row else None

        while going():
            at = datetime.now(UTC)
            http.sendall(stage.web.post("/ingestion/meter", _reading(at)))
            receive(http, b"202")
            accepted = time.perf_counter()
            stage.rows += 1
            _wait(lambda at=at: seen() == at)  # type: ignore[misc]
            yield time.perf_counter() - accepted
            time.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311


def _reading(at: datetime) -> str:
    spelled = at.isoformat().replace("+00:00", "Z")
    return f'{{"meterId":"{PROBE}","kwhConsumedAc":1,"voltage":230,"timestamp":"{spelled}"}}'


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise Broken(f"{PROBE}: a reading is not in latest after {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.0005)
