"""What the door's verdict on a reading costs: bytes of a batch in, bytes of a stream entry out."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from bench.chain import BATCH
from bench.figures import Figures
from bench.readings import Fleet
from models.kinds import KINDS
from web.body import Shape
from web.door import Lawful, judge


def measure(fleet: Fleet, seconds: float) -> Figures:
    """CPU microseconds a reading, in this process alone."""
    lawful = Lawful.at(datetime.now(UTC), age_days=7300, future_seconds=600, readings=BATCH)
    bodies = [
        (kind, f"[{','.join(fleet.objects(kind.name, range(BATCH)))}]".encode())
        for kind in KINDS.values()
    ]
    readings, began, deadline = 0, time.process_time(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        for kind, body in bodies:
            readings += judge(kind, Shape.JSON, body, lawful).accepted
    return {"validation": (time.process_time() - began) / readings * 1e6}
