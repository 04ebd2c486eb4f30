"""The tables: every figure with its median, its lowest and highest round, and its floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.figures import Rounds, number, percentile, spread, table
from bench.usage import Memory


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
    Line("POST, in history", "single.history", [("accepted", "single.accepted")]),
    Line(
        "GET performance of a vehicle",
        "performance",
        [("/healthz", "healthz"), ("granian alone", "bare")],
    ),
)
READINGS = (
    Line("queue taken out", "door.batch"),
    Line("accepted (202)", "batch.accepted", [("queue taken out", "door.batch")]),
    Line("in history", "batch.history", [("accepted", "batch.accepted"), ("bare COPY", "copy")]),
    Line("bare COPY", "copy"),
)
ROLLUP = (
    Line("a tick after one more minute", "rollup.tick", [("GROUP BY", "rollup.grouped")]),
    Line("plain GROUP BY over the 24 h", "rollup.grouped"),
    Line("the first tick: every hour", "rollup.first", [("GROUP BY", "rollup.grouped")]),
)
LATENCIES = (
    ("one commit of the flush", "latency.commit"),
    ("202 to latest, idle", "latency.idle"),
    ("202 to latest, moderate load", "latency.loaded"),
)
_BYTES = {"meter": 36, "vehicle": 40}  # of the columns' values


def render(rounds: Rounds, memory: Mapping[str, Memory]) -> str:
    """Everything that was measured, table by table."""
    parts = [
        _rates("Requests per second, 16 connections, one reading each", REQUESTS, rounds),
        _rates("Readings per second, batches of 500, 16 connections", READINGS, rounds),
        _latencies(rounds),
        _rates("Seconds for the rollup, 2,000 vehicles", ROLLUP, rounds),
        _sizes(rounds),
        _programs(rounds, memory),
        _generator(rounds),
    ]
    return "\n\n".join(part for part in parts if part)


def _rates(title: str, lines: Sequence[Line], rounds: Rounds) -> str:
    measured = [line for line in lines if rounds.values(line.figure)]
    rows = [
        [
            line.label,
            number(rounds.median(line.figure)),
            spread(rounds.values(line.figure)),
            _beside(line, rounds),
        ]
        for line in measured
    ]
    return table([title, "median", "lowest - highest", "ratio to"], rows) if rows else ""


def _beside(line: Line, rounds: Rounds) -> str:
    ratios = [(name, rounds.ratio(line.figure, floor)) for name, floor in line.beside]
    return ", ".join(f"{name} {number(ratio)}" for name, ratio in ratios if ratio is not None)


def _latencies(rounds: Rounds) -> str:
    measured = [(label, rounds.values(figure)) for label, figure in LATENCIES]
    rows = [
        [
            label,
            number(1000 * percentile(seconds, 0.5)),
            number(1000 * percentile(seconds, 0.99)),
            f"{len(seconds)}",
        ]
        for label, seconds in measured
        if seconds
    ]
    return table(["Milliseconds", "p50", "p99", "samples"], rows) if rows else ""


def _sizes(rounds: Rounds) -> str:
    rows = [
        [kind, number(value), f"{plain}", f"{value / plain:.1f}"]
        for kind, plain in _BYTES.items()
        if (value := rounds.median(f"bytes.{kind}")) is not None
    ]
    header = ["Bytes per reading in history", "with index", "of the values", "ratio"]
    return table(header, rows) if rows else ""


def _programs(rounds: Rounds, memory: Mapping[str, Memory]) -> str:
    rows = [
        [
            name,
            number(rounds.median(f"cpu.single.{name}")),
            number(rounds.median(f"cpu.batch.{name}")),
            f"{seen.processes}",
            number(seen.largest),
            number(seen.together),
        ]
        for name, seen in memory.items()
    ]
    header = [
        "Program",
        "CPU s per million single readings",
        "in batches",
        "processes",
        "peak RSS of one, MB",
        "of all, MB",
    ]
    return table(header, rows) if rows else ""


def _generator(rounds: Rounds) -> str:
    """The load generator is a floor too: near 100 % it would have been what was measured."""
    busy = {name: max(rounds.values(f"busy.{name}")) for name in rounds.names("busy.")}
    told = ", ".join(f"{name} {percent:.0f} %" for name, percent in busy.items())
    return f"Busiest load generator process, of its core: {told}." if told else ""
