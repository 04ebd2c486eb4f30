"""What the benchmark makes and measures, held against a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bench.copying import Copies, block_count
from bench.habits import Habit
from bench.readings import KINDS, Fleet, device_id
from models import writes
from models.engine import transaction
from models.kinds import KINDS as TABLES
from tests.factories import rows

BEGIN = datetime(2026, 1, 10, tzinfo=UTC)
MINUTES = 3


@pytest.mark.parametrize("habit", list(Habit))
def test_copied_readings_are_those_that_would_be_posted(
    servers: dict[str, str], fleet: int, habit: Habit
) -> None:
    made = Fleet(BEGIN, devices=2)
    keys = {}
    with transaction() as conn:
        for kind in TABLES.values():
            wanted = [(fleet, device_id(kind.name, device)) for device in range(made.devices)]
            found = writes.resolve_devices(conn, kind, wanted)
            keys[kind.name] = [found[one] for one in wanted]
    numbers = range(MINUTES * made.devices)
    blocks = range(block_count(len(numbers)))

    Copies(servers["DATABASE_URL"], made, keys, blocks, numbers, habit).prepare()()

    for name in KINDS:
        history, latest = (
            rows(f"SELECT * FROM {table.name} ORDER BY recorded_at, device_key")  # noqa: S608
            for table in (TABLES[name].history, TABLES[name].latest)
        )
        assert [row["device_key"] for row in history] == keys[name] * MINUTES
        assert [row["recorded_at"] for row in history[:: made.devices]] == [
            made.instant(step) for step in range(MINUTES)
        ]
        assert latest == history[-made.devices :]
        counter = TABLES[name].counter.column
        assert history[0][counter] == pytest.approx(1000.0)
        assert history[2][counter] > history[0][counter]
