"""The command line: what is measured, how long, how large."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.bars import BACKLOG_READINGS
from bench.load import CONNECTIONS

#: --only NAME, in the order of a run, with what is said while it is measured.
MEASUREMENTS = {
    "bare": "granian alone",
    "healthz": "GET /healthz",
    "door": "ingest route without the queue",
    "validation": "the door's verdict alone",
    "single": "single POSTs",
    "batch": "batches of 500",
    "copy": "bare COPY",
    "performance": "GET performance",
    "latency": "202 to latest",
    "backlog": "catching up with a backlog",
    "rollup": "rollup, charging three hours a day; GET performance beside its history",
    "rollup-charging": "rollup, charging day and night",
    "history": "rollup and GET performance with 1 and with 10 days of history",
}
#: Measured only when named.
_ON_REQUEST = {"rollup-charging"}
_SECONDS = {"single": 4.0, "batch": 5.0, "validation": 0.5}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is of what takes long to make."""

    #: Of the rollup's fleet, and of `history`'s.
    vehicles: int
    small_fleet: int
    backlog: int = BACKLOG_READINGS


DEFAULT = Sizes(2_000, 200)
QUICK = Sizes(100, 20, 100_000)
FULL = Sizes(10_000, 1_000)


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    only: frozenset[str]
    rounds: int
    sizes: Sizes
    quick: bool
    growth: bool
    connections: int
    folder: Path | None

    def wants(self, name: str) -> bool:
        """Whether this is to be measured."""
        return name in self.only

    def seconds(self, name: str) -> float:
        """How long one round of a measurement takes."""
        return min(1.0, _SECONDS.get(name, 2.0)) if self.quick else _SECONDS.get(name, 2.0)


def parse(arguments: Sequence[str] | None) -> Options:
    """Read the command line; ends the program when it makes no sense."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.connections % 4:
        parser.error("--connections must be a multiple of 4: they are dealt out among processes")
    sizes = QUICK if chosen.quick else FULL if chosen.full else DEFAULT
    if chosen.vehicles:
        sizes = replace(sizes, vehicles=chosen.vehicles)
    return Options(
        only=frozenset(chosen.only or MEASUREMENTS.keys() - _ON_REQUEST),
        rounds=chosen.rounds or (1 if chosen.quick else 3 if chosen.growth else 5),
        sizes=sizes,
        quick=chosen.quick,
        growth=chosen.growth,
        connections=chosen.connections,
        folder=chosen.folder,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="two minutes, to see that all of it runs"
    )
    size.add_argument(
        "--full", action="store_true", help="10,000 vehicles and meters, 28.8 M rows; half an hour"
    )
    parser.add_argument(
        "--growth",
        action="store_true",
        help="instead: a table over devices, history and flush workers; some ten minutes",
    )
    parser.add_argument("--vehicles", type=int, help="how many the rollup's fleet has")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument(
        "--connections",
        type=int,
        default=CONNECTIONS,
        help=f"of single requests; default {CONNECTIONS}",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=MEASUREMENTS,
        metavar="NAME",
        help=f"one measurement instead of all; may be repeated: {', '.join(MEASUREMENTS)}",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="where the data goes, about 5 GB (--full: 15); default: the system's place",
    )
    return parser
