"""/v1/webhooks: registering, looking, testing, sending again; each fleet its own."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

import settings
from models import webhooks
from models.engine import transaction
from tests.factories import execute, rows
from tests.web.calls import FLEET, Api, bearer, refused
from tests.web.conftest import MakeKey
from workers import webhook_target

HOOKS = "/v1/webhooks"
#: On the public internet; nothing is sent there.
URL = "https://93.184.216.34/hook"


def register(api: Api, url: str = URL, **more: Any) -> dict[str, Any]:
    response = api.post(HOOKS, {"url": url, **more})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json
    return made


def sent_test(api: Api, webhook_id: int) -> str:
    response = api.post(f"{HOOKS}/{webhook_id}/test", {})
    assert response.status_code == 202, response.text
    return str(response.json["eventId"])


def deliveries(api: Api, webhook_id: int, **query: Any) -> list[dict[str, Any]]:
    return api.pages(f"{HOOKS}/{webhook_id}/deliveries", **query)


def test_a_secret_is_shown_once(admin: Api) -> None:
    made = register(admin, eventTypes=["alarm.raised", "alarm.resolved", "alarm.raised"])
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert made["eventTypes"] == ["alarm.raised", "alarm.resolved"]
    assert (made["url"], made["disabledAt"]) == (URL, None)
    listed = admin.get(HOOKS)
    assert listed.json == {"items": [made], "next": None}
    assert secret not in listed.text
    assert register(admin)["secret"] != secret


def test_without_types_all_are_wanted(admin: Api) -> None:
    assert register(admin)["eventTypes"] is None
    assert register(admin, eventTypes=None)["eventTypes"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"url": 5},
        {"url": ""},
        {"url": URL, "secret": "x"},
        {"url": URL, "eventTypes": []},
        {"url": URL, "eventTypes": "alarm.raised"},
        {"url": URL, "eventTypes": ["alarm"]},
        {"url": URL, "eventTypes": ["Alarm.raised"]},
        {"url": URL, "eventTypes": ["alarm.raised\n"]},
        {"url": URL, "eventTypes": ["a.b"] * 51},
        {"url": "https://x/" + "x" * 2048},
    ],
)
def test_a_wrong_field_is_refused(admin: Api, wrong: dict[str, Any]) -> None:
    assert refused(admin.post(HOOKS, wrong), "BAD_FIELD")["errors"]
    assert admin.get(HOOKS).json["items"] == []


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://localhost/", "http://[::1]/", "http://10.1.2.3:8080/x"),
        *("http://169.254.169.254/latest/meta-data", "http://[::ffff:7f00:1]/", "http://0/"),
        *("ftp://93.184.216.34/", "https://user:secret@93.184.216.34/", "nonsense"),
    ],
)
def test_a_forbidden_target_is_refused(admin: Api, url: str) -> None:
    problem = refused(admin.post(HOOKS, {"url": url}), "WEBHOOK_TARGET_REFUSED")
    assert problem["errors"].keys() == {"url"}
    assert rows("SELECT * FROM webhook_endpoints") == []


def test_a_private_target_may_be_allowed(admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_ALLOW_PRIVATE", "True")
    settings.load.cache_clear()
    assert register(admin, "http://127.0.0.1:9/x")["url"] == "http://127.0.0.1:9/x"
    refused(admin.post(HOOKS, {"url": "ftp://127.0.0.1/"}), "WEBHOOK_TARGET_REFUSED")


def test_a_name_is_judged_by_its_addresses(admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    book = {"good.example": "93.184.216.34", "bad.example": "192.168.0.9"}

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(0, 0, 0, "", (book[host], port))]

    monkeypatch.setattr(webhook_target.socket, "getaddrinfo", getaddrinfo)
    target = webhook_target.parse("https://bad.example/")
    with pytest.raises(webhook_target.TargetRefused):
        webhook_target.resolve(target, allow_private=False)
    assert webhook_target.resolve(
        webhook_target.parse("https://good.example/"), allow_private=False
    )


def test_a_fleet_has_so_many_and_no_more(admin: Api, other_admin: Api) -> None:
    for _ in range(webhooks.MAX_ENDPOINTS_PER_FLEET):
        last = register(admin)
    refused(admin.post(HOOKS, {"url": URL}), "TOO_MANY_WEBHOOKS")
    register(other_admin)
    assert admin.delete(f"{HOOKS}/{last['id']}").status_code == 204
    register(admin)


def test_lists_come_in_pages(admin: Api) -> None:
    made = [register(admin)["id"] for _ in range(5)]
    assert [hook["id"] for hook in admin.pages(HOOKS, limit=2)] == made
    events = [sent_test(admin, made[0]) for _ in range(5)]
    assert [d["eventId"] for d in deliveries(admin, made[0], limit=2)] == events[::-1]
    for path in (HOOKS, f"{HOOKS}/{made[0]}/deliveries"):
        refused(admin.get(path, cursor="x"), "BAD_QUERY")
        refused(admin.get(path, cursor="LTE="), "BAD_QUERY")  # -1


def test_a_test_event_goes_to_one_webhook_whatever_it_wants(admin: Api) -> None:
    one, other = register(admin, eventTypes=["alarm.raised"]), register(admin)
    event_id = sent_test(admin, one["id"])
    (delivery,) = deliveries(admin, one["id"])
    assert delivery.pop("createdAt")
    assert delivery.pop("nextAttemptAt")
    assert delivery == {
        "eventId": event_id,
        "type": "webhook.test",
        "subject": str(one["id"]),
        "state": "pending",
        "attempts": 0,
        "lastStatusCode": None,
        "lastError": None,
        "deliveredAt": None,
    }
    assert deliveries(admin, other["id"]) == []


@pytest.mark.parametrize("state", ["dead", "delivered", "pending"])
def test_an_event_can_be_sent_again(admin: Api, state: str) -> None:
    hook = register(admin)["id"]
    event_id = sent_test(admin, hook)
    execute(
        "UPDATE webhook_deliveries SET state = :state, attempts = 12, delivered_at = now(),"
        " next_attempt_at = now() + interval '1 day'",
        state=state,
    )
    (before,) = deliveries(admin, hook)
    assert (before["nextAttemptAt"] is None) == (state != "pending")
    response = admin.post(f"{HOOKS}/{hook}/deliveries/{event_id}/redeliver", {})
    assert (response.status_code, response.json) == (202, {"eventId": event_id})
    (after,) = deliveries(admin, hook)
    assert (after["state"], after["attempts"], after["deliveredAt"]) == ("pending", 0, None)
    due = rows("SELECT next_attempt_at <= now() AS due FROM webhook_deliveries")
    assert due == [{"due": True}]


def test_what_was_never_sent_there_cannot_be_sent_again(admin: Api) -> None:
    one, other = register(admin)["id"], register(admin)["id"]
    event_id = sent_test(admin, one)
    for path in (f"{other}/deliveries/{event_id}", f"{one}/deliveries/{uuid.uuid4()}"):
        refused(admin.post(f"{HOOKS}/{path}/redeliver", {}), "UNKNOWN_DELIVERY")
    refused(admin.post(f"{HOOKS}/{one}/deliveries/x/redeliver", {}), "NOT_FOUND")


def test_a_disabled_webhook_gets_nothing_more(admin: Api) -> None:
    hook = register(admin)["id"]
    event_id = sent_test(admin, hook)
    execute("UPDATE webhook_endpoints SET disabled_at = now()")
    assert admin.get(HOOKS).json["items"][0]["disabledAt"]
    refused(admin.post(f"{HOOKS}/{hook}/test", {}), "WEBHOOK_DISABLED")
    path = f"{HOOKS}/{hook}/deliveries/{event_id}/redeliver"
    refused(admin.post(path, {}), "WEBHOOK_DISABLED")
    assert len(deliveries(admin, hook)) == 1


def test_a_deleted_webhook_is_gone_with_its_deliveries(admin: Api) -> None:
    hook = register(admin)["id"]
    sent_test(admin, hook)
    assert admin.delete(f"{HOOKS}/{hook}").status_code == 204
    refused(admin.delete(f"{HOOKS}/{hook}"), "UNKNOWN_WEBHOOK")
    assert rows("SELECT * FROM webhook_deliveries") == []


def test_another_fleets_webhook_is_unknown(admin: Api, other_admin: Api) -> None:
    hook = register(other_admin)["id"]
    event_id = sent_test(other_admin, hook)
    paths = [
        ("GET", f"{HOOKS}/{hook}/deliveries"),
        ("POST", f"{HOOKS}/{hook}/test"),
        ("POST", f"{HOOKS}/{hook}/deliveries/{event_id}/redeliver"),
        ("DELETE", f"{HOOKS}/{hook}"),
    ]
    for method, path in paths:
        for asked in (path, path.replace(f"{HOOKS}/{hook}", f"{HOOKS}/404")):
            response = admin.client.open(asked, method=method, headers=admin.headers)
            problem = refused(response, "UNKNOWN_WEBHOOK")
            assert problem["detail"] == "The fleet of this key has no such webhook."
    assert admin.get(HOOKS).json["items"] == []
    assert len(deliveries(other_admin, hook)) == 1
    (fleet,) = rows("SELECT id FROM fleets WHERE name = :name", name=FLEET)
    with transaction() as conn:
        webhooks.enqueue(conn, fleet_id=fleet["id"], event_type="a.b", subject="", payload={})
    assert len(deliveries(other_admin, hook)) == 1


def test_webhooks_need_the_scope_admin(admin: Api, key: MakeKey) -> None:
    register(admin)
    reader = Api(admin.client, bearer(key("read", "ingest")))
    refused(reader.get(HOOKS), "SCOPE_MISSING")
    refused(reader.post(HOOKS, {"url": URL}), "SCOPE_MISSING")
    refused(reader.get(f"{HOOKS}/1/deliveries"), "SCOPE_MISSING")
