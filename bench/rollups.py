"""The rollup: one tick beside a plain GROUP BY over the same 24 hours, and how it grows.

`measure` is one fleet with one day behind it. `history` is a smaller fleet, first with one day and
then with ten: neither a tick nor a GET may take longer for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg import sql

from bench.chain import Chain
from bench.copying import connect
from bench.day import Day
from bench.figures import Figures, Rounds
from bench.habits import DAY_MINUTES, Habit
from bench.progress import say
from bench.stage import Stage
from bench.ticker import Ticker, ticking
from models.kinds import KINDS as TABLES

#: Days of history in `history`: before, and after.
FEW_DAYS, MANY_DAYS = 1, 10


def measure(stage: Stage, rounds: Rounds, *, vehicles: int, habit: Habit, count: int) -> None:
    """Fill a day, tick it `count` times warm and once cold. Leaves it in the tables."""
    name = "rollup" if habit is Habit.SESSIONS else "charging"
    day = Day(stage, vehicles, habit, DAY_MINUTES)
    day.empty()
    day.fill(0, DAY_MINUTES)
    day.settle()
    if not rounds.names("bytes."):  # of rows that the flush has written
        rounds.add(bytes_per_reading(stage))
    rounds.add(day.parallel_workers())
    with ticking() as ticker:
        say(f"{name}: the first tick, which computes every hour")
        first = day.tick(ticker)
        day.settle()
        rounds.add({f"{name}.first": first.seconds, f"{name}.first.hours": first.hours})
        for number in range(count):
            say(f"round {number + 1} of {count}: {name}")
            rounds.add(_ticked(day, ticker, name))
            rounds.add({f"{name}.grouped": day.group()})
    say(f"{name}: a tick in a new process")
    day.advance()
    with ticking() as ticker:
        rounds.add({f"{name}.cold": day.tick(ticker).seconds})
    rounds.add({f"{name}.vehicles": vehicles, f"{name}.rows": stage.rows})
    stage.check_rows()


def history(stage: Stage, rounds: Rounds, *, vehicles: int, count: int, seconds: float) -> None:
    """Ticks and GETs with one day of history, then with ten."""
    minutes, few = MANY_DAYS * DAY_MINUTES, FEW_DAYS * DAY_MINUTES
    day = Day(stage, vehicles, Habit.SESSIONS, minutes)
    day.empty()
    for name, first, last in (("few", minutes - few, minutes), ("many", 0, minutes - few)):
        day.fill(first, last)
        day.settle()
        with ticking() as ticker:
            say(f"history: every hour of {name} days")
            day.tick(ticker)
            day.settle()
            for number in range(count):
                say(f"round {number + 1} of {count}: ticks with {name} days of history")
                rounds.add(_ticked(day, ticker, f"history.{name}"))
                rounds.add({f"history.{name}.grouped": day.group()})
        reads(stage, rounds, f"history.{name}", vehicles=vehicles, count=count, seconds=seconds)
        stage.stop_application()
    stage.check_rows()


def reads(
    stage: Stage, rounds: Rounds, name: str, *, vehicles: int, count: int, seconds: float
) -> None:
    """GET performance beside /healthz, with whatever is in history."""
    stage.start("web")
    # Processes that have just started do everything for the first time: not for 64 at once.
    first = Chain(stage, _FIRST_CONNECTIONS)
    first.healthz(1.0)
    first.performance(1.0, vehicles)
    chain = Chain(stage)
    chain.healthz(1.0)
    chain.performance(1.0, vehicles)
    for number in range(count):
        say(f"round {number + 1} of {count}: GETs beside {stage.rows:,} rows of history")
        found = {**chain.healthz(seconds), **chain.performance(seconds, vehicles)}
        rounds.add({f"{name}.{key}": found[key] for key in _READS})
    rounds.add({f"{name}.rows": stage.rows})


_FIRST_CONNECTIONS = 4
#: Fewer rows leave most of each partition's pages empty.
ROWS_TO_WEIGH = 1_000_000
#: Of one round.
_READS = (
    "healthz",
    "performance",
    "performance.quarter",
    "performance.half",
    "performance.late",
    "performance.floor",
)


def _ticked(day: Day, ticker: Ticker, name: str) -> Figures:
    day.advance()
    ticked = day.tick(ticker)
    return {
        f"{name}.tick": ticked.seconds,
        f"{name}.tick.cpu": ticked.cpu_seconds,
        f"{name}.ticks": ticked.ticks,
    }


def bytes_per_reading(stage: Stage) -> Figures:
    """Of each kind's history: the rows with their pages, and the index."""
    statement = sql.SQL(
        "SELECT sum(pg_table_size(inhrelid))::float8, sum(pg_indexes_size(inhrelid))::float8,"
        " (SELECT count(*) FROM {table})"
        " FROM pg_inherits WHERE inhparent = {name}::regclass"
    )
    with connect(stage.database_url) as conn:
        return dict(_sizes(conn, statement))


def _sizes(
    conn: psycopg.Connection[tuple[object, ...]], statement: sql.SQL
) -> Iterator[tuple[str, float]]:
    for kind in TABLES.values():
        table = kind.history.name
        named = statement.format(name=sql.Literal(table), table=sql.Identifier(table))
        row = conn.execute(named).fetchone()
        heap, index, count = (float(str(part)) for part in row or (0, 0, 0))
        yield f"heap.{kind.name}", heap / max(count, 1)
        yield f"index.{kind.name}", index / max(count, 1)
        yield f"bytes.{kind.name}", (heap + index) / max(count, 1)
