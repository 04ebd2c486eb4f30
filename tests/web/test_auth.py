"""Keys: who is let in, who is not, for how long a key is remembered, and where it never appears."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Connection, event, select
from werkzeug.routing import Rule

import settings
from models import Base, access, engine
from models.kinds import METER
from stack.ports import free_port
from tests.factories import execute, flush_all, meter_reading, rows
from tests.web.calls import Api, accepted, bearer, refused
from tests.web.conftest import MakeKey
from web import auth
from web.auth import KeyRing, identify

OPEN_TO_ALL = ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/static/")


def rules(app: Flask, *, protected: bool = True) -> list[Rule]:
    """The app's routes: those that need a key, or those that don't."""
    found = app.url_map.iter_rules()
    return [r for r in found if (r.rule == "/" or r.rule.startswith(OPEN_TO_ALL)) is not protected]


def call(client: FlaskClient, rule: Rule, headers: dict[str, str]):
    """Each route's own method, some device in its path, something lawful in its body."""
    _, path = rule.build({name: PARTS.get(name, "vehicle-001") for name in rule.arguments})
    (method,) = rule.methods - {"HEAD", "OPTIONS"}
    nothing: object = [] if rule.rule.startswith("/ingestion/") else {}
    if rule.endpoint == "alarm-actions.shelve":
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        nothing = {"note": "as agreed", "until": tomorrow.isoformat(timespec="seconds")}
    body = BODIES.get((method, rule.rule), nothing)
    return client.open(path, method=method, headers=headers, json=body)


ASSIGNMENTS, WEBHOOKS = "/v1/meter-assignments", "/v1/webhooks"
#: What stands in a path where no device does.
PARTS = {"assignment_id": 1, "webhook_id": 1, "alarm_id": 1, "event_id": UUID(int=1)}
BODIES: dict[tuple[str, str], dict[str, str]] = {
    ("POST", WEBHOOKS): {"url": "https://93.184.216.34/"},
    ("POST", ASSIGNMENTS): {
        "vehicleId": "vehicle-001",
        "meterId": "meter-001",
        "from": "2026-01-10T00:00:00Z",
    },
}


def scope_of(rule: Rule) -> str:
    if rule.rule.startswith("/ingestion/"):
        return "ingest"
    changes = rule.methods & {"POST", "PATCH", "DELETE"}
    changes = changes or rule.rule.startswith((ASSIGNMENTS, WEBHOOKS))
    return "admin" if changes else "read"


