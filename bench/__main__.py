"""python -m bench: measure this machine. Tables on standard output, progress on standard error."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from bench import Broken, latency, machine, report, rollups
from bench.chain import Chain
from bench.figures import Figures, Rounds
from bench.progress import say
from bench.rollups import Day
from bench.stage import Stage
from bench.staging import staged
from stack.errors import StackError

#: --only NAME, in the order of a round, with what is said while it is measured.
NAMES = {
    "bare": "granian alone",
    "healthz": "GET /healthz",
    "door": "ingest route without the queue",
    "single": "single POSTs",
    "batch": "batches of 500",
    "copy": "bare COPY",
    "performance": "GET performance",
    "latency": "202 to latest",
    "rollup": "rollup",
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long one round of each measurement takes, and how large a day the rollup gets."""

    seconds: Mapping[str, float]
    rounds: int
    minutes: int


_SECONDS = {"single": 4.0, "batch": 5.0, "latency": 3.0}
FULL = Sizes({name: _SECONDS.get(name, 2.0) for name in NAMES}, 5, rollups.MINUTES)
QUICK = Sizes(dict.fromkeys(NAMES, 1.0), 1, 100)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. 0, or 1 when something is broken."""
    chosen = _parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    load = machine.load_average()  # before anything of ours runs
    try:
        with staged(chosen.folder) as stage:
            described = machine.describe(stage.stack.home.path, stage.database_url)
            rounds, checked = _measure(stage, chosen)
            print(f"{described}\nLoad average before the start: {load}.")
            print(f"Medians of {chosen.rounds} alternating rounds. {checked}.\n")
            print(report.render(rounds, stage.usage.memory))
    except (Broken, StackError) as error:
        print(f"BROKEN: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute, to see that all of it runs")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument(
        "--only",
        action="append",
        choices=NAMES,
        metavar="NAME",
        help=f"one measurement instead of all; may be repeated: {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--folder", type=Path, help="where the data goes, about 4 GB; default: the system's place"
    )
    chosen = parser.parse_args(arguments)
    chosen.sizes = QUICK if chosen.quick else FULL
    chosen.rounds = chosen.rounds or chosen.sizes.rounds
    chosen.only = chosen.only or list(NAMES)
    return chosen


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _measure(stage: Stage, chosen: argparse.Namespace) -> tuple[Rounds, str]:
    rounds, sizes = Rounds(), chosen.sizes
    steps = {name: step for name, step in _steps(stage, rounds).items() if name in chosen.only}
    for name, step in steps.items():
        say(f"first try, not counted: {NAMES[name]}")
        step(min(1.0, sizes.seconds[name]))
    rounds.clear()
    for number in range(chosen.rounds):
        # Every other round goes backwards: nothing is always measured right after the same thing.
        for name, step in list(steps.items())[:: -1 if number % 2 else 1]:
            say(f"round {number + 1} of {chosen.rounds}: {NAMES[name]}")
            rounds.add(step(sizes.seconds[name]))
    checked = stage.check_rows()
    if "rollup" in chosen.only:
        _measure_rollup(stage, chosen, rounds)
    else:
        rounds.add(rollups.bytes_per_reading(stage))
    return rounds, checked


def _measure_rollup(stage: Stage, chosen: argparse.Namespace, rounds: Rounds) -> None:
    day = Day(stage, chosen.sizes.minutes)
    rounds.add(day.fill())
    rounds.add(rollups.bytes_per_reading(stage))
    for number in range(chosen.rounds):
        say(f"round {number + 1} of {chosen.rounds}: {NAMES['rollup']}")
        rounds.add(day.tick())
    stage.check_rows()


def _steps(stage: Stage, rounds: Rounds) -> Mapping[str, Callable[[float], Figures]]:
    chain = Chain(stage)
    return {
        "bare": chain.bare,
        "healthz": chain.healthz,
        "door": chain.door,
        "single": chain.single,
        "batch": chain.batch,
        "copy": chain.copy,
        "performance": chain.performance,
        "latency": partial(_latency, stage, chain, rounds),
    }


def _latency(stage: Stage, chain: Chain, rounds: Rounds, seconds: float) -> Figures:
    """Its figures are samples: many in each round."""
    samples = {
        "latency.commit": latency.commits(stage, seconds / 3),
        "latency.idle": latency.idle(stage, seconds),
        "latency.loaded": latency.loaded(stage, seconds, chain.rate("batch.history")),
    }
    for name, values in samples.items():
        for value in values:
            rounds.add({name: value})
    return {}


if __name__ == "__main__":
    sys.exit(main())
