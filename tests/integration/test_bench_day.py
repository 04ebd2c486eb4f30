"""The benchmark's own day: made, ticked, and held against what the registers were made to count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import Broken, ticker
from bench.crew import Task
from bench.day import Day
from bench.habits import DAY_MINUTES, Habit
from bench.rollups import bytes_per_reading
from bench.stage import Stage
from models import partitions
from models.engine import driver, transaction
from models.kinds import KINDS
from tests.factories import rows

VEHICLES = 3


class Inline:
    """A crew of one, and a ticker, in this process."""

    size = 1
    until_clean = staticmethod(ticker._until_clean)

    @staticmethod
    def run(tasks: Sequence[Task]) -> None:
        for task in tasks:
            task.prepare()()


@pytest.fixture
def stage(servers: dict[str, str], fleet: int) -> Iterator[Stage]:
    made = SimpleNamespace(
        database_url=servers["DATABASE_URL"], crew=Inline, rows=0, stop_application=lambda: None
    )
    yield cast(Stage, made)
    with transaction() as conn:
        for kind in KINDS.values():
            for day in partitions.days(conn, kind):
                partitions.drop(conn, kind, day)


def made(stage: Stage, habit: Habit) -> Day:
    day = Day(stage, VEHICLES, habit, DAY_MINUTES)
    day.empty()
    day.fill(0, DAY_MINUTES)
    return day


@pytest.mark.parametrize("habit", list(Habit))
def test_the_rollup_finds_what_the_registers_were_made_to_count(stage: Stage, habit: Habit) -> None:
    day = made(stage, habit)

    first = day.tick(cast(Any, Inline))
    day.advance()
    later = day.tick(cast(Any, Inline))

    assert first.hours > later.hours >= 2 * VEHICLES
    found = rows("SELECT efficiency FROM vehicle_performance_24h")
    assert len(found) == VEHICLES
    expected = 17.82 / 19.926 if habit is Habit.SESSIONS else 0.9
    assert [row["efficiency"] for row in found] == pytest.approx([expected] * VEHICLES, abs=6e-4)
    assert day.group() > 0


def test_a_wrong_number_is_broken(stage: Stage) -> None:
    day = made(stage, Habit.SESSIONS)
    day.tick(cast(Any, Inline))
    with transaction() as conn:
        driver(conn).execute(
            "UPDATE vehicle_performance_24h SET efficiency = efficiency - 0.0002"
            " WHERE vehicle_id = 'vehicle-0001'"
        )

    with pytest.raises(Broken, match=r"1 of 3 vehicles .* first vehicle-0001"):
        day._check()


def test_a_missing_number_is_broken(stage: Stage) -> None:
    day = made(stage, Habit.ALWAYS)
    day.tick(cast(Any, Inline))
    with transaction() as conn:
        driver(conn).execute("DELETE FROM vehicle_performance_24h WHERE vehicle_id LIKE '%2'")

    with pytest.raises(Broken, match=r"1 of 3 vehicles .* first vehicle-0002: nan"):
        day._check()


def test_rows_and_index_are_weighed_apart(stage: Stage) -> None:
    made(stage, Habit.ALWAYS)

    found = bytes_per_reading(stage)

    assert set(found) == {f"{what}.{kind}" for what in ("heap", "index", "bytes") for kind in KINDS}
    for kind in KINDS:
        heap, index = found[f"heap.{kind}"], found[f"index.{kind}"]
        assert heap > 40
        assert index > 8
        assert found[f"bytes.{kind}"] == pytest.approx(heap + index)  # type: ignore[operator]
