"""Alarms over the API: lists, evidence, what people may do when, and what-if."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import settings
from tests.alarms.test_rules import daily, episode, healthy
from tests.factories import execute, rows
from tests.web.alarming import alarmed, charged, today
from tests.web.calls import Api, bearer, refused
from tests.web.conftest import MakeKey
from workers import watch
from workers.alarms import rules

ALARMS, ONE, REPLAY = "/v1/alarms", "/v1/alarms/1", "/v1/analytics/rules/replay"


def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def test_an_alarm_says_what_it_stands_on(admin: Api) -> None:
    alarmed(admin)
    (item,) = admin.get(ALARMS).json["items"]
    alarm = admin.get(ONE).json
    evaluations = alarm.pop("evaluations")
    assert alarm == item
    assert (item["rule"], item["state"], item["severity"]) == (rules.LOW, "open", "warning")
    assert (item["value"], item["threshold"], item["occurrences"]) == (0.84, 0.85, 1)
    assert (item["vehicleId"], item["meterId"]) == ("vehicle-001", "meter-001")
    assert [(e["value"], e["acKwh"], e["breach"]) for e in evaluations] == [(0.84, 20.0, True)] * 2
    assert item["since"] < item["openedAt"]


def test_money_is_shown_when_a_tariff_is_set(admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    alarmed(admin)
    without = admin.get(ONE).json
    monkeypatch.setenv("TARIFF_PER_KWH", "0.5")
    settings.load.cache_clear()
    alarm = admin.get(ONE).json
    settings.load.cache_clear()
    assert (without["avoidableCost"], without["avoidableKwh"] > 0) == (None, True)
    assert alarm["avoidableCost"] == round(alarm["avoidableKwh"] * 0.5, 2)


def test_lists_can_be_narrowed(admin: Api) -> None:
    alarmed(admin)
    alarmed(admin, 0.70, "vehicle-002")  # critical
    assert [a["vehicleId"] for a in admin.get(ALARMS).json["items"]] == [
        "vehicle-002",
        "vehicle-001",
    ]
    for query, ids in (
        ({"state": "open"}, [2, 1]),
        ({"state": "resolved"}, []),
        ({"state": "stale"}, []),
        ({"severity": "critical"}, [2]),
        ({"vehicleId": "vehicle-001"}, [1]),
        ({"rule": rules.LOW}, [2, 1]),
        ({"rule": rules.DROP}, []),
        ({"rule": rules.LOW, "severity": "warning", "state": "open"}, [1]),
    ):
        assert [a["id"] for a in admin.get(ALARMS, **query).json["items"]] == ids, query
    assert [a["id"] for a in admin.pages(ALARMS, limit=1)] == [2, 1]
    for query in ({"state": "loud"}, {"rule": "A1"}, {"severity": "bad"}, {"x": 1}, {"limit": 0}):
        refused(admin.get(ALARMS, **query), "BAD_QUERY")


def test_a_life(admin: Api) -> None:
    alarmed(admin)
    seen = admin.post(f"{ONE}/acknowledge", {"note": "On my way.", "by": "Ada"}).json
    assert (seen["state"], seen["ackBy"], seen["ackNote"]) == ("acknowledged", "Ada", "On my way.")
    shelf = {"note": "Parts ordered.", "until": tomorrow()}
    shelved = admin.post(f"{ONE}/shelve", shelf).json
    assert (shelved["state"], shelved["shelvedNote"]) == ("shelved", "Parts ordered.")
    back = admin.post(f"{ONE}/unshelve", {}).json
    assert (back["state"], back["shelvedUntil"], back["ackBy"]) == ("acknowledged", None, "Ada")
    closed = admin.post(f"{ONE}/resolve", {"note": "Cable replaced."}).json
    key_id = admin.headers["Authorization"].split("_")[1]
    assert (closed["state"], closed["resolvedReason"]) == ("resolved", "manual")
    assert (closed["resolvedBy"], closed["resolvedNote"]) == (key_id, "Cable replaced.")
    steps = admin.pages(f"{ONE}/history", limit=2)
    assert [(s["action"], s["from"], s["to"], s["who"]) for s in steps] == [
        ("raise", None, "open", "rules"),
        ("acknowledge", "open", "acknowledged", "Ada"),
        ("shelve", "acknowledged", "shelved", key_id),
        ("unshelve", "shelved", "acknowledged", key_id),
        ("resolve", "acknowledged", "resolved", key_id),
    ]


def test_what_is_resolved_by_hand_stays_so_until_there_is_new_evidence(admin: Api) -> None:
    alarmed(admin)
    admin.post(f"{ONE}/resolve", {})
    execute("INSERT INTO episodes_dirty (vehicle_key, ended_at) VALUES (1, now())")
    watch.watch(datetime.now(UTC))
    assert admin.get(ONE).json["state"] == "resolved"
    charged(admin, daily([0.84, 0.84], start=int(today()) + 2))
    watch.watch(datetime.now(UTC) + timedelta(days=4))
    alarm = admin.get(ONE).json
    assert (alarm["state"], alarm["occurrences"], alarm["resolvedAt"]) == ("open", 2, None)
    assert len(rows("SELECT * FROM alarms")) == 1


@pytest.mark.parametrize("action", ["acknowledge", "shelve", "unshelve", "resolve"])
def test_nothing_can_be_done_with_what_is_resolved(admin: Api, action: str) -> None:
    alarmed(admin)
    admin.post(f"{ONE}/resolve", {})
    body = {"note": "x", "until": tomorrow()} if action == "shelve" else {}
    problem = refused(admin.post(f"{ONE}/{action}", body), "ALARM_STATE")
    assert problem["detail"].startswith("An alarm that is resolved cannot be ")
    assert len(admin.get(f"{ONE}/history").json["items"]) == 2


def test_a_shelf_needs_a_reason_and_an_end_within_seven_days(admin: Api) -> None:
    alarmed(admin)
    now = datetime.now(UTC)
    for body in (
        {"until": tomorrow()},
        {"note": "x"},
        {"note": "x", "until": now - timedelta(minutes=1)},
        {"note": "x", "until": now + timedelta(days=7, minutes=1)},
        {"note": "x", "until": "soon"},
        {"note": "", "until": tomorrow()},
        {"note": "x", "until": tomorrow(), "y": 1},
        {"note": "a\x00b", "until": tomorrow()},
        {"note": "x", "until": tomorrow(), "by": "a\x00b"},
    ):
        refused(admin.post(f"{ONE}/shelve", body), "BAD_FIELD")
    assert admin.get(ONE).json["state"] == "open"


def test_acting_needs_the_scope_admin(admin: Api, key: MakeKey) -> None:
    alarmed(admin)
    reader = Api(admin.client, bearer(key("read")))
    for action in ("acknowledge", "shelve", "unshelve", "resolve"):
        refused(reader.post(f"{ONE}/{action}", {}), "SCOPE_MISSING")
    assert reader.get(ONE).status_code == 200
    refused(Api(admin.client, bearer(key("ingest"))).get(ALARMS), "SCOPE_MISSING")


def test_another_fleets_alarm_is_unknown(admin: Api, other_admin: Api) -> None:
    alarmed(other_admin)
    assert admin.get(ALARMS).json == {"items": [], "next": None}
    shelf = {"note": "x", "until": tomorrow()}
    for path in (ONE, f"{ONE}/history"):
        foreign = refused(admin.get(path), "UNKNOWN_ALARM")
        unknown = refused(admin.get(path.replace("/1", "/2")), "UNKNOWN_ALARM")
        assert foreign | {"instance": ""} == unknown | {"instance": ""}
    for action in ("acknowledge", "shelve", "unshelve", "resolve"):
        body = shelf if action == "shelve" else {}
        refused(admin.post(f"{ONE}/{action}", body), "UNKNOWN_ALARM")
    assert other_admin.get(ONE).json["state"] == "open"
    assert admin.get(REPLAY).json["vehicles"] == 0
    refused(admin.get("/v1/alarms/9223372036854775807"), "UNKNOWN_ALARM")
    refused(admin.get("/v1/alarms/9223372036854775808"), "NOT_FOUND")


# --- what-if --------------------------------------------------------------------------------------


def counts(api: Api, **query: object) -> dict[str, tuple[int, int]]:
    answer = api.get(REPLAY, **query).json
    return {r["rule"]: (r["current"], r["proposed"]) for r in answer["rules"]}


def test_what_other_thresholds_would_have_raised(admin: Api) -> None:
    start = int(today()) - 80
    usual = healthy(60)
    moved = [episode(start + n, e.efficiency or 0.0) for n, e in enumerate(usual)]
    worse = daily([0.885] * 14, start=start + 60)  # three points below
    charged(admin, [*moved, *worse])
    assert counts(admin) == dict.fromkeys(rules.EVALUATED_RULES, (0, 0)) | {rules.SHIFT: (1, 1)}
    assert counts(admin, dropPts=2.5)[rules.DROP] == (0, 1)
    assert counts(admin, floorPct=90)[rules.LOW] == (0, 1)
    assert counts(admin, cusumH=100)[rules.SHIFT] == (1, 0)
    assert counts(admin, days=5) == dict.fromkeys(rules.EVALUATED_RULES, (0, 0))
    answer = admin.get(REPLAY, floorPct=90).json
    assert (answer["vehicles"], answer["evaluations"], answer["next"]) == (1, 74, None)
    assert (answer["current"]["floor"], answer["proposed"]["floor"]) == (0.85, 0.9)
    assert answer["proposed"]["floorLowPower"] == pytest.approx(0.77)
    assert rows("SELECT * FROM alarms") == []


def test_a_what_if_comes_in_pages_of_vehicles(admin: Api) -> None:
    for number in ("001", "002", "003"):
        alarmed(admin, vehicle_id=f"vehicle-{number}")
    first = admin.get(REPLAY, limit=2, floorPct=80)
    assert first.json["vehicles"] == 2
    assert 'rel="next"' in first.headers["Link"]
    second = admin.get(REPLAY, limit=2, floorPct=80, cursor=first.json["next"]).json
    assert (second["vehicles"], second["next"]) == (1, None)
    low = next(r for r in second["rules"] if r["rule"] == rules.LOW)
    assert low == {"rule": rules.LOW, "current": 1, "proposed": 0}


def test_unlawful_thresholds_are_refused(admin: Api) -> None:
    for query in (
        {"floorPct": 101},
        {"cusumH": 0},
        {"dropPts": "nan"},
        {"days": 367},
        {"limit": 51},
        {"lowEvaluations": 0},
        {"x": 1},
    ):
        refused(admin.get(REPLAY, **query), "BAD_QUERY")


def test_the_thresholds_in_force_follow_the_settings(
    admin: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = admin.get("/v1/analytics/rules").json
    assert answer["rules"] == list(rules.RULES)
    shown = {name: answer["thresholds"][name] for name in ("floor", "dropPts", "cusumK", "cusumH")}
    assert shown == {"floor": 0.85, "dropPts": 5.0, "cusumK": 1.0, "cusumH": 8.0}
    monkeypatch.setenv("ALARM_FLOOR_PCT", "80")
    monkeypatch.setenv("ALARM_CUSUM_H", "9")
    settings.load.cache_clear()
    answer = admin.get("/v1/analytics/rules").json
    assert (answer["thresholds"]["floor"], answer["thresholds"]["cusumH"]) == (0.8, 9.0)
    assert answer["thresholds"]["floorMediumPower"] == pytest.approx(0.75)
