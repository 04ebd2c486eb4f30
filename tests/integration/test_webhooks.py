"""Webhooks on their way: signed, at least once, again and again, and never in another's way."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

import settings
from models import webhooks
from models.engine import engine, transaction
from tests.factories import at, execute, rows
from tests.failpoints import Failpoints, When, fail
from tests.receiver import Receiver, receiving
from tests.web.calls import counted
from workers import webhook_post
from workers import webhooks as sender
from workers.webhook_post import signature
from workers.webhook_target import parse

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = ipaddress.ip_address("127.0.0.1")


class Clock:
    """The sender's clock, set by hand. It starts now: rows are dated by PostgreSQL."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC) + timedelta(seconds=1)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _private_receivers(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' receivers are on loopback."""
    allow(monkeypatch, private=True)
    monkeypatch.setattr(sender, "JITTER", 0.0)
    monkeypatch.setattr(sender, "LOOK_SECONDS", 0.05)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def allow(monkeypatch: pytest.MonkeyPatch, *, private: bool) -> None:
    monkeypatch.setenv("WEBHOOK_ALLOW_PRIVATE", str(private))
    settings.load.cache_clear()


def register(fleet: int, url: str, types: list[str] | None = None) -> tuple[int, str]:
    """An endpoint's (id, secret)."""
    with transaction() as conn:
        made, secret = webhooks.add_endpoint(conn, fleet, url, types)
    return made.id, secret


def happen(fleet: int, event_type: str = "alarm.raised", **payload: Any) -> str:
    with transaction() as conn:
        return str(
            webhooks.enqueue(
                conn, fleet_id=fleet, event_type=event_type, subject="vehicle-001", payload=payload
            )
        )


def delivery() -> dict[str, Any]:
    (row,) = rows("SELECT * FROM webhook_deliveries")
    return row


def tick(clock: Clock) -> dict[str, int]:
    return sender.deliver_due(clock)


def outcome(**counts: int) -> dict[str, int]:
    return {"delivered": 0, "failed": 0, "dead": 0} | counts


# --- what is sent ---------------------------------------------------------------------------------


def test_the_signature_is_the_specifications_own_example() -> None:
    """From the Standard Webhooks specification; checked with `openssl dgst -mac HMAC`."""
    signed = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_an_event_arrives_signed_and_once(fleet: int, receiver: Receiver, clock: Clock) -> None:
    _, secret = register(fleet, receiver.url + "?a=b")
    event_id = happen(fleet, efficiency=0.5)
    assert tick(clock) == outcome(delivered=1)
    assert tick(clock) == outcome()
    (request,) = receiver.received
    assert request.path == "/hook?a=b"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == receiver.url.split("/")[2]
    told = json.loads(request.body)
    assert told.pop("timestamp").endswith("Z")
    assert told == {
        "id": event_id,
        "type": "alarm.raised",
        "subject": "vehicle-001",
        "data": {"efficiency": 0.5},
    }
    assert request.event_id == event_id
    stamp = request.headers["webhook-timestamp"]
    assert stamp == str(int(clock.now.timestamp()))
    # Written out here on its own, so that it is compared with more than itself.
    key = base64.b64decode(secret.removeprefix("whsec_"))
    assert len(key) == 32
    mac = hmac.new(key, f"{event_id}.{stamp}.".encode() + request.body, hashlib.sha256)
    expected = base64.b64encode(mac.digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    row = delivery()
    assert (row["state"], row["attempts"], row["last_status_code"]) == ("delivered", 1, 200)
    assert (row["delivered_at"], row["last_error"]) == (clock.now, None)


def test_an_event_goes_to_those_of_the_fleet_who_want_it(
    fleet: int, other_fleet: int, receiver: Receiver, clock: Clock
) -> None:
    for path, types in (("/all", None), ("/raised", ["alarm.raised"]), ("/other", ["x.y"])):
        register(fleet, receiver.url + path, types)
    register(other_fleet, receiver.url + "/foreign")
    happen(fleet)
    assert tick(clock) == outcome(delivered=2)
    assert {request.path for request in receiver.received} == {"/hook/all", "/hook/raised"}
    assert len(set(receiver.event_ids)) == 1


def test_what_was_rolled_back_never_happened(fleet: int, receiver: Receiver, clock: Clock) -> None:
    register(fleet, receiver.url)
    with engine().connect() as conn:
        webhooks.enqueue(conn, fleet_id=fleet, event_type="a.b", subject="", payload={})
        conn.rollback()
    assert tick(clock) == outcome()
    assert rows("SELECT * FROM webhook_events") == []


def test_every_attempt_sends_the_same_bytes_under_the_same_id(
    fleet: int, receiver: Receiver, clock: Clock
) -> None:
    receiver.answers = [500, 503, 200]
    register(fleet, receiver.url)
    happen(fleet, zebra=1, ape={"b": [1.5, None], "a": "ä"})
    for _ in range(3):
        tick(clock)
        clock.forward(100)
    first, *others = receiver.received
    assert len(others) == 2
    assert {(r.event_id, r.body) for r in others} == {(first.event_id, first.body)}
    stamps = [int(r.headers["webhook-timestamp"]) for r in receiver.received]
    assert [b - a for a, b in pairwise(stamps)] == [100, 100]


# --- again and again ------------------------------------------------------------------------------


def test_the_schedule_is_a_day_long_and_then_ends() -> None:
    delays = [sender.delay_seconds(n) for n in range(1, sender.MAX_ATTEMPTS)]
    assert delays == [10, 30, 90, 270, 810, 2430, 7290, 21600, 21600, 21600, 21600]
    assert sum(delays) == 97_330  # 27 hours


def test_jitter_spreads_what_failed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "JITTER", 0.1)
    waits = {sender._wait_seconds(2, None, at(0)) for _ in range(200)}
    assert len(waits) > 100
    assert 27 <= min(waits) < 28.5
    assert 31.5 < max(waits) <= 33


