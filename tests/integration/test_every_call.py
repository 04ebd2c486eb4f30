"""The exhaustive loop (SQLite's way): for n = 1, 2, ... the n-th call to a server goes wrong.

The flush and the tick are run, their n-th call to PostgreSQL or Redis fails (or kills the process),
they are run again, and all rows must be what they are without any trouble. n rises until a run ends
untouched, so there is no call that has not gone wrong once, in each of its moments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest
import redis
from sqlalchemy.exc import OperationalError

from models.kinds import METER, VEHICLE
from tests.factories import (
    at,
    flush_all,
    meter_reading,
    post_to_stream,
    register,
    roll_up,
    rows,
)
from tests.failpoints import Failpoints, When, fail, survives
from workers import flush, rollup, stream

KEY = "energy:{meter}"
AWAY = (psycopg.OperationalError, OperationalError, redis.RedisError)
#: More calls than either makes.
MANY = 400

#: Goes wrong at call n in that moment; whether the work ended untouched.
Trouble = Callable[[int, When], bool]


def failing(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> Trouble:
    """In this process: the call raises."""

    def run(number: int, when: When) -> bool:
        with monkeypatch.context() as context:
            failpoints = Failpoints(context, number, when, fail)
            try:
                work()
            except AWAY:
                assert failpoints.struck
            return not failpoints.struck

    return run


def until_untouched(trouble: Trouble, when: When, check: Callable[[int], None]) -> int:
    """Call after call; how many there were."""
    for number in range(1, MANY):
        untouched = trouble(number, when)
        check(number)
        if untouched:
            return number - 1
    pytest.fail("more calls than this test expects")


def wait_for_the_dead() -> None:
    """Until PostgreSQL has noticed that a killed process is gone, and rolled its work back."""
    working = (
        "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'energy' AND state <> 'idle' AND pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + 10
    while rows(working) != [{"n": 0}]:
        assert time.monotonic() < deadline, "a transaction of the dead is still open"
        time.sleep(0.01)


# --- the flush ------------------------------------------------------------------------------------


class Flushes:
    """Before each run: two requests of a meter of its own, with a repeat, a contradiction, a
    register that restarts, and a reading that must be buried."""

    def __init__(self, fleet: int) -> None:
        self.fleet, self.number = fleet, 0

    def prepare(self) -> None:
        self.number += 1
        meter = {"meterId": f"meter-{self.number}"}
        kwh = [(at(0), 10.0), (at(1), 11.0), (at(1), 12.0), (at(1, minutes=30), 4.0)]
        post_to_stream(METER, self.fleet, register(METER, kwh, **meter))
        again = register(METER, kwh[:1], **meter)
        post_to_stream(METER, self.fleet, [*again, meter_reading(voltage="bad")])

    def check(self, number: int) -> None:
        """Once more without trouble, and each reading is where it belongs, once."""
        flush.flush(METER, "test")
        meter = f"meter-{self.number}"
        stored = rows(
            "SELECT recorded_at, kwh_consumed_ac AS kwh FROM meter_telemetry_history"
            " JOIN meters ON key = device_key WHERE device_id = :meter ORDER BY 1",
            meter=meter,
        )
        assert [(row["recorded_at"], row["kwh"]) for row in stored] == [
            (at(0), 10.0),
            (at(1), 11.0),
            (at(1, minutes=30), 4.0),
        ]
        latest = rows(
            "SELECT kwh_consumed_ac AS kwh FROM meter_status_latest"
            " JOIN meters ON key = device_key WHERE device_id = :meter",
            meter=meter,
        )
        assert latest == [{"kwh": 4.0}]
        for table in ("reading_conflicts", "dead_letters"):
            assert rows(f"SELECT count(*) AS n FROM {table}") == [{"n": number}]  # noqa: S608
        pending = stream.client().xpending(KEY, stream.GROUP)["pending"]
        assert (stream.waiting(METER), pending) == (0, 0)


def hours_are_right(devices: int) -> None:
    """What the rollup makes of all those meters: 1 kWh left unseen, 4 kWh after the restart."""
    roll_up()
    assert rows("SELECT DISTINCT energy_kwh, rough FROM meter_energy_hourly ORDER BY 1") == [
        {"energy_kwh": 0.0, "rough": False},
        {"energy_kwh": 4.0, "rough": False},
    ]
    assert rows("SELECT event, count(*) FROM meter_register_events GROUP BY 1") == [
        {"event": "RESET", "count": devices}
    ]


@pytest.mark.parametrize("when", list(When))
def test_a_flush_whose_nth_call_fails(
    fleet: int, monkeypatch: pytest.MonkeyPatch, when: When
) -> None:
    scene = Flushes(fleet)
    run = failing(monkeypatch, lambda: flush.flush(METER, "test"))

    def trouble(number: int, when: When) -> bool:
        scene.prepare()
        return run(number, when)

    assert until_untouched(trouble, when, scene.check) > 20
    hours_are_right(scene.number)


@pytest.mark.slow
@pytest.mark.parametrize("when", list(When))
def test_row_02_a_flush_killed_at_its_nth_call(
    fleet: int, servers: dict[str, str], when: When
) -> None:
    scene = Flushes(fleet)

    def trouble(number: int, when: When) -> bool:
        scene.prepare()
        return survives("flush", servers, "meter", "test", at=number, when=when)

    assert until_untouched(trouble, when, scene.check) > 20
    hours_are_right(scene.number)


def test_the_failpoints_lie_where_a_death_is_worst(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and within COPY, before and after COMMIT, between XDEL and XACK."""
    Flushes(fleet).prepare()
    with monkeypatch.context() as context:
        failpoints = Failpoints(context, MANY, When.BEFORE, fail)
        flush.flush(METER, "test")
    named = [name for name in failpoints.trail if name in ("COPY", "WRITE", "COMMIT")]
    assert named[-3:] == ["COPY", "WRITE", "COMMIT"]
    assert "XDEL+XACK" in failpoints.trail[failpoints.trail.index("COMMIT") :]


