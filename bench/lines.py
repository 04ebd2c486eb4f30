"""The rows of the report's tables: what each is called, and the figures in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Line(NamedTuple):
    """A row of a table: what it is called, the figure behind it, and the figures beside it."""

    label: str
    figure: str
    #: (name of the floor in words, its figure)
    beside: Sequence[tuple[str, str]] = ()


REQUESTS = (
    Line("GET, granian alone", "bare"),
    Line("GET /healthz: and Flask", "healthz", [("granian alone", "bare")]),
    Line("POST, queue taken out", "door.single", [("/healthz", "healthz")]),
    Line(
        "POST, accepted (202)",
        "single.accepted",
        [("queue taken out", "door.single"), ("/healthz", "healthz"), ("granian alone", "bare")],
    ),
    Line("POST, in history while they come", "single.arrived", [("accepted", "single.accepted")]),
    Line("POST, until the last is in history", "single.history", [("accepted", "single.accepted")]),
    Line(
        "GET performance of a vehicle",
        "performance",
        [("/healthz", "healthz"), ("granian alone", "bare")],
    ),
)
READINGS = (
    Line("queue taken out", "door.batch"),
    Line("accepted (202)", "batch.accepted", [("queue taken out", "door.batch")]),
    Line("in history while they come", "batch.arrived", [("accepted", "batch.accepted")]),
    Line(
        "until the last is in history",
        "batch.history",
        [("accepted", "batch.accepted"), ("bare COPY", "copy")],
    ),
    Line("bare COPY", "copy"),
)
BACKLOG = (
    Line("posted while the flush stood still", "backlog.filled"),
    Line(
        "drained while 5,000/s kept arriving, those included",
        "backlog.drained",
        [("bare COPY", "backlog.copy")],
    ),
    Line("bare COPY right after it", "backlog.copy"),
)
HISTORY = (
    Line("1 day of history", "history.few.tick", [("GROUP BY", "history.few.grouped")]),
    Line("of it CPU of the rollup's process", "history.few.tick.cpu"),
    Line("plain GROUP BY over the last 24 h", "history.few.grouped"),
    Line("10 days of history", "history.many.tick", [("GROUP BY", "history.many.grouped")]),
    Line("of it CPU of the rollup's process", "history.many.tick.cpu"),
    Line("plain GROUP BY over the last 24 h", "history.many.grouped"),
)
READS = (
    ("after the rounds", ""),
    ("after the rollup", "reads."),
    ("history of 1 day", "history.few."),
    ("history of 10 days", "history.many."),
)
LATENCIES = (
    ("one commit of the flush", "latency.commit", None),
    ("202 to latest, idle", "latency.idle", None),
    ("202 to latest, a third of what batches reached", "latency.third", "offered.third"),
    ("202 to latest, batches of 500", "latency.offered", "offered.offered"),
    ("202 to latest, single readings", "latency.singles", "offered.singles"),
)
#: Of the columns' values.
VALUE_BYTES = {"meter": 36, "vehicle": 40}