def test_a_failure_is_tried_again_when_its_time_has_come(
    fleet: int, receiver: Receiver, clock: Clock
) -> None:
    receiver.answers = [500, 500, 200]
    register(fleet, receiver.url)
    happen(fleet)
    for seconds in (10, 30):
        assert tick(clock) == outcome(failed=1)
        row = delivery()
        assert row["next_attempt_at"] == clock.now + timedelta(seconds=seconds)
        assert (row["last_status_code"], row["last_error"]) == (500, "HTTP_STATUS: answered 500")
        clock.forward(seconds - 0.001)
        assert tick(clock) == outcome()
        clock.forward(0.001)
    assert tick(clock) == outcome(delivered=1)
    row = delivery()
    assert (row["attempts"], row["state"], row["last_error"]) == (3, "delivered", None)


def test_after_the_last_attempt_it_is_dead(fleet: int, receiver: Receiver, clock: Clock) -> None:
    receiver.answers = [500]
    register(fleet, receiver.url)
    happen(fleet)
    for _ in range(sender.MAX_ATTEMPTS - 1):
        assert tick(clock) == outcome(failed=1)
        clock.forward(7 * 3600)
    assert tick(clock) == outcome(dead=1)
    clock.forward(7 * 3600)
    assert tick(clock) == outcome()
    assert len(receiver.received) == sender.MAX_ATTEMPTS == 12
    assert (delivery()["state"], delivery()["attempts"]) == ("dead", 12)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("5", 10),  # our own delay is longer
        ("999999999999", 21_600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 10),
        ("soon", 10),
        ("-1", 10),
        ("", 10),
    ],
)
def test_retry_after_is_honoured_within_bounds(
    fleet: int, receiver: Receiver, clock: Clock, header: str, seconds: int
) -> None:
    receiver.answers, receiver.answer_headers = [429], {"Retry-After": header}
    register(fleet, receiver.url)
    happen(fleet)
    assert tick(clock) == outcome(failed=1)
    assert delivery()["next_attempt_at"] == clock.now + timedelta(seconds=seconds)


def test_retry_after_may_be_a_date() -> None:
    now = datetime(2026, 1, 10, 12, tzinfo=UTC)
    assert sender.retry_after_seconds("Sat, 10 Jan 2026 12:05:00 GMT", now) == 300
    assert sender.retry_after_seconds("Sat, 10 Jan 2026 12:05:00", now) == 300
    assert sender.retry_after_seconds(None, now) == 0


