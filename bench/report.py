"""The tables: every figure with its median, its lowest and highest round, and its floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench import bars
from bench.figures import Rounds, number, spread, table
from bench.lines import (
    BACKLOG,
    HISTORY,
    LATENCIES,
    READINGS,
    READS,
    REQUESTS,
    VALUE_BYTES,
    Line,
)
from bench.load import BATCH_CONNECTIONS, CONNECTIONS
from bench.usage import Memory


def render(rounds: Rounds, memory: Mapping[str, Memory], connections: int = CONNECTIONS) -> str:
    """Everything that was measured, table by table; the bars last."""
    batches = min(connections, BATCH_CONNECTIONS)
    parts = [
        _rates(
            f"Requests per second, {connections} connections, one reading each", REQUESTS, rounds
        ),
        _rates(f"Readings per second, batches of 500, {batches} connections", READINGS, rounds),
        _latencies(rounds),
        _reads(rounds),
        _rates("Readings per second, catching up", BACKLOG, rounds),
        _backlog(rounds),
        *(_rollup(name, rounds) for name in ("rollup", "charging")),
        _rates("Seconds of a tick of the rollup, by history", HISTORY, rounds),
        _sizes(rounds),
        _programs(rounds, memory),
        _generator(rounds),
        bars.render(rounds),
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
    rows = [
        [
            label,
            number(rounds.median(offered)) if offered else "-",
            _milliseconds(rounds, figure, 0.5),
            _milliseconds(rounds, figure, 0.99),
            f"{len(rounds.values(figure))}",
        ]
        for label, figure, offered in LATENCIES
        if rounds.values(figure)
    ]
    header = ["Milliseconds", "readings/s offered", "p50", "p99", "samples"]
    return table(header, rows) if rows else ""


def _reads(rounds: Rounds) -> str:
    """GETs as fast as they go, and the latencies at half of that."""
    rows = [
        [
            label,
            number(rounds.median(f"{before}rows")),
            number(rounds.median(f"{before}performance")),
            number(rounds.ratio(f"{before}performance", f"{before}healthz")),
            *(
                _spelled(rounds.median_percentile(f"{before}performance.{load}", share))
                for load, share in _LATENCIES_OF_READS
            ),
            number(1000 * max(rounds.percentiles(f"{before}performance.half", 0.99))),
        ]
        for label, before in READS
        if rounds.values(f"{before}performance")
    ]
    header = [
        "GET performance",
        "rows in history",
        "per second",
        "of /healthz",
        "p50 at half load, ms",
        "p99",
        "p99 until sent",
        "p50 at a quarter",
        "p99",
        "granian alone at half: p50",
        "p99",
        "p99 at half load in the slowest round",
    ]
    return table(header, rows) if rows else ""


#: In the order of the columns.
_LATENCIES_OF_READS = (
    ("half", 0.5),
    ("half", 0.99),
    ("late", 0.99),
    ("quarter", 0.5),
    ("quarter", 0.99),
    ("floor", 0.5),
    ("floor", 0.99),
)


def _milliseconds(rounds: Rounds, figure: str, share: float) -> str:
    return _spelled(rounds.percentile(figure, share))


def _spelled(seconds: float | None) -> str:
    return "-" if seconds is None else number(1000 * seconds)


def _backlog(rounds: Rounds) -> str:
    """What a table of rates does not hold."""
    seconds = rounds.median("backlog.seconds")
    if seconds is None:
        return ""
    stream, limit = rounds.median("backlog.stream"), rounds.median("backlog.limit")
    held = ", ".join(
        f"{name} {number(rounds.median(f'backlog.rss.{name}'))}"
        for name in rounds.names("backlog.rss.")
    )
    return (
        f"Backlog: drained {number(seconds)} s after the flush was told to start, of which it took "
        f"{number(rounds.median('backlog.start'))} s to begin. The stream's server held at most "
        f"{number(stream)} of its {number(limit)} MB. Peak RSS of one process, MB: {held}."
    )


def _rollup(name: str, rounds: Rounds) -> str:
    """One habit of the fleet: ticks, and what they are held against."""
    vehicles = rounds.median(f"{name}.vehicles")
    if vehicles is None:
        return ""
    grouped = [("GROUP BY", f"{name}.grouped")]
    lines = (
        Line("a tick after one more minute", f"{name}.tick", grouped),
        Line("of it CPU of the rollup's process", f"{name}.tick.cpu"),
        Line("plain GROUP BY over the 24 h", f"{name}.grouped"),
        Line("the first tick of a new process", f"{name}.cold", grouped),
        Line("the first tick of all: every hour", f"{name}.first", grouped),
    )
    habit = "charging three hours a day" if name == "rollup" else "charging day and night"
    written = _rates(f"Seconds for the rollup, {vehicles:,.0f} vehicles {habit}", lines, rounds)
    workers = rounds.median("rollup.workers") or 0
    plan = f"planned with {workers:.0f} parallel workers" if workers else "not parallel"
    ticks = rounds.median(f"{name}.ticks")
    return (
        f"{written}\n\nThe GROUP BY was {plan}; calls of the tick until all was done: {ticks:.0f}."
    )


def _sizes(rounds: Rounds) -> str:
    rows = [
        [
            kind,
            *(
                number(rounds.median(f"{part}.{kind}"))
                for part in ("written", "heap", "index", "bytes")
            ),
            f"{plain}",
            f"{value / plain:.1f}",
        ]
        for kind, plain in VALUE_BYTES.items()
        if (value := rounds.median(f"bytes.{kind}")) is not None
    ]
    header = [
        "Bytes per reading in history",
        "as written",
        "kept: rows",
        "index",
        "together",
        "of the values",
        "ratio",
    ]
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
    cost = {name: rounds.median(f"us.{name}") for name in busy}
    told = ", ".join(
        f"{name} {percent:.0f} %{f' ({number(cost[name])} µs)' if cost[name] else ''}"
        for name, percent in busy.items()
    )
    if not told:
        return ""
    return f"Busiest load generator process, of its core (CPU of a request): {told}."
