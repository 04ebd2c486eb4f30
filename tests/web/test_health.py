"""/healthz, /readyz and /metrics: alive, able to keep its promises, and how it is doing."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis
from environs import EnvError
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

import settings
from models import engine
from models.kinds import METER
from stack import valkey
from stack.ports import free_port
from tests.factories import at, execute, flush_all, meter_reading, rows
from tests.web.calls import Api, accepted, refused
from web import create_app
from workers import conservation as watch
from workers import stream

#: The tests' own PostgreSQL runs without these: nothing of it survives anyway.
THROW_AWAY = {"FSYNC_OFF", "FULL_PAGE_WRITES_OFF"}


def unmet(client: FlaskClient) -> set[str]:
    """The names of what is missing; each comes with a reason."""
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json["status"] == "not ready"
    assert all(isinstance(reason, str) and reason for reason in response.json["unmet"].values())
    return {*response.json["unmet"]}


def use(monkeypatch: pytest.MonkeyPatch, **env: str) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings.load.cache_clear()


@pytest.fixture
def server(servers: dict[str, str]) -> Iterator[redis.Redis]:
    """The stream's server; its settings come back as they were."""
    names = ("appendonly", "appendfsync", "maxmemory-policy", "no-appendfsync-on-rewrite")
    with redis.Redis.from_url(servers["STREAM_URL"]) as client:
        before = client.config_get(*names)
        yield client
        for name, value in before.items():
            client.config_set(name, value)


# --- alive ----------------------------------------------------------------------------------------


def test_healthz_asks_no_server(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    use(
        monkeypatch,
        DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/energy",
        STREAM_URL=f"redis://127.0.0.1:{free_port()}/0",
    )
    response = client.get("/healthz")
    assert (response.status_code, response.json) == (200, {"status": "ok"})


@pytest.mark.usefixtures("logging_as_before")
def test_an_app_is_made_before_its_servers_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    urls = dict.fromkeys(("STREAM_URL", "CELERY_BROKER_URL"), f"redis://{nowhere}/0")
    use(monkeypatch, DATABASE_URL=f"postgresql://{nowhere}/energy", **urls)
    assert create_app().test_client().get("/healthz").status_code == 200


@pytest.mark.usefixtures("logging_as_before")
def test_a_missing_setting_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, STREAM_URL="redis://127.0.0.1/0", CELERY_BROKER_URL="redis://127.0.0.1/0")
    with pytest.raises(EnvError, match="DATABASE_URL"):
        create_app()


# --- ready ----------------------------------------------------------------------------------------


def test_readyz_names_what_the_tests_own_servers_lack(client: FlaskClient) -> None:
    assert unmet(client) == THROW_AWAY