def test_gone_disables_the_endpoint_and_ends_what_waits_for_it(
    fleet: int, receiver: Receiver, clock: Clock
) -> None:
    receiver.answers = [410]
    endpoint_id, _ = register(fleet, receiver.url)
    first, second = happen(fleet, n=1), happen(fleet, n=2)
    assert tick(clock) == outcome(dead=1)
    happen(fleet, n=3)
    clock.forward(100_000)
    assert tick(clock) == outcome()
    assert receiver.event_ids == [first]
    states = rows("SELECT event_id::text, state, last_status_code FROM webhook_deliveries")
    assert {row["event_id"]: (row["state"], row["last_status_code"]) for row in states} == {
        first: ("dead", 410),
        second: ("dead", None),
    }
    with pytest.raises(webhooks.Disabled), transaction() as conn:
        webhooks.enqueue_test(conn, fleet, endpoint_id)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    fleet: int, receiver: Receiver, clock: Clock, status: int
) -> None:
    with receiving() as elsewhere:
        receiver.answers, receiver.answer_headers = [status], {"Location": elsewhere.url}
        register(fleet, receiver.url)
        happen(fleet)
        assert tick(clock) == outcome(failed=1)
        assert elsewhere.received == []
    assert delivery()["last_error"] == f"REDIRECT: answered {status}; redirects are not followed"


def test_a_receiver_that_is_away_is_tried_again(fleet: int, clock: Clock) -> None:
    with receiving() as gone:
        register(fleet, gone.url)
    happen(fleet)
    assert tick(clock) == outcome(failed=1)
    assert delivery()["last_error"] == "CONNECTION_FAILED: ConnectionRefusedError"


@pytest.mark.parametrize("answer", [b"", b"220 smtp\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\0" * 99])
def test_a_receiver_that_does_not_speak_http_is_a_failure(
    fleet: int, clock: Clock, answer: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        register(fleet, f"http://127.0.0.1:{server.getsockname()[1]}/")
        happen(fleet)

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65_536)
                peer.sendall(answer)

        with ThreadPoolExecutor(1) as pool:
            served = pool.submit(serve)
            assert tick(clock) == outcome(failed=1)
            served.result()
    assert delivery()["last_error"].startswith("CONNECTION_FAILED: ")


# --- at least once --------------------------------------------------------------------------------

_WORKER = """
from datetime import datetime, timedelta, UTC
from workers import webhooks
webhooks.deliver_due(lambda: datetime.now(UTC) + timedelta(seconds=1))
"""


def test_a_worker_killed_between_post_and_commit_delivers_again_under_the_same_id(
    fleet: int, receiver: Receiver, clock: Clock, servers: dict[str, str]
) -> None:
    register(fleet, receiver.url)
    event_id = happen(fleet)
    environment = os.environ | servers | {"WEBHOOK_ALLOW_PRIVATE": "True"}
    worker = subprocess.Popen([sys.executable, "-c", _WORKER], cwd=ROOT, env=environment)
    arrived = threading.Event()

    def kill() -> None:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        arrived.set()

    receiver.on_request = kill
    assert arrived.wait(60)
    clock.now = datetime.now(UTC)  # that worker's clock is the machine's
    receiver.on_request = lambda: None
    assert worker.returncode == -signal.SIGKILL
    row = delivery()
    assert (row["state"], row["attempts"]) == ("pending", 1)
    assert tick(clock) == outcome()  # still the dead worker's
    clock.forward(sender.LEASE.total_seconds() + 5)
    assert tick(clock) == outcome(delivered=1)
    assert receiver.event_ids == [event_id, event_id]
    assert delivery()["attempts"] == 2


def test_a_failed_commit_delivers_again_under_the_same_id(
    fleet: int, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(fleet, receiver.url)
    event_id = happen(fleet)
    with monkeypatch.context() as patched:

        def fail(*_: Any, **__: Any) -> None:
            raise ConnectionError("PostgreSQL is away")

        patched.setattr(webhooks, "settle_delivered", fail)
        with pytest.raises(ConnectionError):
            tick(clock)
    clock.forward(sender.LEASE.total_seconds() + 1)
    assert tick(clock) == outcome(delivered=1)
    assert receiver.event_ids == [event_id, event_id]


def test_two_workers_never_send_the_same_at_the_same_time(
    fleet: int, receiver: Receiver, clock: Clock
) -> None:
    for n in range(5):
        register(fleet, f"{receiver.url}/{n}")
    for n in range(6):
        happen(fleet, n=n)
    receiver.sleep_seconds = 0.01
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(tick, [clock] * 3))
    assert sum(o["delivered"] for o in outcomes) == 30
    sent = [(r.path, r.event_id) for r in receiver.received]
    assert len(sent) == len(set(sent)) == 30


