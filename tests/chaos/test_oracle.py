"""The judge is judged: each kind of damage is found, and nothing is found where there is none."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from models.kinds import KINDS
from tests.chaos import faults, oracle, reference, verdict
from tests.chaos.ledger import Ledger, Sent, read
from tests.chaos.traffic import Reading, Request, Traffic, spelled
from tests.factories import execute, flush_all, make_fleet, post_to_stream, roll_up
from workers import stream

BEGIN_US = 1_768_003_200_000_000  # 10 January 2026, 0:00 UTC
POISON = {"poison-1": "UNREADABLE"}


def deliver(path: Path, fleet: int, requests: list[Request]) -> Sent:
    """What the door and a sender's ledger do, for requests that are not refused."""
    ledger = Ledger(path)
    for request in requests:
        if request.readings:
            number = ledger.sent(request.kind, request.readings)
            bodies = [spelled(request.kind, reading) for reading in request.readings]
            post_to_stream(KINDS[request.kind], fleet, bodies)
            ledger.acknowledged(number)
    ledger.close()
    return read(path)


@pytest.fixture
def sent(servers: dict[str, str], tmp_path: Path) -> dict[str, list[Sent]]:
    """A load of two fleets with devices of the same names, stored and summed up; one poison."""
    ledgers = {}
    for number, name in enumerate(("Northern depot", "Southern depot")):
        traffic = Traffic(1, number, BEGIN_US, group=0)
        requests = [*islice(traffic, 150), *traffic.rest()]
        ledgers[name] = [deliver(tmp_path / name, make_fleet(name), requests)]
    stream.client().xadd("energy:{meter}", {"x": "poison-1"})
    flush_all()
    roll_up()
    return ledgers


def found(servers: dict[str, str], sent: dict[str, list[Sent]]) -> Counter[str]:
    return oracle.check(servers["DATABASE_URL"], sent, POISON).wrong


def test_nothing_is_found_where_nothing_is_wrong(
    servers: dict[str, str], sent: dict[str, list[Sent]]
) -> None:
    findings = oracle.check(servers["DATABASE_URL"], sent, POISON)
    assert findings.wrong == {}, findings.examples
    compared = findings.compared
    assert compared["acknowledged"] == compared["history"] + compared["conflicts"] > 5_000
    assert compared["conflicts"] > 0
    assert (compared["latest"], compared["summaries"], compared["dead letters"]) == (12, 6, 1)


ONE = "(device_key, recorded_at) = (SELECT device_key, max(recorded_at) FROM {} GROUP BY 1 LIMIT 1)"
HISTORY, LATEST = "meter_telemetry_history", "meter_status_latest"