# --- the tick -------------------------------------------------------------------------------------

AC = [(at(h), 100.0 + 10 * h) for h in (0, 1, 2, 3)] + [(at(4), 5.0), (at(5), 15.0)]
DC = [(at(h), 200.0 + 9 * h) for h in (0, 1, 2, 3)] + [(at(4), 4.5), (at(5), 13.5)]
#: 3 x 10 + 5 + 10 and nine tenths of it: both registers restart at 03:00 to 04:00.
AC_KWH, DC_KWH = 45.0, 40.5
NOW = at(6)


class Ticks:
    """Before each run: a pair of its own with five hours, its last reading but one late."""

    def __init__(self, fleet: int) -> None:
        self.fleet, self.number = fleet, 0

    def prepare(self) -> None:
        self.number += 1
        for kind, samples in ((METER, AC), (VEHICLE, DC)):
            device = {kind.id_field: f"{kind}-{self.number}"}
            post_to_stream(kind, self.fleet, register(kind, samples, **device))
        flush_all()

    def check(self, number: int) -> None:
        """Once more without trouble, and the pair's rows are those of an untroubled tick."""
        rollup.tick(NOW + timedelta(microseconds=number))
        for kind, first, last in ((METER, 100.0, 15.0), (VEHICLE, 200.0, 13.5)):
            table, devices = kind.hourly.name, kind.devices.name
            found = rows(
                f"SELECT hour, first_kwh, last_kwh, samples, rough FROM {table}"  # noqa: S608
                f" JOIN {devices} ON key = device_key WHERE device_id = :device ORDER BY 1",
                device=f"{kind}-{self.number}",
            )
            assert [row["hour"] for row in found] == [at(h) for h in range(6)]
            assert (found[0]["first_kwh"], found[-1]["last_kwh"]) == (first, last)
            assert {(row["samples"], row["rough"]) for row in found} == {(1, False)}
            assert rows(f"SELECT count(*) AS n FROM {kind.dirty.name}") == [{"n": 0}]  # noqa: S608
        assert rows("SELECT count(*) AS n FROM vehicles_dirty") == [{"n": 0}]
        summaries = rows("SELECT DISTINCT ac_kwh, dc_kwh, efficiency FROM vehicle_performance_24h")
        (summary,) = summaries  # of all pairs up to now
        assert summary["ac_kwh"] == pytest.approx(AC_KWH)
        assert summary["dc_kwh"] == pytest.approx(DC_KWH)
        assert summary["efficiency"] == pytest.approx(0.9)


def everything_summed_up(devices: int) -> None:
    assert rows("SELECT count(*) AS n FROM vehicle_performance_24h") == [{"n": devices}]


@pytest.mark.parametrize("when", [When.BEFORE, When.AFTER])
def test_a_tick_whose_nth_call_fails(
    fleet: int, monkeypatch: pytest.MonkeyPatch, when: When
) -> None:
    scene = Ticks(fleet)
    run = failing(monkeypatch, lambda: rollup.tick(NOW))

    def trouble(number: int, when: When) -> bool:
        scene.prepare()
        return run(number, when)

    assert until_untouched(trouble, when, scene.check) > 20
    everything_summed_up(scene.number)


@pytest.mark.slow
@pytest.mark.parametrize("when", [When.BEFORE, When.AFTER])
def test_row_28_a_tick_killed_at_its_nth_call(
    fleet: int, servers: dict[str, str], when: When
) -> None:
    scene = Ticks(fleet)

    def trouble(number: int, when: When) -> bool:
        scene.prepare()
        untouched = survives("tick", servers, NOW, at=number, when=when)
        wait_for_the_dead()  # the lock that keeps ticks apart is theirs until then
        return untouched

    assert until_untouched(trouble, when, scene.check) > 20
    everything_summed_up(scene.number)