def test_who_has_lost_the_lease_cannot_undo_what_another_did(fleet: int, clock: Clock) -> None:
    register(fleet, "http://127.0.0.1:1/")
    happen(fleet)

    def lease() -> webhooks.Leased:
        with transaction() as conn:
            until = clock.now + sender.LEASE
            (leased,) = webhooks.lease(conn, clock.now, until=until, busy=[], limit=9)
        return leased

    slow = lease()
    clock.forward(sender.LEASE.total_seconds())
    quick = lease()
    assert (slow.attempt, quick.attempt) == (1, 2)
    late: dict[str, Any] = {"status_code": None, "error": "late", "quiet_until": None}
    with transaction() as conn:
        webhooks.settle_failed(conn, slow, next_attempt_at=clock.now, **late)
    assert (delivery()["last_error"], delivery()["next_attempt_at"] > clock.now) == (None, True)
    with transaction() as conn:
        webhooks.settle_delivered(conn, quick, 200, clock.now)
        webhooks.settle_failed(conn, slow, next_attempt_at=None, **late)
    assert delivery()["state"] == "delivered"


def test_an_endpoint_deleted_while_its_event_is_on_the_way(
    fleet: int, receiver: Receiver, clock: Clock
) -> None:
    endpoint_id, _ = register(fleet, receiver.url)
    happen(fleet)

    def remove() -> None:
        with transaction() as conn:
            assert webhooks.remove_endpoint(conn, fleet, endpoint_id)

    receiver.on_request = remove
    assert tick(clock) == outcome(delivered=1)
    assert rows("SELECT * FROM webhook_deliveries") == []


# --- in nobody's way ------------------------------------------------------------------------------


def test_a_slow_receiver_holds_up_nobody_else(
    fleet: int, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_post, "EXCHANGE_SECONDS", 1.0)
    with receiving() as slow:
        slow.sleep_seconds = 3
        register(fleet, slow.url)
        register(fleet, receiver.url)
        for n in range(20):
            happen(fleet, n=n)
        begun = time.monotonic()
        done_after: list[float] = []
        receiver.on_request = lambda: done_after.append(time.monotonic() - begun)
        assert tick(clock) == outcome(delivered=20, failed=1)
        took = time.monotonic() - begun
    assert len(done_after) == 20
    assert done_after[-1] < 0.9, "while the slow one still had its second"
    assert took < 2.5
    assert len(slow.received) == 1, "left alone with its other events for now"
    (failed,) = rows("SELECT last_error FROM webhook_deliveries WHERE last_error IS NOT NULL")
    assert failed["last_error"] == "TIMEOUT"