DAMAGE: dict[str, tuple[str, set[str]]] = {
    "a lost reading": (f"DELETE FROM {HISTORY} WHERE {ONE.format(HISTORY)}", {"lost"}),  # noqa: S608
    "a changed reading": (
        f"UPDATE {HISTORY} SET kwh_consumed_ac = 77 WHERE {ONE.format(HISTORY)}",  # noqa: S608
        {"lost", "unexpected"},
    ),
    "an invented reading": (
        f"INSERT INTO {HISTORY} SELECT device_key, recorded_at + interval '1 us', received_at,"  # noqa: S608
        f" kwh_consumed_ac, voltage_v FROM {HISTORY} LIMIT 1",
        {"unexpected"},
    ),
    "an invented device": (
        "INSERT INTO meters (fleet_id, device_id) VALUES (1, 'meter-x')",
        {"unexpected device"},
    ),
    "a latest of yesterday": (
        f"UPDATE {LATEST} SET recorded_at = recorded_at - interval '1 s'"  # noqa: S608
        f" WHERE {ONE.format(LATEST)}",
        {"latest"},
    ),
    "an hour with too much": (
        "UPDATE vehicle_energy_hourly SET energy_kwh = energy_kwh + 1e-6"
        " WHERE device_key = (SELECT min(device_key) FROM vehicle_energy_hourly)",
        {"hourly"},
    ),
    "an hour too few": (
        "DELETE FROM vehicle_energy_hourly"
        " WHERE device_key = (SELECT min(device_key) FROM vehicle_energy_hourly)",
        {"hourly"},
    ),
    "a wrong summary": ("UPDATE vehicle_performance_24h SET dc_kwh = dc_kwh + 0.001", {"summary"}),
    "a missing summary": ("DELETE FROM vehicle_performance_24h", {"summary"}),
    "a conflict that was dropped": ("DELETE FROM reading_conflicts", {"lost"}),
    "a reading that was buried": (
        "UPDATE dead_letters SET raw = 'a lawful one'",
        {"dead letter not planned", "poison not buried"},
    ),
    "a poison buried for another reason": (
        "UPDATE dead_letters SET reason = 'UNSTORABLE'",
        {"dead letter not planned"},
    ),
    "an hour left dirty": (
        "INSERT INTO meter_hours_dirty (device_key, hour) VALUES (1, now())",
        {"hours left dirty"},
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found(servers: dict[str, str], sent: dict[str, list[Sent]], what: str) -> None:
    statement, named = DAMAGE[what]
    execute(statement)
    wrong = found(servers, sent)
    # What is derived from a damaged reading may be wrong as well; the cause must be named.
    assert named <= set(wrong)
    assert set(wrong) - named <= ({"latest", "hourly", "summary"} if named & CAUSES else set())


CAUSES = {"lost", "unexpected"}


def test_an_unconfirmed_reading_may_be_there_or_not(
    servers: dict[str, str], sent: dict[str, list[Sent]], tmp_path: Path
) -> None:
    """A request that never heard 202 is neither lost nor unexpected."""
    ledger = Ledger(tmp_path / "open")
    device = Reading("meter-open", BEGIN_US, (1.0, 230.0))
    ledger.sent("meter", [device, device._replace(at_us=BEGIN_US + 1)])
    ledger.close()
    sent["Northern depot"].append(read(tmp_path / "open"))
    post_to_stream(KINDS["meter"], 1, [spelled("meter", device)])
    flush_all()
    roll_up()
    assert found(servers, sent) == {}


# --- the parts ------------------------------------------------------------------------------------


def test_traffic_is_the_same_for_a_seed_and_of_every_sort() -> None:
    def first(seed: int) -> list[Request]:
        return list(islice(Traffic(seed, 0, BEGIN_US), 400))

    bodies = [[r.readings for r in first(seed)] for seed in (1, 1, 2)]
    assert bodies[0] == bodies[1] != bodies[2]
    requests = first(1)
    assert {r.gzipped for r in requests} == {True, False}
    assert len({r.content_type for r in requests}) == 3
    assert len({r.refusal[1] for r in requests if r.refusal}) >= 5
    assert any(r.rejected for r in requests)
    values: dict[tuple[str, int], set[tuple[float, ...]]] = {}
    sent = [(r.device, r.at_us) for request in requests for r in request.readings]
    for request in requests:
        for device, at_us, measured in request.readings:
            values.setdefault((device, at_us), set()).add(measured)
    assert len(set(sent)) < len(sent), "some are repeated"
    assert sum(len(v) == 2 for v in values.values()) > 0, "some are contradicted"
    assert max(map(len, values.values())) == 2
    instants = [at_us for device, at_us in sent if device == "meter-c0p0"]
    assert instants != sorted(instants), "some are late"


def test_the_order_of_faults_is_the_same_for_a_seed_and_leaves_none_out() -> None:
    everything = faults.chosen("*")
    orders = [faults.Order(everything, seed) for seed in (1, 1, 2)]
    drawn = [[fault.name for _ in range(60) for fault in order.next()] for order in orders]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {*drawn[0][: len(everything)]} == {fault.name for fault in everything}


def test_faults_are_chosen_by_pattern() -> None:
    assert [f.name for f in faults.chosen("stream-k*, web-child-kill")] == [
        "web-child-kill",
        "stream-kill",
    ]
    with pytest.raises(ValueError, match="stream-kill"):
        faults.chosen("nonsense")


def test_pauses_are_short_or_long() -> None:
    scene = faults.Scene(None, random.Random(1), 40.0)  # type: ignore[arg-type]
    pauses = [scene.pause() for _ in range(200)]
    assert all(0.3 <= p <= 4 or 30 <= p <= 40 for p in pauses)
    assert 30 < sum(p >= 30 for p in pauses) < 90


@pytest.mark.parametrize(
    ("intervals", "seconds"),
    [([], 0), ([(1, 3)], 2), ([(1, 3), (2, 5), (7, 8)], 5), ([(1, 9), (2, 3)], 8)],
)
def test_seconds_that_several_saw_count_once(
    intervals: list[tuple[float, float]], seconds: float
) -> None:
    assert verdict.union(intervals) == seconds


def test_a_run_without_a_single_reading_has_not_passed() -> None:
    run = verdict.Run(1, 60, "*", 4.0)
    assert not run.passed
    run.findings.compared["acknowledged"] = 1
    assert run.passed
    run.findings.add("lost", "one")
    assert not run.passed
    assert "FAILED" in verdict.screen(run)


HOUR = reference.HOUR_US


def test_the_reference_by_hand() -> None:
    """Two hours: 1 then 2 kWh, a restart that has counted half a kWh, then 1 more."""
    ac = [(0, 10.0), (HOUR // 2, 11.0), (HOUR - 1, 13.0), (HOUR, 0.5), (2 * HOUR, 1.5)]
    hours = reference.hours(ac)
    assert hours[0] == reference.Hour(0, 10.0, HOUR - 1, 13.0, 3.0, 3)
    assert hours[HOUR] == reference.Hour(HOUR, 0.5, HOUR, 0.5, 0.0, 1)
    dc = [(HOUR // 2, 5.0), (3 * HOUR // 2, 7.0), (4 * HOUR, 8.0)]
    # Common: from the half hour to two hours. AC 2 + 0.5 + 1; DC 2 + a fifth of 1.
    summary = reference.summary(ac, dc)
    assert summary is not None
    assert summary.ac_kwh == pytest.approx(3.5)
    assert summary.dc_kwh == pytest.approx(2.2)
    assert summary.efficiency == pytest.approx(2.2 / 3.5)
    assert reference.summary(ac[:1], dc) is None