def test_ready_is_200(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    safe = text(
        "SELECT name, 'on' AS setting FROM pg_settings"
        " WHERE name IN ('synchronous_commit', 'fsync', 'full_page_writes')"
    )
    monkeypatch.setattr("models.checks._SETTINGS", safe)
    response = client.get("/readyz")
    assert (response.status_code, response.json["status"]) == (200, "ready")
    assert "unmet" not in response.json


def test_readyz_tells_how_old_the_oldest_waiting_request_is(api: Api) -> None:
    assert api.client.get("/readyz").json["streams"]["meter"] == {
        "waitingRequests": 0,
        "oldestWaitingSeconds": 0.0,
        "conservation": None,  # nothing was ever stored, nobody has looked
    }
    accepted(api.send(METER, meter_reading()))
    time.sleep(0.1)
    told = api.client.get("/readyz").json["streams"]
    assert told["meter"]["waitingRequests"] == 1
    assert 0.1 <= told["meter"]["oldestWaitingSeconds"] < 5
    assert told["vehicle"]["oldestWaitingSeconds"] == 0.0


def test_readyz_tells_whether_all_that_was_accepted_is_accounted_for(api: Api) -> None:
    watch.check_conservation()
    accepted(api.send(METER, [meter_reading(), meter_reading(), meter_reading(timestamp=at(1))]), 3)
    flush_all()
    watch.check_conservation()
    told = api.client.get("/readyz").json["streams"]["meter"]["conservation"]
    assert told.pop("checkedAt").endswith("Z")
    assert told == {
        "settledRequests": 1,
        "settledReadings": 3,
        "inserted": 2,
        "duplicates": 1,
        "conflicts": 0,
        "dead": 0,
        "differences": {"requests": 0, "forgotten": 0, "readings": 0, "deadLetters": 0},
    }
    stream.client().flushall()
    watch.check_conservation()
    response = api.client.get("/readyz")
    told = response.json["streams"]["meter"]["conservation"]["differences"]
    assert told == {"requests": -1, "forgotten": 1, "readings": 0, "deadLetters": 0}
    assert {*response.json["unmet"]} == THROW_AWAY, "a past loss is no reason to turn readings away"


@pytest.mark.parametrize(
    ("name", "value", "condition"),
    [
        ("appendonly", "no", "APPENDONLY_OFF"),
        ("appendfsync", "everysec", "APPENDFSYNC_NOT_ALWAYS"),
        ("appendfsync", "no", "APPENDFSYNC_NOT_ALWAYS"),
        ("maxmemory-policy", "allkeys-lru", "EVICTION_ON"),
        ("maxmemory-policy", "volatile-ttl", "EVICTION_ON"),
        ("no-appendfsync-on-rewrite", "yes", "NO_APPENDFSYNC_ON_REWRITE"),
    ],
)
def test_row_51_readyz_names_an_unsafe_setting_of_the_stream(
    client: FlaskClient, server: redis.Redis, name: str, value: str, condition: str
) -> None:
    server.config_set(name, value)
    assert unmet(client) == THROW_AWAY | {condition}


def test_readyz_names_all_of_them_at_once(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with valkey.temporary() as url:
        with redis.Redis.from_url(url) as unsafe:
            unsafe.config_set("maxmemory-policy", "allkeys-random")
        use(monkeypatch, STREAM_URL=url)
        assert unmet(client) == THROW_AWAY | {"APPENDONLY_OFF", "EVICTION_ON"}


def test_readyz_names_an_old_server_and_one_that_loads(
    client: FlaskClient, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {**server.info(), "redis_version": "6.2.14", "loading": 1}
    monkeypatch.setattr(redis.Redis, "info", lambda *_: told)
    assert unmet(client) == THROW_AWAY | {"STREAM_TOO_OLD", "STREAM_LOADING"}


def test_readyz_names_a_server_that_cannot_write_or_that_follows_another(
    client: FlaskClient, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {**server.info(), "aof_last_write_status": "err", "role": "slave"}
    monkeypatch.setattr(redis.Redis, "info", lambda *_: told)
    assert unmet(client) == THROW_AWAY | {"STREAM_CANNOT_WRITE", "STREAM_IS_A_REPLICA"}


@pytest.mark.parametrize(
    ("name", "value", "condition"),
    [
        ("synchronous_commit", "off", "SYNCHRONOUS_COMMIT_OFF"),
        ("default_transaction_read_only", "on", "DATABASE_READ_ONLY"),
    ],
)
def test_row_51_readyz_names_commits_that_keep_nothing(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, name: str, value: str, condition: str
) -> None:
    engine.dispose()
    engine._engine_of.cache_clear()
    monkeypatch.setitem(engine._SESSION, name, value)
    try:
        assert unmet(client) == THROW_AWAY | {condition}
    finally:
        engine.dispose()
        engine._engine_of.cache_clear()


def test_readyz_names_servers_that_are_away(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    use(monkeypatch, DATABASE_URL=f"postgresql://energy:secret@{nowhere}/energy")
    assert unmet(client) == {"DATABASE_UNAVAILABLE"}
    use(monkeypatch, STREAM_URL=f"redis://:secret@{nowhere}/0")
    assert unmet(client) == {"DATABASE_UNAVAILABLE", "STREAM_UNAVAILABLE"}
    assert "secret" not in client.get("/readyz").text


def test_readyz_names_a_schema_of_another_release(client: FlaskClient) -> None:
    (before,) = rows("SELECT version_num FROM alembic_version")
    execute("UPDATE alembic_version SET version_num = '0000'")
    try:
        assert unmet(client) == THROW_AWAY | {"MIGRATIONS_PENDING"}
    finally:
        execute("UPDATE alembic_version SET version_num = :version_num", **before)


def test_readyz_names_a_schema_that_was_never_made(client: FlaskClient) -> None:
    execute("ALTER TABLE alembic_version RENAME TO elsewhere")
    try:
        assert unmet(client) == {"MIGRATIONS_PENDING"}
    finally:
        execute("ALTER TABLE elsewhere RENAME TO alembic_version")


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_can_be_parsed_and_tell_what_happened(api: Api) -> None:
    accepted(api.send(METER, meter_reading()))
    refused(api.send(METER, b"{"), "MALFORMED_JSON")
    response = api.client.get("/metrics")
    assert response.content_type.startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["energy_readings_accepted_total", "meter"] >= 1
    assert samples["energy_requests_refused_total", "MALFORMED_JSON"] >= 1
    declared = {f"energy_{name}" for name in (
        "readings_accepted", "readings_rejected", "requests_refused", "doorbells_lost",
        "readings_flushed", "flush_seconds", "rollup_seconds", "stream_entries",
        "oldest_waiting_seconds",
    )}  # fmt: skip
    assert declared <= {*families}


def test_metrics_name_no_device_and_no_key(api: Api) -> None:
    accepted(api.send(METER, meter_reading(meterId="meter-of-a-person")))
    text = api.client.get("/metrics").text
    assert "meter-of-a-person" not in text
    assert api.headers["Authorization"].split("_")[1] not in text


def test_metrics_of_all_processes_are_in_one_answer(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    response = client.get("/metrics")
    assert response.status_code == 200
    assert [*text_string_to_metric_families(response.text)] == []