def test_an_answer_that_drips_is_cut_off(
    fleet: int, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte restarts a socket's own timeout; the deadline stands."""
    monkeypatch.setattr(webhook_post, "EXCHANGE_SECONDS", 0.5)
    receiver.drip_seconds = 0.05
    register(fleet, receiver.url)
    happen(fleet)
    begun = time.monotonic()
    assert tick(clock) == outcome(failed=1)
    assert time.monotonic() - begun < 2
    assert delivery()["last_error"] == "TIMEOUT"


def test_an_answer_without_end_is_not_read(fleet: int, clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        register(fleet, f"http://127.0.0.1:{server.getsockname()[1]}/")
        happen(fleet)

        def serve() -> int:
            peer, _ = server.accept()
            sent = 0
            with peer:
                peer.recv(65_536)
                peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                try:
                    while sent < 200_000_000:
                        sent += peer.send(b"x" * 65_536)
                except OSError:
                    return sent
            return sent

        served = pool.submit(serve)
        assert tick(clock) == outcome(delivered=1)
        assert served.result() < 50_000_000  # what fits into the sockets' buffers


def test_an_endpoint_in_trouble_is_left_alone_and_then_comes_first(
    fleet: int, receiver: Receiver, clock: Clock
) -> None:
    receiver.answers = [503, 200]
    register(fleet, receiver.url)
    first, second = happen(fleet, n=1), happen(fleet, n=2)
    assert tick(clock) == outcome(failed=1)
    assert receiver.event_ids == [first]
    clock.forward(10)
    assert tick(clock) == outcome(delivered=2)
    assert sorted(receiver.event_ids[1:]) == sorted([first, second])


def test_an_event_that_is_refused_does_not_hold_up_the_next(
    fleet: int, receiver: Receiver, clock: Clock
) -> None:
    receiver.answers = [400, 200]
    register(fleet, receiver.url)
    first, second = happen(fleet, n=1), happen(fleet, n=2)
    assert tick(clock) == outcome(failed=1, delivered=1)
    assert receiver.event_ids == [first, second]


# --- nowhere else ---------------------------------------------------------------------------------


def test_a_target_is_judged_at_each_delivery(
    fleet: int, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(fleet, receiver.url)
    happen(fleet)
    allow(monkeypatch, private=False)
    assert tick(clock) == outcome(failed=1)
    assert receiver.received == []
    assert delivery()["last_error"] == "TARGET_REFUSED: a private, local or reserved address"
    allow(monkeypatch, private=True)
    clock.forward(10)
    assert tick(clock) == outcome(delivered=1)


def test_a_name_that_moves_after_it_was_judged_gains_nothing(
    fleet: int, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the connection is made to the judged address, the name is not asked again."""
    asked: list[str] = []
    port = int(receiver.url.split(":")[2].split("/")[0])

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        if len(asked) > 1 and host == "moves.example":
            raise AssertionError("the name was asked a second time")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    register(fleet, f"http://moves.example:{port}/hook")
    happen(fleet)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", getaddrinfo)
        with transaction() as conn:  # PostgreSQL's own name is asked before the patch matters
            leased = webhooks.lease(
                conn, clock.now, until=clock.now + sender.LEASE, busy=[], limit=1
            )[0]
        sender._attempt(leased, clock.now)
    assert asked[0] == "moves.example"
    assert asked.count("moves.example") == 1
    assert receiver.received[0].headers["host"] == f"moves.example:{port}"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate for the name hooks.example, signed by nobody but itself."""
    made = tmp_path / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example"),
            *("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    made.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "cert.pem").read_bytes())
    return made


@pytest.mark.parametrize(
    ("host", "trusted", "expected"),
    [
        ("hooks.example", True, 204),
        ("other.example", True, "TLS_FAILED: CERTIFICATE_VERIFY_FAILED"),
        ("hooks.example", False, "TLS_FAILED: CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_the_certificate_must_be_the_names(
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    trusted: bool,
    expected: int | str,
) -> None:
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate)
    if trusted:
        trusting = ssl.create_default_context(cafile=str(certificate.with_name("cert.pem")))
        monkeypatch.setattr(webhook_post, "tls_context", lambda: trusting)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        names: list[str] = []
        server_context.sni_callback = lambda _sock, name, _context: names.append(name)
        served = pool.submit(_answer_once, listener, server_context)
        target = parse(f"https://{host}:{listener.getsockname()[1]}/")
        try:
            answered: int | str = webhook_post.post(target, [LOOPBACK], b"{}", {}).status
        except webhook_post.PostFailed as failed:
            answered = str(failed)
        served.result()
    assert (names, answered) == ([host], expected)


def _answer_once(listener: socket.socket, context: ssl.SSLContext) -> None:
    peer, _ = listener.accept()
    try:
        with context.wrap_socket(peer, server_side=True) as secured:
            received = b""
            while not received.endswith(b"{}"):
                received += secured.recv(65_536)
            secured.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    except (ssl.SSLError, ConnectionError):
        return  # the sender did not like the certificate


# --- what stays -----------------------------------------------------------------------------------


def test_old_events_are_forgotten_unless_somebody_waits_for_them(
    fleet: int, receiver: Receiver, clock: Clock
) -> None:
    register(fleet, receiver.url, ["a.b"])
    delivered, waiting, unwanted = happen(fleet, "a.b"), "", happen(fleet, "c.d")
    tick(clock)
    waiting = happen(fleet, "a.b")
    execute("UPDATE webhook_events SET created_at = :at", at=clock.now - sender.KEEP)
    young = happen(fleet, "c.d")
    assert sender.prune(clock.now - timedelta(seconds=1)) == 0
    assert sender.prune(clock.now + timedelta(seconds=1)) == 2
    left = {str(row["id"]) for row in rows("SELECT id FROM webhook_events")}
    assert left == {waiting, young}
    assert not left & {delivered, unwanted}


def test_an_event_written_while_its_endpoint_was_disabled_is_forgotten_too(
    fleet: int, clock: Clock
) -> None:
    register(fleet, "http://127.0.0.1:1/")
    happen(fleet)
    execute("UPDATE webhook_endpoints SET disabled_at = now()")
    execute("UPDATE webhook_events SET created_at = :at", at=clock.now - sender.KEEP)
    assert tick(clock) == outcome()
    assert counted("energy_webhook_oldest_due_seconds") == 0
    assert sender.prune(clock.now + timedelta(seconds=1)) == 1
    assert rows("SELECT * FROM webhook_deliveries") == []


def test_the_oldest_due_delivery_is_a_metric(
    fleet: int, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(fleet, receiver.url)
    happen(fleet)
    execute("UPDATE webhook_deliveries SET next_attempt_at = :at", at=clock.now)
    clock.forward(90)
    with monkeypatch.context() as full:
        full.setattr(sender, "TICK_SECONDS", -1.0)  # as when there is no time left for more
        assert tick(clock) == outcome()
    assert counted("energy_webhook_oldest_due_seconds") == 90
    receiver.answers = [500]
    assert tick(clock) == outcome(failed=1)
    assert counted("energy_webhook_oldest_due_seconds") == 0, "that is the receiver's affair"


@pytest.mark.parametrize("when", [When.BEFORE, When.AFTER])
def test_whichever_call_fails_the_event_arrives_under_its_id(
    fleet: int, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch, when: When
) -> None:
    """Every call to PostgreSQL in turn, until a run gets by without failing one."""
    register(fleet, receiver.url)
    for fail_at in range(1, 100):
        event_id = happen(fleet)
        with monkeypatch.context() as patched:
            faults = Failpoints(patched, fail_at, when, fail)
            with suppress(psycopg.OperationalError, OperationalError):
                tick(clock)
        clock.forward(sender.LEASE.total_seconds() + 1)
        tick(clock)
        assert 1 <= receiver.event_ids.count(event_id) <= 2
        left = rows("SELECT * FROM webhook_deliveries WHERE state <> 'delivered'")
        assert left == [], fail_at
        if not faults.struck:
            return
    raise AssertionError("no run got by without a fault")


def test_the_tasks_send_and_forget(fleet: int, receiver: Receiver) -> None:
    register(fleet, receiver.url)
    happen(fleet)
    time.sleep(0.01)
    assert sender.deliver_webhooks() == outcome(delivered=1)
    assert sender.prune_webhooks() == {"pruned": 0}


def test_looking_for_work_reads_no_delivery_that_is_done(fleet: int, clock: Clock) -> None:
    register(fleet, "http://127.0.0.1:1/")
    execute(
        "INSERT INTO webhook_events (id, fleet_id, type, subject, payload)"
        " SELECT gen_random_uuid(), :fleet, 'a.b', '', '{}' FROM generate_series(1, 5000)",
        fleet=fleet,
    )
    execute(
        "INSERT INTO webhook_deliveries (event_id, endpoint_id, state)"
        " SELECT v.id, e.id, 'delivered' FROM webhook_events v, webhook_endpoints e"
    )
    execute("ANALYZE webhook_deliveries")
    with transaction() as conn:
        plan = "\n".join(
            row[0]
            for row in conn.exec_driver_sql(
                "EXPLAIN "
                + str(webhooks._LEASE.text)
                .replace(":now", "now()")
                .replace(":until", "now()")
                .replace(":busy", "'{}'::int[]")
                .replace(":limit", "16")
            )
        )
    assert "webhook_deliveries_due_idx" in plan
    assert "Seq Scan on webhook_deliveries" not in plan