@contextmanager
def statements() -> Iterator[list[str]]:
    """What PostgreSQL is asked meanwhile."""
    asked: list[str] = []

    def listen(_conn, _cursor, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(engine.engine(), "before_cursor_execute", listen)
    try:
        yield asked
    finally:
        event.remove(engine.engine(), "before_cursor_execute", listen)


# --- every route ----------------------------------------------------------------------------------


def test_every_route_needs_a_key_unless_it_is_known_to_be_open(
    app: Flask, client: FlaskClient, key: MakeKey
) -> None:
    assert len(rules(app)) >= 18
    scopeless = bearer(key())
    for rule in rules(app):
        refused(call(client, rule, {}), "KEY_MISSING")
        refused(call(client, rule, bearer("eie_00000000_x")), "KEY_INVALID")
        refused(call(client, rule, scopeless), "SCOPE_MISSING")


def test_row_45_every_route_needs_its_own_scope(
    app: Flask, client: FlaskClient, key: MakeKey
) -> None:
    headers = {scope: bearer(key(scope)) for scope in auth.SCOPES}
    for rule in rules(app):
        needed = scope_of(rule)
        for scope in auth.SCOPES:
            response = call(client, rule, headers[scope])
            assert (response.status_code == 403) == (scope != needed), (rule.rule, scope)


def test_the_open_routes_need_no_key(app: Flask, client: FlaskClient) -> None:
    names = {r.rule for r in rules(app, protected=False)}
    assert {"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"} <= names
    for path in ("/healthz", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200


# --- the header -----------------------------------------------------------------------------------


def test_a_header_without_a_bearer_key_is_none(client: FlaskClient) -> None:
    for value in ["", "Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "bearer\t", "Token x", "eie_a_b"]:
        response = client.get("/v1/meters", headers={"Authorization": value})
        refused(response, "KEY_MISSING")
    refused(client.get("/v1/meters"), "KEY_MISSING")


MALFORMED = ["x", "eie", "eie_", "eie__", "eie_;_x", "eie_%_x", "eie_a b_x", "ei_a_b", "é_é_é"]


def test_a_malformed_key_is_invalid_and_asks_nobody(client: FlaskClient) -> None:
    with statements() as asked:
        for value in MALFORMED:
            for header in (f"Bearer {value}", f"Bearer  {value} "):
                response = client.get("/v1/meters", headers={"Authorization": header})
                refused(response, "KEY_INVALID")
    assert asked == []


def test_the_scheme_may_be_written_in_any_case(client: FlaskClient, key: MakeKey) -> None:
    made = key("read")
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"Authorization": f"{scheme} {made}"}
        assert client.get("/v1/meters", headers=headers).status_code == 200


def test_a_key_in_the_query_is_no_key(client: FlaskClient, key: MakeKey) -> None:
    made = key("read")
    for name in ("key", "api_key", "access_token"):
        refused(client.get("/v1/meters", query_string={name: made}), "KEY_MISSING")


def test_row_45_neither_half_of_a_key_will_do(client: FlaskClient, key: MakeKey) -> None:
    first, second = key("read"), key("read")
    _, key_id, secret = first.split("_", 2)
    other = second.split("_", 2)[2]
    for wrong in [
        f"eie_{key_id}_",
        f"eie_{key_id}_{other}",
        f"eie_{key_id}_{secret}x",
        f"{secret}",
    ]:
        refused(client.get("/v1/meters", headers=bearer(wrong)), "KEY_INVALID")
    stored = rows("SELECT secret_sha256 FROM api_keys WHERE key_id = :id", id=key_id)
    digest = stored[0]["secret_sha256"].hex()
    refused(client.get("/v1/meters", headers=bearer(f"eie_{key_id}_{digest}")), "KEY_INVALID")


# --- for how long ---------------------------------------------------------------------------------


class Clock:
    """time.monotonic() of web.auth, to be put forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(auth, "time", made)
    return made


def test_row_45_an_expired_key_is_invalid_from_that_moment(
    client: FlaskClient, key: MakeKey
) -> None:
    now = datetime.now(UTC)
    over = bearer(key("read", expires_at=now - timedelta(seconds=1)))
    valid = bearer(key("read", expires_at=now + timedelta(hours=1)))
    refused(client.get("/v1/meters", headers=over), "KEY_INVALID")
    assert client.get("/v1/meters", headers=valid).status_code == 200


def test_a_remembered_key_expires_on_time(
    client: FlaskClient, key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = bearer(key("read", expires_at=datetime.now(UTC) + timedelta(milliseconds=300)))
    assert client.get("/v1/meters", headers=soon).status_code == 200

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(seconds=1)

    monkeypatch.setattr(auth, "datetime", Later)
    refused(client.get("/v1/meters", headers=soon), "KEY_INVALID")


def test_row_45_a_revoked_key_is_invalid_within_half_a_minute(
    client: FlaskClient, key: MakeKey, clock: Clock
) -> None:
    made = key("read")
    assert client.get("/v1/meters", headers=bearer(made)).status_code == 200
    with engine.transaction() as conn:
        assert access.revoke_key(conn, made.split("_")[1])
    clock.now += 30.0
    refused(client.get("/v1/meters", headers=bearer(made)), "KEY_INVALID")


def test_a_new_key_is_valid_within_half_a_minute_even_if_it_was_tried_too_soon(
    client: FlaskClient, key: MakeKey, clock: Clock
) -> None:
    made = key("read")
    execute("UPDATE api_keys SET key_id = 'x' || key_id")
    refused(client.get("/v1/meters", headers=bearer(made)), "KEY_INVALID")
    execute("UPDATE api_keys SET key_id = substr(key_id, 2)")
    clock.now += 30.0
    assert client.get("/v1/meters", headers=bearer(made)).status_code == 200


def test_a_remembered_key_asks_postgresql_nothing(api: Api) -> None:
    accepted(api.send(METER, meter_reading()))
    with statements() as asked:
        accepted(api.send(METER, meter_reading()))
    assert asked == []


def test_a_flood_of_invented_keys_does_not_grow_the_memory(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "MAX_REMEMBERED", 3)
    ring = auth.KeyRing()
    for n in range(20):
        assert ring.find(f"{n:08}") is None
        assert len(ring._known) + len(ring._unknown) <= 3


# --- PostgreSQL away ------------------------------------------------------------------------------


@pytest.fixture
def no_database(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Call .setenv on it to take PostgreSQL away."""
    with monkeypatch.context() as patched:
        yield patched
    settings.load.cache_clear()


def take_away(patched: pytest.MonkeyPatch) -> None:
    patched.setenv("DATABASE_URL", f"postgresql://127.0.0.1:{free_port()}/energy")
    settings.load.cache_clear()


def test_without_postgresql_known_keys_still_bring_readings_in(
    api: Api, no_database: pytest.MonkeyPatch, clock: Clock
) -> None:
    accepted(api.send(METER, meter_reading()))
    take_away(no_database)
    accepted(api.send(METER, meter_reading()))
    clock.now += 3600.0
    accepted(api.send(METER, meter_reading()))


def test_without_postgresql_unknown_keys_may_try_again(
    api: Api, key: MakeKey, no_database: pytest.MonkeyPatch
) -> None:
    unknown = Api(api.client, bearer(key("ingest")))
    take_away(no_database)
    for _ in range(2):
        refused(unknown.send(METER, meter_reading()), "DATABASE_UNAVAILABLE")


def test_without_postgresql_a_wrong_secret_of_a_known_key_is_still_wrong(
    api: Api, no_database: pytest.MonkeyPatch
) -> None:
    accepted(api.send(METER, meter_reading()))
    take_away(no_database)
    forged = {name: value[:-1] + "!" for name, value in api.headers.items()}
    refused(Api(api.client, forged).send(METER, meter_reading()), "KEY_INVALID")


def test_without_postgresql_every_read_and_change_may_be_tried_again(
    app: Flask, admin: Api, no_database: pytest.MonkeyPatch
) -> None:
    accepted(admin.send(METER, meter_reading()))
    take_away(no_database)
    for rule in rules(app):
        if rule.rule.startswith("/v1/") and rule.rule != "/v1/analytics/rules":  # asks nobody
            refused(call(admin.client, rule, admin.headers), "DATABASE_UNAVAILABLE")


# --- secrets --------------------------------------------------------------------------------------


def test_a_secret_is_in_no_table_and_no_log(app: Flask, client: FlaskClient, key: MakeKey) -> None:
    log = io.StringIO()
    (ours,) = [h for h in logging.getLogger().handlers if type(h) is logging.StreamHandler]
    ours.setStream(log)
    logging.getLogger().setLevel(logging.DEBUG)
    made = key("ingest", "read")
    secret = made.split("_", 2)[2]
    caller = Api(client, bearer(made))
    caller.send(METER, meter_reading())
    caller.send(METER, b"{")
    caller.get("/v1/meters/meter-404/status")
    caller.get("/v1/meters", limit="x")
    refused(Api(client, bearer(made + "x")).send(METER, meter_reading()), "KEY_INVALID")
    app.view_functions["meters.listed"] = lambda: 1 / 0
    refused(caller.get("/v1/meters"), "INTERNAL_ERROR")
    flush_all()
    assert "ZeroDivisionError" in log.getvalue()
    assert secret not in log.getvalue()
    with engine.transaction() as conn:
        for table in Base.metadata.sorted_tables:
            assert secret not in str(conn.execute(select(table)).all())


def test_a_key_that_many_use_at_once_is_asked_for_once(
    app: Flask, key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a start every sender is a stranger: more of them than the pool has connections."""
    find_key, asked, go_on = access.find_key, [], threading.Event()

    def slowly(conn: Connection, key_id: str) -> access.KeyRecord | None:
        asked.append(key_id)
        assert go_on.wait(10)
        return find_key(conn, key_id)

    monkeypatch.setattr(access, "find_key", slowly)
    sender, ring = key("ingest"), KeyRing()
    with ThreadPoolExecutor(20) as senders:
        callers = [senders.submit(identify, ring, f"Bearer {sender}") for _ in range(20)]
        while len(ring._introductions._waiting) < 19:
            time.sleep(0.001)
        go_on.set()
        assert len({caller.result(10).key_id for caller in callers}) == 1
    assert len(asked) == 1
