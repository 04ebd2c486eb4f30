"""The summary's lookup: many at once, by one index lookup each, and never waited for too long."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from models import engine, reads
from models.kinds import METER, VEHICLE
from tests.factories import at, flush_all, meter_reading, roll_up, rows, vehicle_reading
from tests.web.calls import Api, refused
from web import summary

PATH = "/v1/analytics/performance"
VEHICLES = [f"vehicle-{n:03}" for n in range(1, 6)]


@pytest.fixture
def fleet_of_five(api: Api) -> Iterator[Api]:
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
    yield api
    summary._hotline.close()


def test_each_gets_the_vehicle_asked_for(fleet_of_five: Api, other_api: Api) -> None:
    other_api.send(VEHICLE, vehicle_reading(vehicleId=VEHICLES[0]))
    flush_all()
    roll_up(at(24))
    mine, theirs = 1, 2
    wanted = [(mine, name) for name in [*VEHICLES, "vehicle-404", VEHICLES[0]]]
    found = summary._look_up([*wanted, (theirs, VEHICLES[0]), (theirs, VEHICLES[1])])
    named = [row and (row["fleet_id"], row["vehicle_id"]) for row in found]
    expected = [None if name == "vehicle-404" else (mine, name) for _, name in wanted]
    assert named == [*expected, (theirs, VEHICLES[0]), None]


def test_who_asks_at_the_same_moment_asks_together(
    fleet_of_five: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    first_is_there, go_on = threading.Event(), threading.Event()
    look_up = reads.performances

    def slowly(conn: Any, wanted: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Any]:
        asked.append(len(wanted))
        first_is_there.set()
        assert go_on.wait(10)
        return look_up(conn, wanted)

    monkeypatch.setattr(reads, "performances", slowly)
    with ThreadPoolExecutor(len(VEHICLES)) as readers:
        answers = [readers.submit(summary.tell, 1, VEHICLES[0])]
        assert first_is_there.wait(10)
        answers += [readers.submit(summary.tell, 1, vehicle) for vehicle in VEHICLES[1:]]
        while len(summary._trips._waiting) < len(VEHICLES) - 1:
            time.sleep(0.001)
        go_on.set()
        told = [answer.result(10).content for answer in answers]
    assert asked == [1, len(VEHICLES) - 1]
    for vehicle, content in zip(VEHICLES, told, strict=True):
        assert b'"vehicleId":"%b"' % vehicle.encode() in content


def test_a_tag_changes_with_any_number(fleet_of_five: Api) -> None:
    tags = {summary.tell(1, vehicle).etag for vehicle in VEHICLES}
    assert len(tags) == len(VEHICLES)
    assert summary.tell(1, VEHICLES[0]).etag in tags


def test_a_lookup_that_hangs_is_given_up_and_the_next_one_is_not(
    fleet_of_five: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "PATIENCE_SECONDS", 0.3)
    with engine.transaction() as conn:
        engine.driver(conn).execute("LOCK TABLE vehicle_performance_24h")
        began = time.monotonic()
        refused(fleet_of_five.get(f"{PATH}/{VEHICLES[0]}"), "DATABASE_UNAVAILABLE")
        assert time.monotonic() - began < 3
    monkeypatch.undo()
    assert fleet_of_five.get(f"{PATH}/{VEHICLES[0]}").status_code == 200


def test_a_connection_that_postgresql_closed_is_replaced(fleet_of_five: Api) -> None:
    assert fleet_of_five.get(f"{PATH}/{VEHICLES[0]}").status_code == 200
    rows(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND application_name = 'energy'"
    )
    assert summary._hotline._line is not None
    assert select.select([summary._hotline._line[2].fileno()], [], [], 10)[0]  # it has heard of it
    assert fleet_of_five.get(f"{PATH}/{VEHICLES[0]}").status_code == 200


def test_a_summary_needs_no_free_connection_of_the_pool(
    fleet_of_five: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.engine().pool, "_timeout", 0.05)
    taken = [engine.engine().connect() for _ in range(engine.POOL_SIZE)]
    try:
        assert fleet_of_five.get(f"{PATH}/{VEHICLES[0]}").status_code == 200
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
