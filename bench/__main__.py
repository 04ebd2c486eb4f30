"""python -m bench: measure this machine. Tables on standard output, progress on standard error."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import FrameType

from bench import Broken, backlog, growth, latency, machine, report, rollups, validation
from bench.chain import Chain
from bench.figures import Figures, Rounds
from bench.habits import Habit
from bench.options import MEASUREMENTS, Options, parse
from bench.progress import say
from bench.readings import KINDS
from bench.stage import Stage
from bench.staging import staged
from stack.errors import StackError
from stack.supervision import with_log
from workers import partitions


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. 0, or 1 when something is broken."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    load = machine.load_average()  # before anything of ours runs
    try:
        with staged(options.folder) as stage:
            print(machine.describe(stage.stack.home.path, stage.database_url))
            print(f"Load average before the start: {load}.")
            _run(stage, options)
    except (Broken, StackError) as error:
        print(f"BROKEN: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(stage: Stage, options: Options) -> None:
    """Measure and print; what was measured also when something is broken then."""
    rounds = Rounds()
    print(f"Medians of {options.rounds} alternating rounds.", flush=True)
    try:
        if options.growth:
            cases = growth.QUICK if options.quick else growth.CASES
            print(f"\n{growth.measure(stage, cases, options.rounds)}")
        else:
            _measure(stage, rounds, options)
    except Broken as error:  # while there still is a log
        raise Broken(with_log(stage.stack.home, str(error), "web")) from error
    finally:
        if not options.growth:
            told = report.render(rounds, stage.usage.memory, options.connections)
            print(f"\n{told}", flush=True)


def _measure(stage: Stage, rounds: Rounds, options: Options) -> None:
    chain = Chain(stage, options.connections)
    _alternate(stage, chain, rounds, options)
    checked = stage.check_rows()
    rounds.add({"rows": stage.rows})
    _weigh(stage, rounds)
    if options.wants("backlog"):
        rounds.add(backlog.measure(stage, chain, options.sizes.backlog))
        checked = stage.check_rows()
        _weigh(stage, rounds)
    print(f"{checked}.", flush=True)
    _measure_days(stage, rounds, options)


def _weigh(stage: Stage, rounds: Rounds) -> None:
    """Bytes of rows that the flush has written, as soon as there are enough of them."""
    if stage.rows >= rollups.ROWS_TO_WEIGH and not rounds.names("bytes."):
        written = rollups.bytes_per_reading(stage)
        rounds.add({f"written.{kind}": written[f"bytes.{kind}"] for kind in KINDS})
        say("history is kept in order, as beat has it done every hour")
        partitions.keep(datetime.now(UTC), 0)
        rounds.add(rollups.bytes_per_reading(stage))


def _alternate(stage: Stage, chain: Chain, rounds: Rounds, options: Options) -> None:
    """What is measured by turns."""
    found = _steps(stage, chain)
    steps = {name: step for name, step in found.items() if options.wants(name)}
    for name, step in steps.items():
        say(f"first try, not counted: {MEASUREMENTS[name]}")
        step(min(1.0, options.seconds(name)))
    for number in range(options.rounds):
        # Every other round goes backwards: nothing is always measured right after the same thing.
        for name, step in list(steps.items())[:: -1 if number % 2 else 1]:
            say(f"round {number + 1} of {options.rounds}: {MEASUREMENTS[name]}")
            rounds.add(step(options.seconds(name)))


def _steps(stage: Stage, chain: Chain) -> Mapping[str, Callable[[float], Figures]]:
    return {
        "bare": chain.bare,
        "healthz": chain.healthz,
        "door": chain.door,
        "validation": partial(validation.measure, stage.fleet),
        "single": chain.single,
        "batch": chain.batch,
        "copy": chain.copy,
        "performance": chain.performance,
        "latency": partial(latency.measure, stage, chain),
    }


def _measure_days(stage: Stage, rounds: Rounds, options: Options) -> None:
    """What begins with empty tables."""
    count, seconds = options.rounds, options.seconds("performance")
    if options.wants("rollup-charging"):
        vehicles = options.sizes.vehicles
        rollups.measure(stage, rounds, vehicles=vehicles, habit=Habit.ALWAYS, count=count)
    if options.wants("rollup"):
        vehicles = options.sizes.vehicles
        rollups.measure(stage, rounds, vehicles=vehicles, habit=Habit.SESSIONS, count=count)
        rollups.reads(stage, rounds, "reads", vehicles=vehicles, count=count, seconds=seconds)
    if options.wants("history"):
        vehicles = options.sizes.small_fleet
        rollups.history(stage, rounds, vehicles=vehicles, count=count, seconds=seconds)


if __name__ == "__main__":
    sys.exit(main())
