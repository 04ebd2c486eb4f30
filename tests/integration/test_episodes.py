"""Finished charging episodes and days, found in the hourly rows: numbers worked out by hand."""

from __future__ import annotations

from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from models.kinds import METER, VEHICLE, Kind
from tests.factories import (
    at,
    execute,
    flush_all,
    make_fleet,
    post_to_stream,
    register,
    roll_up,
    rows,
)
from tests.failpoints import Failpoints, When, fail
from workers import episodes
from workers.energy import Span

#: (begin and end in hours, AC kW) of the 10th: 22 kWh in two hours, 3.3 in half an hour.
CHARGES = ((2.0, 4.0, 11.0), (10.0, 10.5, 6.6))
SHARE = 0.9  # of AC that arrives
IDLE_KW = 0.012


def line(hour: float) -> tuple[float, float]:
    """AC and DC energy since midnight."""
    charged = sum(kw * max(0.0, min(hour, end) - begin) for begin, end, kw in CHARGES)
    return charged + IDLE_KW * hour, SHARE * charged


def send(fleet: int, begin: float, end: float, kinds: tuple[Kind, ...] = (METER, VEHICLE)) -> None:
    """Readings every minute in [begin, end] hours."""
    minutes = range(round(begin * 60), round(end * 60) + 1)
    for kind in kinds:
        side = 0 if kind is METER else 1
        samples = [(at(minutes=m), 100 + line(m / 60)[side]) for m in minutes]
        post_to_stream(kind, fleet, register(kind, samples))


def found(now: datetime) -> list[dict[str, Any]]:
    flush_all()
    roll_up(now)
    episodes.find(now)
    return rows("SELECT * FROM charging_episodes ORDER BY started_at")


@pytest.fixture
def fleet(servers: dict[str, str]) -> int:
    return make_fleet("Northern depot")


def test_a_finished_charge_is_an_episode_from_idle_to_idle(fleet: int) -> None:
    send(fleet, 0, 6)
    (episode,) = found(at(6))
    assert (episode["started_at"], episode["ended_at"]) == (at(1, minutes=55), at(4, minutes=5))
    # 22 kWh, and 12 W for two hours and ten minutes.
    assert episode["ac_kwh"] == pytest.approx(22.026, abs=1e-4)
    assert episode["dc_kwh"] == pytest.approx(19.8, abs=1e-4)
    assert episode["efficiency"] == 0.8989
    assert episode["charging_hours"] == 2.0
    assert episode["avg_ac_power_kw"] == pytest.approx(11.012, abs=1e-3)
    assert (episode["confidence"], episode["reason"]) == ("high", None)


@pytest.mark.parametrize(("end", "episodes_known"), [(3, 0), (4.1, 0), (4.3, 0), (4.5, 1)])
def test_an_episode_is_finished_after_a_quarter_of_an_hour_of_idling(
    fleet: int, end: float, episodes_known: int
) -> None:
    send(fleet, 0, end)
    assert len(found(at(minutes=round(end * 60)))) == episodes_known


def test_each_charge_is_an_episode_of_its_own(fleet: int) -> None:
    send(fleet, 0, 12)
    first, second = found(at(12))
    assert first["ended_at"] == at(4, minutes=5)
    assert (second["started_at"], second["ended_at"]) == (at(9, minutes=55), at(10, minutes=35))
    assert second["dc_kwh"] == pytest.approx(2.97, abs=1e-4)


def test_in_whatever_pieces_readings_come_the_same_episodes_are_found(fleet: int) -> None:
    send(fleet, 0, 12)
    at_once = [{**row, "vehicle_key": 0, "fleet_id": 0} for row in found(at(12))]
    other = make_fleet("Southern depot")
    send(other, 5, 12, (METER,))
    send(other, 0, 3)
    found(at(12))
    send(other, 9, 12, (VEHICLE,))
    found(at(12))
    send(other, 3, 9)
    pieces = [row for row in found(at(12)) if row["fleet_id"] == other]
    assert len(at_once) == 2
    assert [{**row, "vehicle_key": 0, "fleet_id": 0} for row in pieces] == at_once


