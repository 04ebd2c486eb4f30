"""The summary's lookup: many at once, by one index lookup each, and never waited for too long."""

from __future__ import annotations

import asyncio
import json
import select
import time
from collections.abc import Sequence
from typing import Any

import pytest

from models import engine, reads
from models.kinds import METER, VEHICLE
from tests.factories import at, flush_all, meter_reading, roll_up, rows, vehicle_reading
from tests.web.calls import Api, refused
from tests.web.rsgi import FrontClient
from web import summary

PATH = "/v1/analytics/performance"
VEHICLES = [f"vehicle-{n:03}" for n in range(1, 6)]


@pytest.fixture
def fleet_of_five(api: Api) -> Api:
    for number, vehicle in enumerate(VEHICLES):
        samples = [(0, 0.0), (24, 50.0 + number)]
        readings = [
            vehicle_reading(vehicleId=vehicle, timestamp=at(h), kwhDeliveredDc=e)
            for h, e in samples
        ]
        api.send(VEHICLE, readings)
        meter = {"meterId": vehicle.replace("vehicle", "meter")}
        readings = [
            meter_reading(**meter, timestamp=at(h), kwhConsumedAc=2 * e) for h, e in samples
        ]
        api.send(METER, readings)
    flush_all()
    roll_up(at(24))
    return api


@pytest.fixture
def quick(front: FrontClient, fleet_of_five: Api) -> Api:
    """The same by the express way: the key is known."""
    quick = Api(front, fleet_of_five.headers)
    assert quick.get(f"{PATH}/{VEHICLES[0]}").status_code == 200
    return quick


def looked_up(wanted: list[tuple[int, str]]) -> Sequence[Any]:
    """One question on a loop of its own."""

    async def question() -> Sequence[Any]:
        found = await summary._look_up(wanted)
        await summary.hang_up()
        return found

    return asyncio.run(question())


def test_each_gets_the_vehicle_asked_for(fleet_of_five: Api, other_api: Api) -> None:
    other_api.send(VEHICLE, vehicle_reading(vehicleId=VEHICLES[0]))
    flush_all()
    roll_up(at(24))
    mine, theirs = 1, 2
    wanted = [(mine, name) for name in [*VEHICLES, "vehicle-404", VEHICLES[0]]]
    found = looked_up([*wanted, (theirs, VEHICLES[0]), (theirs, VEHICLES[1])])
    named = [shown and json.loads(shown.whole.body)["vehicleId"] for shown in found]
    expected = [None if name == "vehicle-404" else name for _, name in wanted]
    assert named == [*expected, VEHICLES[0], None]
    assert found[0].tag != found[len(wanted)].tag  # the same name in two fleets


def test_who_asks_at_the_same_moment_asks_together(
    fleet_of_five: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    look_up = reads.performances

    async def counting(conn: Any, wanted: Sequence[tuple[int, str]]) -> dict[Any, Any]:
        asked.append(len(wanted))
        return await look_up(conn, wanted)

    async def readers() -> list[Any]:
        first = summary._trips.submit((1, VEHICLES[0]))
        while not asked:
            await asyncio.sleep(0)
        others = [summary._trips.submit((1, vehicle)) for vehicle in VEHICLES[1:]]
        rows = await asyncio.gather(first, *others)
        await summary.hang_up()
        return rows

    monkeypatch.setattr(reads, "performances", counting)
    found = [json.loads(shown.whole.body) for shown in asyncio.run(readers())]
    assert [told["vehicleId"] for told in found] == VEHICLES
    assert asked == [1, len(VEHICLES) - 1]


def test_a_tag_changes_with_any_number(fleet_of_five: Api) -> None:
    tags = {summary.tell(1, vehicle).etag for vehicle in VEHICLES}
    assert len(tags) == len(VEHICLES)
    assert summary.tell(1, VEHICLES[0]).etag in tags


@pytest.mark.parametrize("way", ["quick", "fleet_of_five"], ids=["express", "Flask"])
def test_a_lookup_that_hangs_is_given_up_and_the_next_one_is_not(
    way: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    api: Api = request.getfixturevalue(way)
    monkeypatch.setattr(summary, "PATIENCE_SECONDS", 0.3)
    with engine.transaction() as conn:
        engine.driver(conn).execute("LOCK TABLE vehicle_performance_24h")
        began = time.monotonic()
        refused(api.get(f"{PATH}/{VEHICLES[1]}"), "DATABASE_UNAVAILABLE")
        assert time.monotonic() - began < 3
    monkeypatch.undo()
    assert api.get(f"{PATH}/{VEHICLES[0]}").status_code == 200


def test_a_connection_that_postgresql_closed_is_replaced(quick: Api) -> None:
    rows(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND application_name = 'energy'"
    )
    assert summary._hotline._line is not None
    assert select.select([summary._hotline._line[2].fileno()], [], [], 10)[0]  # it has heard of it
    assert quick.get(f"{PATH}/{VEHICLES[0]}").status_code == 200


def test_a_summary_needs_no_free_connection_of_the_pool(
    quick: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.engine().pool, "_timeout", 0.05)
    taken = [engine.engine().connect() for _ in range(engine.POOL_SIZE)]
    try:
        assert quick.get(f"{PATH}/{VEHICLES[0]}").status_code == 200
    finally:
        for connection in taken:
            connection.close()


_THREE_THOUSAND = """
    INSERT INTO vehicle_performance_24h
        (vehicle_key, fleet_id, vehicle_id, window_from, window_to, ac_samples, dc_samples,
         ac_events, dc_events, computed_at)
    SELECT n, n % 3, 'vehicle-' || n, now(), now(), 0, 0, '{}', '{}', now()
    FROM generate_series(1, 3000) AS n
"""


def test_many_are_found_by_the_index_and_not_by_a_scan(servers: dict[str, str]) -> None:
    """As PostgreSQL plans it after many executions, when it no longer looks at the parameters."""
    with engine.transaction() as conn:
        driver = engine.driver(conn)
        driver.execute(_THREE_THOUSAND)
        driver.execute("ANALYZE vehicle_performance_24h")
        driver.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        asked = reads._PERFORMANCES.replace("%s", "$1", 1).replace("%s", "$2", 1)
        driver.execute(f"PREPARE asked (text, text) AS {asked}".encode())
        plan = driver.execute("EXPLAIN EXECUTE asked ('{1}', '{\"vehicle-001\"}')").fetchall()
        driver.execute("DEALLOCATE asked")
    text = "\n".join(str(line) for (line,) in plan)
    assert "vehicle_performance_24h_fleet_id_vehicle_id" in text, text
    assert "Seq Scan" not in text, text
    assert "Hash" not in text, text
