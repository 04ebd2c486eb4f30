"""The watcher: from stored evidence to stored alarms, however often and in whatever order."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models import alarms, episodes, locks
from models.engine import transaction
from models.episodes import DayRow
from tests.alarms.conftest import Put, row_of, stored, take_back, transitions, watch_at
from tests.alarms.test_rules import DAY, daily, episode, healthy
from tests.factories import MIDNIGHT, at, empty_servers, execute, make_fleet, rows, store
from workers import watch
from workers.alarms import announce, book, lifecycle, rules

LOW = [episode(1, 0.84), episode(2, 0.84)]
GOOD = [episode(3, 0.9), episode(4, 0.9)]

#: What depends on when the watcher looked, not on the evidence.
_OF_THE_RUN = {"id", "notified_at", "reopened_from"}


def evident() -> list[dict[str, Any]]:
    """The alarms, without those withdrawn, and without what depends on when it was looked."""
    found = [row for row in stored() if row["resolved_reason"] != "data_corrected"]
    bare = [{k: v for k, v in row.items() if k not in _OF_THE_RUN} for row in found]
    return sorted(bare, key=lambda row: (row["rule"], row["first_opened_at"]))


def baseline_of(vehicle_key: int) -> dict[str, Any]:
    """What is learnt of a vehicle."""
    (row,) = rows("SELECT * FROM vehicle_baselines WHERE vehicle_key = :key", key=vehicle_key)
    return row


def test_an_alarm_is_raised_with_its_evidence(put: Put) -> None:
    put(LOW)
    watch_at(LOW)
    (alarm,) = stored()
    assert (alarm["rule"], alarm["state"], alarm["severity"]) == (rules.LOW, "open", "warning")
    assert (alarm["opened_at"], alarm["since"]) == (at(48), at(24))
    assert (alarm["value"], alarm["threshold"]) == (0.84, 0.85)
    assert [(e["at"], e["value"]) for e in alarm["evidence"]] == [
        ("2026-01-11T00:00:00.000000Z", 0.84),
        ("2026-01-12T00:00:00.000000Z", 0.84),
    ]
    # Class default at 10 kW: 0.915. Twice 20 - 16.8 / 0.915 kWh.
    assert alarm["avoidable_kwh"] == pytest.approx(2 * (20 - 16.8 / 0.915), abs=1e-4)
    assert (alarm["meter_id"], alarm["vehicle_id"]) == ("meter-001", "vehicle-001")
    assert transitions() == [("raise", None, "open")]


def test_looking_again_changes_nothing(put: Put) -> None:
    put(LOW)
    watch_at(LOW)
    before = stored(), transitions()
    for _ in range(3):
        put(LOW)
        watch_at(LOW)
        execute("INSERT INTO episodes_dirty (vehicle_key, ended_at) VALUES (1, now())")
        watch_at(LOW)
    assert (stored(), transitions()) == before


def test_the_same_evidence_marks_nobody(put: Put) -> None:
    put(LOW)
    execute("DELETE FROM episodes_dirty")
    put(LOW)
    put([replace(LOW[0])])
    assert rows("SELECT * FROM episodes_dirty") == []
    put([replace(LOW[0], confidence="medium")])
    assert len(rows("SELECT * FROM episodes_dirty")) == 1


def test_returned_before_anyone_saw_it(put: Put) -> None:
    put([*LOW, *GOOD])
    watch_at(GOOD)
    (alarm,) = stored()
    assert (alarm["state"], alarm["returned_at"]) == ("rtn_unack", at(96))
    assert transitions() == [("raise", None, "open"), ("return", "open", "rtn_unack")]


def test_an_acknowledged_alarm_resolves_when_it_returns(put: Put) -> None:
    put(LOW)
    watch_at(LOW)
    execute("UPDATE alarms SET state = 'acknowledged', acknowledged_at = now()")
    put(GOOD)
    watch_at(GOOD)
    (alarm,) = stored()
    assert (alarm["state"], alarm["resolved_reason"]) == ("resolved", "recovered")
    assert (alarm["resolved_at"], alarm["resolved_by"]) == (at(96), "rules")


def test_within_seven_days_it_is_the_same_alarm_again(put: Put) -> None:
    again = daily([0.84, 0.84], start=10)
    for evidence in (LOW, GOOD, again):
        put(evidence)
        watch_at(evidence)
    (alarm,) = stored()
    assert (alarm["state"], alarm["occurrences"], alarm["opened_at"]) == ("open", 2, at(24 * 11))
    assert alarm["first_opened_at"] == at(48)


def test_after_seven_days_it_is_another_one(put: Put) -> None:
    again = daily([0.84, 0.84], start=11)
    for evidence in (LOW, GOOD, again):
        put(evidence)
        watch_at(evidence)
    first, second = stored()
    assert (first["state"], first["resolved_reason"]) == ("resolved", "recovered")
    assert (second["state"], second["reopened_from"]) == ("open", first["id"])


def test_s35_an_emptied_window_leaves_it_open_and_stale_after_seven_days(put: Put) -> None:
    put(LOW)
    watch_at(LOW)
    watch.watch(at(48) + 7 * DAY)
    assert stored("state, stale") == [{"state": "open", "stale": False}]
    watch.watch(at(48) + 7 * DAY + timedelta(minutes=1))
    assert stored("state, stale") == [{"state": "open", "stale": True}]
    watch.watch(at(48) + 90 * DAY)
    assert stored("state, stale") == [{"state": "open", "stale": True}]
    assert transitions()[1:] == [("stale", "open", "open")]
    again = [episode(100, 0.84)]
    put(again)
    watch_at(again)
    assert stored("state, stale") == [{"state": "open", "stale": False}]


def test_late_data_that_takes_the_evidence_away_withdraws_the_alarm(put: Put) -> None:
    put(LOW)
    watch_at(LOW)
    put([episode(2, 0.9)])
    now = watch_at(LOW)
    (alarm,) = stored()
    assert (alarm["state"], alarm["resolved_reason"]) == ("resolved", "data_corrected")
    assert alarm["resolved_at"] == now
    put([episode(2, 0.84)])
    watch_at(LOW)
    assert [row["state"] for row in stored()] == ["resolved", "open"]


def test_another_meter_closes_it(put: Put) -> None:
    put(LOW)
    watch_at(LOW)
    other = [episode(3, 0.84, meter_id="meter-777")]
    put(other)
    watch_at(other)
    (alarm,) = stored()
    assert (alarm["state"], alarm["resolved_reason"]) == ("resolved", "mapping_changed")
    assert baseline_of(1)["evaluations"] == 0


def test_a_shelf_ends(put: Put) -> None:
    put(LOW)
    watch_at(LOW)
    execute("UPDATE alarms SET state = 'shelved', shelved_until = :until", until=at(72))
    watch.watch(at(71))
    assert stored("state") == [{"state": "shelved"}]
    watch.watch(at(73))
    assert stored("state, shelved_until") == [{"state": "open", "shelved_until": None}]


def test_a_critical_alarm_speaks_up_every_24_hours(put: Put) -> None:
    critical = [episode(1, 0.70), episode(2, 0.70)]
    put(critical)
    now = watch_at(critical)
    for hours, times in ((23, 0), (24, 1), (25, 1), (48, 2)):
        watch.watch(now + timedelta(hours=hours))
        told = [step for step in transitions() if step[0] == "renotify"]
        assert len(told) == times
    execute("UPDATE alarms SET state = 'acknowledged', acknowledged_at = now()")
    watch.watch(now + timedelta(hours=96))
    assert len([step for step in transitions() if step[0] == "renotify"]) == 2


def test_one_loss_is_one_incident(put: Put) -> None:
    past = [*healthy(60), *daily([0.80] * 3, start=60)]
    put(past)
    watch_at(past)
    found = stored()
    assert {row["rule"] for row in found} == rules.EFFICIENCY_RULES
    assert len({row["incident"] for row in found}) == 1
    (drop,) = [row for row in found if row["rule"] == rules.DROP]
    assert drop["delta_pts"] == pytest.approx(-11.5, abs=0.3)
    assert {(row["vehicle_key"], row["returned_at"]) for row in found} == {(1, None)}
    assert "resolved" not in {row["state"] for row in found}
    baseline = baseline_of(1)
    assert baseline["status"] == "ready"
    assert baseline["efficiency_median"] == pytest.approx(0.915, abs=0.003)


def test_where_more_comes_out_than_goes_in_an_efficiency_means_nothing(put: Put) -> None:
    impossible = episode(3, 1.1, efficiency=None, confidence="none")
    put(LOW)
    watch_at(LOW)
    put([impossible])
    watch_at([impossible])
    assert {r["rule"]: (r["state"], r["suppressed_reason"]) for r in stored()} == {
        rules.LOW: ("suppressed", "data_quality"),
        rules.EXCEEDS: ("open", None),
    }
    put([episode(4, 0.84)])
    watch_at([episode(4, 0.84)])
    assert {r["rule"]: r["state"] for r in stored()} == {
        rules.LOW: "open",
        rules.EXCEEDS: "rtn_unack",
    }


def test_days_are_evidence_too(put: Put) -> None:
    made = [
        DayRow(1, (MIDNIGHT + n * DAY).date(), 20.0, 18.0, 2.4, 20.0, 3.0, "high") for n in range(2)
    ]
    with transaction() as conn:
        assert episodes.write_days(conn, made) == 2
    watch.watch(at(49))
    (alarm,) = stored()
    assert (alarm["rule"], alarm["value"], alarm["opened_at"]) == (rules.IDLE, 120, at(48))
    with transaction() as conn:
        assert episodes.write_days(conn, made) == 0
        changed = replace(made[1], idle_ac_kwh=0.2, ac_events={"RESET": 1})
        assert episodes.write_days(conn, [changed]) == 1
        assert episodes.days_of_vehicle(conn, 1)[1] == changed
    watch.watch(at(50))
    assert {r["rule"]: r["state"] for r in stored()} == {
        rules.IDLE: "resolved",
        rules.COUNTER: "open",
    }


# --- the present ----------------------------------------------------------------------------------


def test_a_silent_meter_is_noticed_while_its_vehicle_goes_on(fleet: int) -> None:
    minutes = range(0, 61, 1)
    meter = [(at(12, minutes=m), 100 + m / 60) for m in minutes if m <= 20]
    vehicle = [(at(12, minutes=m), 50 + m / 60) for m in minutes]
    store(fleet, meter, vehicle)
    watch.watch(at(12, minutes=44))  # silent since 12:20, allowed until 12:35, on-delay 15 min
    assert stored() == []
    watch.watch(at(12, minutes=49))
    assert stored() == []
    watch.watch(at(12, minutes=51))
    (alarm,) = stored()
    assert (alarm["rule"], alarm["state"]) == (rules.STREAM, "open")
    assert (alarm["since"], alarm["opened_at"]) == (at(12, minutes=35), at(12, minutes=50))
    watch.watch(at(12, minutes=52))
    assert len(transitions()) == 1
    store(fleet, [(at(12, minutes=53), 101)], [(at(12, minutes=61), 51.1)])
    watch.watch(at(12, minutes=54))
    assert stored("state") == [{"state": "open"}]
    watch.watch(at(12, minutes=58))
    assert stored("state, returned_at") == [
        {"state": "rtn_unack", "returned_at": at(12, minutes=58)}
    ]


def test_both_silent_is_a_parked_vehicle_and_no_fault(fleet: int) -> None:
    store(fleet, [(at(12), 100), (at(12, minutes=1), 100)], [(at(12), 50), (at(12.5), 50)])
    for minutes in (20, 40, 60, 300):
        watch.watch(at(12, minutes=minutes))
    assert stored() == []


# --- order, repetition, crashes -------------------------------------------------------------------

_PAST = [
    *healthy(40),
    *daily([0.80] * 4, start=40),
    *daily([0.915] * 3, start=44),
    *daily([0.84] * 3, start=47),
]


@pytest.mark.slow
@hypothesis_settings(max_examples=8)
@given(st.randoms(use_true_random=False))
def test_order_of_arrival_and_runs_in_between_change_nothing(
    servers: dict[str, str], chance: random.Random
) -> None:
    end = max(e.ended_at for e in _PAST) + timedelta(minutes=1)

    def fresh() -> int:
        empty_servers()
        made = make_fleet("Northern depot")
        execute("INSERT INTO vehicles (fleet_id, device_id) VALUES (:f, 'vehicle-001')", f=made)
        return made

    def arrive(fleet: int, made: list[Any]) -> None:
        with transaction() as conn:
            for one in made:
                row = row_of(one, fleet)
                episodes.replace(conn, 1, row.started_at, row.ended_at, [row])

    arrive(fresh(), _PAST)
    watch.watch(end)
    expected = evident()
    assert {row["rule"] for row in expected} == rules.EFFICIENCY_RULES

    fleet, shuffled = fresh(), [*_PAST, *_PAST[::7]]
    chance.shuffle(shuffled)
    while shuffled:
        size = chance.randint(1, 20)
        arrive(fleet, shuffled[:size])
        del shuffled[:size]
        if chance.random() < 0.5:
            watch.watch(end)
    watch.watch(end)
    assert evident() == expected


def test_a_crash_in_the_middle_of_a_run_costs_nothing(
    put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(LOW)
    with monkeypatch.context() as patched:
        patched.setattr(book, "announce", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            watch_at(LOW)
    assert stored() == []
    watch_at(LOW)
    assert transitions() == [("raise", None, "open")]


def test_a_second_watcher_leaves_at_once(put: Put) -> None:
    put(LOW)
    with transaction() as conn:
        assert locks.try_lock(conn, locks.ALARMS)
        watch_at(LOW)
    assert stored() == []
    watch_at(LOW)
    assert len(stored()) == 1


def test_taking_all_evidence_back_leaves_no_open_alarm(put: Put) -> None:
    put(LOW)
    watch_at(LOW)
    take_back(LOW)
    watch_at(LOW)
    assert [row["resolved_reason"] for row in stored()] == ["data_corrected"]


def test_the_task_says_what_it_did(put: Put) -> None:
    put(LOW)
    assert watch.watch_alarms() == {"vehicles": 1}
    assert watch.watch_alarms() == {"vehicles": 0}


def test_a_silent_side_that_was_resolved_by_hand_stays_so(fleet: int) -> None:
    minutes = range(61)
    store(
        fleet,
        [(at(12, minutes=m), 100 + m / 60) for m in minutes if m <= 20],
        [(at(12, minutes=m), 50 + m / 60) for m in minutes],
    )
    for minute in (40, 51):
        watch.watch(at(12, minutes=minute))
    with transaction() as conn:
        row = alarms.one(conn, fleet, 1, lock=True)
        assert row is not None
        book.act(conn, row, "resolve", who="Ada", note=None, now=at(12, minutes=52))
    execute("INSERT INTO episodes_dirty (vehicle_key, ended_at) VALUES (1, now())")
    watch.watch(at(12, minutes=55))
    assert stored("state, resolved_by") == [{"state": "resolved", "resolved_by": "Ada"}]


def test_a_clock_that_is_off_is_read_where_the_summary_keeps_it(put: Put) -> None:
    """The columns come with the summary's next migration; without them nobody is accused."""
    with transaction() as conn:
        assert alarms.skews(conn, [1]) == {}
    missing = not rows(
        "SELECT FROM pg_attribute WHERE attname = 'ac_quality'"
        " AND attrelid = 'vehicle_performance_24h'::regclass"
    )
    if missing:
        execute("ALTER TABLE vehicle_performance_24h ADD COLUMN ac_quality jsonb")
    try:
        execute(
            "INSERT INTO vehicle_performance_24h (vehicle_key, fleet_id, vehicle_id, window_from,"
            " window_to, ac_samples, dc_samples, ac_events, dc_events, computed_at, ac_quality)"
            " VALUES (1, 1, 'vehicle-001', now(), now(), 0, 0, '{}', '{}', now(), :quality)",
            quality='{"skewSeconds": -300}',
        )
        with transaction() as conn:
            assert alarms.skews(conn, [1, 2]) == {1: 300}
        for minute in (0, 31):
            watch.watch(at(12, minutes=minute))
        watch.watch(at(12, minutes=32))
        assert stored("rule, state") == [{"rule": rules.SKEW, "state": "open"}]
    finally:
        if missing:
            execute("ALTER TABLE vehicle_performance_24h DROP COLUMN ac_quality")


