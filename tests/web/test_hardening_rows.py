"""Rows of the fault matrix (docs/reliability.md) that the door and the reads hold."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import redis
from granian.http import HTTP1Settings

import settings
from models import engine
from models.kinds import METER
from stack.ports import LOOPBACK, free_port
from stack.programs import app_programs
from stack.tether import tethered
from tests.factories import at, flush_all, meter_reading, rows
from tests.web.calls import Api, accepted, bearer, encoded, refused, waiting
from tests.web.conftest import MakeKey
from tests.web.test_http_server import answers
from web import auth, bridge, create_app, quota
from web.quota import Bucket

# --- 16: PostgreSQL is frozen ---------------------------------------------------------------------


@pytest.fixture
def frozen(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PostgreSQL, all its processes, gets no CPU; sessions that exist wait half a second."""
    monkeypatch.setattr(engine, "ANSWER_SECONDS", 0.5)
    (backend,) = rows("SELECT pg_backend_pid() AS pid")
    postmaster = psutil.Process(backend["pid"]).parent()
    assert postmaster is not None
    family = [postmaster.pid, *(child.pid for child in postmaster.children(recursive=True))]
    signal_all(family, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_all(family, signal.SIGCONT)
        engine.dispose()


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # a helper of the server that ended meanwhile
            continue


@pytest.fixture
def known(api: Api) -> Api:
    """A sender and reader whose key this process has seen, with a reading in history."""
    accepted(api.send(METER, meter_reading()))
    flush_all()
    assert api.get("/v1/meters").status_code == 200
    return api


def test_row_16_a_frozen_postgresql_holds_up_no_read_for_long(
    known: Api, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("frozen")
    for _ in range(2):  # on the connection that was open, and on one that is made
        began = time.monotonic()
        refused(known.get("/v1/meters/meter-001/status"), "DATABASE_UNAVAILABLE")
        assert time.monotonic() - began < 6
    began = time.monotonic()
    assert "DATABASE_UNAVAILABLE" in known.client.get("/readyz").json["unmet"]
    assert time.monotonic() - began < 6


def test_row_16_a_frozen_postgresql_holds_up_no_reading(
    known: Api, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request.getfixturevalue("frozen")
    began = time.monotonic()
    accepted(known.send(METER, meter_reading(timestamp=at(13))))
    assert time.monotonic() - began < 2
    monkeypatch.setattr(auth, "REMEMBER_SECONDS", 0)  # the key is due to be asked for again
    accepted(known.send(METER, meter_reading(timestamp=at(14))))
    assert time.monotonic() - began < 8
    assert waiting() == 2


# --- 36: senders and readers that take for ever ---------------------------------------------------

#: More than the server had threads (2 x 64) when each slow sender could hold one.
SLOW_SENDERS, SLOW_READERS = 200, 60
PATIENCE_SECONDS = 6.0
ONE = encoded(meter_reading())


@pytest.fixture(scope="module")
def port(migrated: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The web server as `make run` starts it."""
    log = tmp_path_factory.mktemp("granian") / "log"
    chosen, root = free_port(), str(Path(__file__).parents[2])
    limits = {"SLOW_SENDER_SECONDS": str(PATIENCE_SECONDS)}
    env = {**os.environ, **migrated, **limits, "PYTHONPATH": root}
    web = app_programs(chosen, free_port())[0]
    with tethered(list(web.command), stop=signal.SIGTERM, log=log, env=env) as process:
        deadline = time.monotonic() + 60
        while not answers(chosen):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield chosen


def head(key: str, size: int) -> bytes:
    return (
        "POST /ingestion/meter HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"{'Authorization: ' + bearer(key)['Authorization']}\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


def slow_sender(port: int, key: str) -> socket.socket:
    """A connection on which the first bytes of a body have come."""
    line = socket.create_connection((LOOPBACK, port), timeout=30)
    line.sendall(head(key, len(ONE)) + ONE[:5])
    return line


def slow_reader(port: int) -> socket.socket:
    """A connection on which 1.4 MB were asked for and are not fetched."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect((LOOPBACK, port))
    line.sendall(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")
    return line


def healthy_seconds(port: int, key: str) -> float:
    """How long a POST of a healthy sender takes, its connection included."""
    began = time.monotonic()
    with socket.create_connection((LOOPBACK, port), timeout=30) as line:
        line.sendall(head(key, len(ONE)) + ONE)
        response = http.client.HTTPResponse(line)
        response.begin()
        assert response.status == 202
        response.read()
    return time.monotonic() - began


@pytest.mark.slow
def test_row_36_slow_senders_and_readers_hold_up_nobody_and_are_ended(
    servers: dict[str, str], port: int, key: MakeKey
) -> None:
    sender = key("ingest")
    undisturbed = [healthy_seconds(port, sender) for _ in range(40)]
    with ExitStack() as lines:
        slow = [lines.enter_context(slow_sender(port, sender)) for _ in range(SLOW_SENDERS)]
        readers = [lines.enter_context(slow_reader(port)) for _ in range(SLOW_READERS)]
        began = time.monotonic()
        times = [healthy_seconds(port, sender) for _ in range(40)]
        assert time.monotonic() - began < PATIENCE_SECONDS, "the slow ones were still there"
        assert statistics.median(times) < 10 * statistics.median(undisturbed) + 0.05
        assert max(times) < 2
        # One of them finishes in time and is answered; the others are ended.
        slow[0].sendall(ONE[5:])
        assert slow[0].recv(12) == b"HTTP/1.1 202"
        for line in slow[1:]:
            # The server says what it thinks of such a body, or nothing, and hangs up.
            assert line.recv(12) in {b"", b"HTTP/1.1 400"}
        ended = time.monotonic() - began
        assert PATIENCE_SECONDS * 0.5 < ended < PATIENCE_SECONDS + 10
        assert len(readers) == SLOW_READERS
        assert healthy_seconds(port, sender) < 2


@pytest.mark.slow
def test_row_36_a_slow_but_honest_sender_is_not_ended(
    servers: dict[str, str], port: int, key: MakeKey
) -> None:
    """2 kB a second, for longer than the patience with those who send nothing."""
    body = b" " * 2000 * int(PATIENCE_SECONDS * 2) + ONE
    with socket.create_connection((LOOPBACK, port), timeout=30) as line:
        line.sendall(head(key("ingest"), len(body)))
        for begin in range(0, len(body), 500):
            line.sendall(body[begin : begin + 500])
            time.sleep(0.25)
        assert line.recv(12) == b"HTTP/1.1 202"


def test_row_36_headers_that_do_not_come_hold_no_thread(port: int) -> None:
    with ExitStack() as lines:
        for _ in range(SLOW_SENDERS):
            line = lines.enter_context(socket.create_connection((LOOPBACK, port), timeout=30))
            line.sendall(b"POST /ingestion/meter HTTP/1.1\r\nHost:")
        began = time.monotonic()
        assert answers(port)
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([b"X: a"] * 90, b"200"),
        ([b"X: a"] * 101, b"431"),  # a hundred, as SECURITY.md says
        ([b"X: " + b"a" * 300_000], b"200"),
        ([b"X: " + b"a" * 5_000_000], b"431"),  # 400 KiB, give or take a read
    ],
    ids=["many", "too many", "long", "too long"],
)
def test_headers_have_their_limits(port: int, headers: list[bytes], status: bytes) -> None:
    request = b"\r\n".join([b"GET /healthz HTTP/1.1", b"Host: x", *headers, b"", b""])
    with socket.create_connection((LOOPBACK, port), timeout=30) as line:
        try:
            line.sendall(request)
            assert line.recv(12) == b"HTTP/1.1 " + status
        except ConnectionError:  # hung up while we were still sending
            assert status == b"431"


def test_headers_and_idle_connections_have_half_a_minute() -> None:
    """The server's own limit; nobody sets another in stack/programs.py."""
    assert HTTP1Settings().header_read_timeout == 30_000
    command = app_programs(1, 2)[0].command
    assert "--http1-header-read-timeout" not in command
    # A thread for every connection; on each at most one request.
    given = dict(pairwise(command))
    assert str(bridge.THREADS) == given["--backpressure"]
    assert given["--http"] == "1"


# --- 47, 48: over quota ---------------------------------------------------------------------------


def set_env(monkeypatch: pytest.MonkeyPatch, **env: str) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings.load.cache_clear()


def test_row_47_over_quota_is_429_and_other_fleets_are_unaffected(
    api: Api, other_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_env(monkeypatch, KEY_READINGS_PER_SECOND="1")
    batch = [meter_reading(timestamp=at(0, seconds=n)) for n in range(30)]
    accepted(api.send(METER, batch), 30)  # ten seconds' worth are there; the rest is a debt
    for answer in (api.send(METER, batch), api.get("/v1/meters")):
        refused(answer, "RATE_LIMITED")
        # 10 - 30 is 20 below zero, and one must be there: 21 s, less what has passed since.
        assert 19 <= int(answer.headers["Retry-After"]) <= 21
    accepted(other_api.send(METER, batch), 30)
    assert waiting() == 2


def test_row_47_another_web_process_knows_what_a_key_has_used(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "SHARE_SECONDS", 0)
    set_env(monkeypatch, KEY_REQUESTS_PER_SECOND="0.5")  # five at once, then one every two seconds
    elsewhere = Api(create_app().test_client(), api.headers)
    statuses = [caller.get("/v1/meters").status_code for caller in (api, elsewhere) * 5]
    # The second process came to know the key while the first had used one of its five.
    assert statuses[:4] == [200] * 4
    assert statuses.count(200) <= 7
    assert statuses[-2:] == [429, 429]


def test_row_48_without_the_limiters_storage_each_process_counts_for_itself(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.get("/v1/meters").status_code == 200
    monkeypatch.setattr(quota, "SHARE_SECONDS", 0)
    set_env(
        monkeypatch,
        KEY_REQUESTS_PER_SECOND="0.3",
        STREAM_URL=f"redis://{LOOPBACK}:{free_port()}/0",
    )
    statuses = [api.get("/v1/meters").status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]


def test_row_48_a_full_storage_is_no_reason_to_refuse(
    api: Api, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "SHARE_SECONDS", 0)
    set_env(monkeypatch, KEY_REQUESTS_PER_SECOND="100")
    with redis.Redis.from_url(servers["STREAM_URL"]) as server:
        limit = server.config_get("maxmemory")["maxmemory"]
        server.config_set("maxmemory", 1)
        try:
            assert [api.get("/v1/meters").status_code for _ in range(3)] == [200] * 3
        finally:
            server.config_set("maxmemory", limit)


# --- 45: who tries keys ---------------------------------------------------------------------------


def test_row_45_who_tries_many_keys_is_slowed_down_and_evicts_nobodys(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "MAX_REMEMBERED", 50)
    assert api.get("/v1/meters").status_code == 200
    ring = api.client.application.extensions["energy_keys"]
    ring._strangers = Bucket(2.0, time.monotonic())  # twenty at once, then two a second
    tried = [
        api.client.get("/v1/meters", headers=bearer(f"eie_{number:08x}_{'x' * 43}")).status_code
        for number in range(200)
    ]
    assert set(tried) == {401, 429}
    assert 20 <= tried.count(401) <= 30
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{LOOPBACK}:{free_port()}/energy")
    settings.load.cache_clear()
    accepted(api.send(METER, meter_reading()))  # its key is still remembered


# --- 51: settings under which 202 is no promise ---------------------------------------------------


def test_row_51_wrong_settings_are_refused_by_name(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = redis.Redis.from_url(settings.load().stream_url).info()
    told |= {"redis_version": "6.2.14", "aof_enabled": 0}
    lru = {
        "maxmemory-policy": "allkeys-lru",
        "appendfsync": "no",
        "no-appendfsync-on-rewrite": "no",
    }
    monkeypatch.setattr(redis.Redis, "info", lambda *_: told)
    monkeypatch.setattr(redis.Redis, "config_get", lambda *_: lru)
    engine.dispose()
    engine._engine_of.cache_clear()
    monkeypatch.setitem(engine._SESSION, "synchronous_commit", "off")
    try:
        response = api.client.get("/readyz")
    finally:
        engine.dispose()
        engine._engine_of.cache_clear()
    assert response.status_code == 503
    assert {"STREAM_TOO_OLD", "APPENDONLY_OFF", "EVICTION_ON", "SYNCHRONOUS_COMMIT_OFF"} <= {
        *response.json["unmet"]
    }
