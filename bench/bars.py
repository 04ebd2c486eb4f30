"""What must be reached, beside what this run reached. A bar that is not met breaks nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.figures import Rounds, number, table

#: Absolute figures are meant for so many cores; fewer have to reach as much less.
CORES = 4
#: What some of the bars are meant for: vehicles, rows of history, readings that wait.
VEHICLES, ROWS, BACKLOG_READINGS = 10_000, 28_800_000, 2_000_000

Found = Callable[[Rounds], float | None]


@dataclass(frozen=True, slots=True)
class Bar:
    """One of them. `found` is None when the run did not measure it."""

    what: str
    found: Found
    target: float
    at_least: bool = True
    #: Requests or readings per second: a matter of cores.
    absolute: bool = False
    unit: str = ""
    #: What the run was too small for; None when it was not.
    reservation: Callable[[Rounds], str | None] = lambda _: None

    def wanted(self, cores: int) -> float:
        """The target on a machine with so many cores."""
        return self.target * min(1.0, cores / CORES) if self.absolute else self.target

    def is_met(self, value: float, cores: int) -> bool:
        """Whether `value` reaches it."""
        wanted = self.wanted(cores)
        return value >= wanted if self.at_least else value <= wanted

    def spelled(self, cores: int) -> str:
        """e.g. "at least 0.6", "at most 100 ms"."""
        side = "at least" if self.at_least else "at most"
        return f"{side} {self.wanted(cores):,g}{self.unit}"


def _ratio(name: str, floor: str) -> Found:
    return lambda rounds: rounds.ratio(name, floor)


def _median(name: str) -> Found:
    return lambda rounds: rounds.median(name)


def _milliseconds(name: str, share: float) -> Found:
    def found(rounds: Rounds) -> float | None:
        seconds = rounds.percentile(name, share)
        return None if seconds is None else 1000 * seconds

    return found


def reads(rounds: Rounds) -> str:
    """Before which history GETs were measured: the roll-up's day, or else what the rounds left."""
    return "reads." if rounds.values("reads.performance") else ""


def _reads_ratio(rounds: Rounds) -> float | None:
    before = reads(rounds)
    return rounds.ratio(f"{before}performance", f"{before}healthz")


def _reads_p99_ms(rounds: Rounds) -> float | None:
    seconds = rounds.median_percentile(f"{reads(rounds)}performance.half", 0.99)
    return None if seconds is None else 1000 * seconds


def _largest_bytes(rounds: Rounds) -> float | None:
    return max(
        (rounds.median(f"bytes.{kind}") or 0 for kind in rounds.names("bytes.")), default=None
    )


def _growth(name: str, floor: str) -> Found:
    """After ten times the history, of before: minutes lie between, so each beside its own floor."""

    def found(rounds: Rounds) -> float | None:
        few, many = (
            rounds.ratio(f"history.{days}.{name}", f"history.{days}.{floor}")
            for days in ("few", "many")
        )
        return many / few if few and many else None

    return found


def _too_few_rows(rounds: Rounds) -> str | None:
    rows = rounds.median(f"{reads(rounds)}rows") or 0
    return None if rows >= ROWS else f"with {rows:,.0f} rows, not {ROWS:,}"


def _too_few_vehicles(rounds: Rounds) -> str | None:
    vehicles = rounds.median("rollup.vehicles") or 0
    return None if vehicles >= VEHICLES else f"{vehicles:,.0f} vehicles, not {VEHICLES:,}"


def _too_small_a_backlog(rounds: Rounds) -> str | None:
    readings = rounds.median("backlog.readings") or 0
    return None if readings >= BACKLOG_READINGS else f"{readings:,.0f} readings, not 2 M"


BARS = (
    Bar("batches of 500, readings/s accepted", _median("batch.accepted"), 250_000, absolute=True),
    Bar("validation of a reading in a batch", _median("validation"), 2, at_least=False, unit=" µs"),
    Bar("batches of 500 in history, of bare COPY", _ratio("batch.history", "copy"), 0.7),
    Bar(
        "single POSTs accepted, of the queue taken out",
        _ratio("single.accepted", "door.single"),
        0.6,
    ),
    Bar("single POSTs accepted/s", _median("single.accepted"), 10_000, absolute=True),
    Bar(
        "single POSTs in history/s while they come", _median("single.arrived"), 6_000, absolute=True
    ),
    Bar(
        "202 to latest, 10,000/s offered: p50",
        _milliseconds("latency.offered", 0.5),
        100,
        at_least=False,
        unit=" ms",
    ),
    Bar(
        "202 to latest, 10,000/s offered: p99",
        _milliseconds("latency.offered", 0.99),
        500,
        at_least=False,
        unit=" ms",
    ),
    Bar("GET performance, of /healthz", _reads_ratio, 0.5, reservation=_too_few_rows),
    Bar(
        "GET performance at half load: p99",
        _reads_p99_ms,
        10,
        at_least=False,
        unit=" ms",
        reservation=_too_few_rows,
    ),
    Bar(
        "GET performance after 10 times the history, of before",
        _growth("performance", "healthz"),
        0.9,
    ),
    Bar(
        "backlog drained, of bare COPY",
        _ratio("backlog.drained", "backlog.copy"),
        0.7,
        reservation=_too_small_a_backlog,
    ),
    Bar("bytes per reading in history", _largest_bytes, 100, at_least=False),
    Bar(
        "a tick after one more minute, of the GROUP BY",
        _ratio("rollup.tick", "rollup.grouped"),
        0.25,
        at_least=False,
        reservation=_too_few_vehicles,
    ),
    Bar(
        "a tick after 10 times the history, of before",
        _growth("tick", "grouped"),
        1.1,
        at_least=False,
    ),
)


def render(rounds: Rounds, cores: int | None = None, bars: Sequence[Bar] = BARS) -> str:
    """Every bar that was measured: its target here, the figure, whether it is met."""
    here = cores or os.cpu_count() or 1
    rows = [
        [
            bar.what,
            bar.spelled(CORES),
            bar.spelled(here),
            number(value) + bar.unit,
            _verdict(bar, value, here, rounds),
        ]
        for bar in bars
        if (value := bar.found(rounds)) is not None
    ]
    header = ["Bars", f"on {CORES} cores", f"on these {here}", "this run", ""]
    return table(header, rows) if rows else ""


def _verdict(bar: Bar, value: float, cores: int, rounds: Rounds) -> str:
    verdict = "met" if bar.is_met(value, cores) else "NOT met"
    reservation = bar.reservation(rounds)
    return verdict if reservation is None else f"{verdict} ({reservation})"
