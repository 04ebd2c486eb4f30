"""How the figures move with devices, history and flush workers: short runs of each, one table."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench import rollups
from bench.chain import Chain
from bench.day import Day
from bench.figures import Rounds, number, table
from bench.habits import DAY_MINUTES, Habit
from bench.progress import say
from bench.readings import Fleet
from bench.stage import Stage
from bench.ticker import ticking
from stack.programs import app_programs
from stack.tether import tethered

#: Seconds of one round of batches, of GETs.
BATCH_SECONDS, GET_SECONDS = 4.0, 2.0


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table; None where a column is not measured."""

    devices: int
    days: int | None
    #: Processes of the flush.
    flushers: int | None


CASES = (
    Case(500, 1, 2),
    Case(2_000, 1, 2),
    Case(10_000, 1, 2),
    Case(500, 7, None),
    Case(2_000, None, 1),
    Case(2_000, None, 3),
)
QUICK = (Case(50, 1, 2), Case(50, 2, None), Case(50, None, 1))

_HEADER = (
    "Pairs",
    "days of history",
    "flush workers",
    "batches in history/s",
    "a tick, s",
    "GET performance/s",
)


def measure(stage: Stage, cases: tuple[Case, ...], count: int) -> str:
    """The table; each figure is the median of `count` rounds."""
    return table(_HEADER, [_row(case, _measured(stage, case, count)) for case in cases])


def _measured(stage: Stage, case: Case, count: int) -> Rounds:
    say(f"growth: {case}")
    rounds = Rounds()
    if case.flushers:
        _batches(stage, rounds, case.devices, case.flushers, count)
    if case.days:
        _day(stage, rounds, case.devices, case.days, count)
    return rounds


def _row(case: Case, rounds: Rounds) -> list[str]:
    return [
        f"{case.devices:,}",
        str(case.days or "-"),
        str(case.flushers or "-"),
        number(rounds.median("batch.history")),
        number(rounds.median("growth.tick")),
        number(rounds.median("growth.performance")),
    ]


def _batches(stage: Stage, rounds: Rounds, devices: int, flushers: int, count: int) -> None:
    Day(stage, devices, Habit.ALWAYS, 1).empty()
    stage.fleet, stage.taken = Fleet(stage.fleet.begin, devices=devices), 0
    stage.start("web", "beat", "worker-rollup")
    with _flushing(stage, flushers):
        chain = Chain(stage)
        chain.batch(1.0)
        for _ in range(count):
            rounds.add(chain.batch(BATCH_SECONDS))
    stage.check_rows()


@contextmanager
def _flushing(stage: Stage, processes: int) -> Iterator[None]:
    """The flush's program with so many processes, in place of the supervised one."""
    (worker,) = (program for program in app_programs(0, 0) if program.name == "worker-flush")
    command = [part for part in worker.command if not part.startswith("--concurrency")]
    with tethered(
        [*command, f"--concurrency={processes}"],
        stop=signal.SIGTERM,
        log=stage.stack.home.logs / "growth-flush.log",
        grace_seconds=worker.stop_seconds,
        env=stage.stack.environment,
    ):
        yield


def _day(stage: Stage, rounds: Rounds, devices: int, days: int, count: int) -> None:
    day = Day(stage, devices, Habit.SESSIONS, days * DAY_MINUTES)
    day.empty()
    day.fill(0, days * DAY_MINUTES)
    day.settle()
    with ticking() as ticker:
        day.tick(ticker)
        day.settle()
        for _ in range(count):
            day.advance()
            rounds.add({"growth.tick": day.tick(ticker).seconds})
    rollups.reads(stage, rounds, "growth", vehicles=devices, count=count, seconds=GET_SECONDS)