def test_looking_again_changes_nothing_and_marks_nothing(fleet: int) -> None:
    send(fleet, 0, 6)
    before = found(at(6))
    assert len(before) == 1
    marks = rows("SELECT count(*) AS n FROM episodes_dirty")
    send(fleet, 2, 5)  # again, every one of them
    assert found(at(6)) == before
    assert rows("SELECT count(*) AS n FROM episodes_dirty") == marks


def test_a_charge_that_turns_out_to_be_longer_is_one_episode(fleet: int) -> None:
    """The vehicle was silent from 3:00 to 3:30; the readings come later."""
    send(fleet, 0, 3)
    send(fleet, 3.5, 6)
    send(fleet, 0, 6, (METER,))
    found(at(6))
    send(fleet, 3, 3.5)
    (episode,) = found(at(6))
    assert episode["ac_kwh"] == pytest.approx(22.026, abs=1e-4)


def test_a_day_is_written_when_it_is_over(fleet: int) -> None:
    send(fleet, 0, 24.5)
    found(at(24))
    assert rows("SELECT * FROM vehicle_days WHERE day = :day", day=date(2026, 1, 10)) == []
    found(at(24, minutes=16))
    (day,) = rows("SELECT * FROM vehicle_days WHERE day = :day", day=date(2026, 1, 10))
    # 25.3 kWh of charging and 12 W for 24 hours, of which 21.5 idle.
    assert day["ac_kwh"] == pytest.approx(25.588, abs=1e-4)
    assert day["dc_kwh"] == pytest.approx(22.77, abs=1e-4)
    assert day["idle_ac_kwh"] == pytest.approx(0.258, abs=1e-4)
    assert (day["idle_hours"], day["charging_hours"]) == (21.5, 2.5)


def test_late_readings_correct_a_finished_day(fleet: int) -> None:
    send(fleet, 0, 8)
    send(fleet, 12, 24.5)
    found(at(25))
    send(fleet, 8, 12)
    found(at(25))
    (day,) = rows("SELECT * FROM vehicle_days WHERE day = :day", day=date(2026, 1, 10))
    assert day["dc_kwh"] == pytest.approx(22.77, abs=1e-4)
    assert day["charging_hours"] == 2.5


def test_margins_do_not_reach_out_of_what_is_known() -> None:
    five, span = 300_000_000, Span(0, 10 * 300_000_000)
    sessions = [Span(0, five), Span(8 * five, 10 * five)]
    assert episodes._with_margins(sessions, span) == [Span(0, 2 * five), Span(7 * five, 10 * five)]


def test_hours_far_apart_are_looked_at_by_themselves() -> None:
    hours = [at(0), at(5), at(100), at(3)]
    assert list(episodes._spells(hours)) == [(at(0), at(5)), (at(100), at(100))]
    assert timedelta(hours=95) > episodes.REACH


def test_a_day_says_what_its_registers_showed(fleet: int) -> None:
    send(fleet, 0, 24.5)
    glitch = register(METER, [(at(12) + timedelta(seconds=30), 0.0)])
    post_to_stream(METER, fleet, glitch)
    found(at(25))
    (day,) = rows("SELECT * FROM vehicle_days WHERE day = :day", day=date(2026, 1, 10))
    assert (day["ac_events"], day["dc_events"]) == ({"GLITCH": 1}, {})


@pytest.mark.parametrize("when", [When.BEFORE, When.AFTER])
def test_whichever_call_of_a_search_fails_the_next_finds_all(
    fleet: int, monkeypatch: pytest.MonkeyPatch, when: When
) -> None:
    """Every call to PostgreSQL in turn, until a search gets by without failing one."""
    send(fleet, 0, 12)
    expected = found(at(12))
    for number in range(1, 200):
        execute("DELETE FROM charging_episodes")
        execute(
            "INSERT INTO vehicle_hours_changed (vehicle_key, hour)"
            " SELECT device_key, hour FROM vehicle_energy_hourly"
        )
        with monkeypatch.context() as patched:
            failpoints = Failpoints(patched, number, when, fail)
            with suppress(psycopg.OperationalError, OperationalError):
                episodes.find(at(12))
        episodes.find(at(12))
        assert rows("SELECT * FROM charging_episodes ORDER BY started_at") == expected, number
        assert rows("SELECT * FROM vehicle_hours_changed") == []
        if not failpoints.struck:
            return
    raise AssertionError("no search got by without a fault")