def test_each_transition_is_announced_in_json(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(announce, "_deliver", lambda _, **event: told.append(event))
    put([*LOW, *GOOD])
    watch_at(GOOD)
    assert [event["event_type"] for event in told] == ["alarm.opened", "alarm.returned"]
    (opened, returned) = told
    assert (opened["fleet_id"], opened["subject"]) == (1, "vehicle-001")
    assert returned["payload"] == json.loads(json.dumps(returned["payload"]))
    assert returned["payload"]["alarm"]["state"] == "rtn_unack"
    assert returned["payload"]["transition"] == {
        "at": "2026-01-14T00:00:00Z",
        "who": "rules",
        "note": None,
        "from": "open",
        "to": "rtn_unack",
    }


@pytest.mark.slow
@hypothesis_settings(max_examples=10)
@given(st.randoms(use_true_random=False))
def test_whatever_people_do_meanwhile_the_book_stays_in_order(
    servers: dict[str, str], chance: random.Random
) -> None:
    """Evidence comes in any order, changes and goes; people act on whatever is there."""
    empty_servers()
    fleet = make_fleet("Northern depot")
    execute("INSERT INTO vehicles (fleet_id, device_id) VALUES (:f, 'vehicle-001')", f=fleet)
    for _ in range(12):
        _arrive(fleet, chance)
        now = at(24 * 41) + timedelta(minutes=chance.randint(0, 40_000))
        watch.watch(now)
        for alarm in stored():
            action = chance.choice((*lifecycle.BY_PEOPLE, None, None, None))
            if action is not None:
                _try(fleet, alarm["id"], action, now)
        execute("INSERT INTO episodes_dirty (vehicle_key, ended_at) VALUES (1, now())")
        watch.watch(now)
        before = stored(), transitions()
        execute("INSERT INTO episodes_dirty (vehicle_key, ended_at) VALUES (1, now())")
        watch.watch(now)
        assert (stored(), transitions()) == before
        _columns_fit_the_states()
    steps = rows("SELECT * FROM alarm_transitions ORDER BY id")
    for alarm in stored():
        mine = [step for step in steps if step["alarm_id"] == alarm["id"]]
        assert mine[0]["from_state"] is None
        assert mine[-1]["to_state"] == alarm["state"]
        for one, later in pairwise(mine):
            assert one["to_state"] == later["from_state"]


def _arrive(fleet: int, chance: random.Random) -> None:
    with transaction() as conn:
        for _ in range(chance.randint(1, 6)):
            made = episode(chance.randint(1, 40), chance.choice((0.70, 0.84, 0.9, 1.1)))
            if made.efficiency == 1.1:
                made = replace(made, efficiency=None, confidence="none")
            row = row_of(made, fleet)
            kept = [row] if chance.random() < 0.8 else []
            episodes.replace(conn, 1, row.started_at, row.ended_at, kept)


def _columns_fit_the_states() -> None:
    for alarm in stored():
        resolved = alarm["state"] == "resolved"
        assert resolved == (alarm["resolved_at"] is not None) == bool(alarm["resolved_reason"])
        assert (alarm["state"] == "shelved") == (alarm["shelved_until"] is not None)
        assert (alarm["state"] == "rtn_unack") <= (alarm["returned_at"] is not None)
        if alarm["state"] in {"open", "acknowledged", "suppressed"}:
            assert alarm["returned_at"] is None


def _try(fleet: int, alarm_id: int, action: str, now: datetime) -> None:
    with transaction() as conn:
        row = alarms.one(conn, fleet, alarm_id, lock=True)
        assert row is not None
        try:
            until = now + timedelta(days=1) if action == lifecycle.SHELVE else None
            book.act(conn, row, action, who="Ada", note=None, now=now, until=until)
        except lifecycle.NotPossible:
            return


def test_lists_are_read_by_index(fleet: int, other_fleet: int) -> None:
    execute(
        "INSERT INTO alarms (fleet_id, vehicle_key, vehicle_id, rule, severity, state, stale,"
        " first_opened_at, opened_at, since, last_evaluated_at, value, threshold, avoidable_kwh,"
        " evidence, occurrences)"
        " SELECT 1 + n % 2, n, 'vehicle-' || n, 'EFFICIENCY_LOW', 'warning',"
        "  CASE WHEN n % 100 = 0 THEN 'open' ELSE 'resolved' END, false,"
        "  now(), now(), now(), now(), 0.8, 0.85, 1, '[]', 1 FROM generate_series(1, 5000) AS n"
    )
    execute("ANALYZE alarms")
    for query, index in (
        ("SELECT * FROM alarms WHERE fleet_id = 1 ORDER BY id DESC LIMIT 100", "alarms_(fleet|pk)"),
        ("SELECT * FROM alarms WHERE state <> 'resolved' AND id > 9 ORDER BY id LIMIT 9",
         "alarms_unresolved_idx"),
        ("SELECT rule FROM alarms WHERE vehicle_key = ANY ('{1,2}') AND state <> 'resolved'",
         "alarms_one_open_idx"),
        ("SELECT * FROM alarms WHERE vehicle_key = 7 ORDER BY id", "alarms_vehicle_idx"),
    ):  # fmt: skip
        plan = "\n".join(row["QUERY PLAN"] for row in rows(f"EXPLAIN {query}"))
        assert re.search(f"Index (Only )?Scan.* (using|on) {index}", plan), plan
        assert "Seq Scan" not in plan
