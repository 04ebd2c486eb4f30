"""Through a real HTTP server: what only sockets show. Chunks, slowness, cut lines, rubbish."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from models.kinds import METER
from stack.ports import LOOPBACK, free_port
from stack.tether import tethered
from tests.factories import meter_reading
from tests.web.calls import FLEET, bearer, encoded, entries, waiting
from tests.web.conftest import MakeKey

LIMIT = 100_000
SLOW_SENDERS = 4
ONE = encoded(meter_reading())


def server_command(port: int) -> list[str]:
    """The same server as in stack/programs.py, smaller."""
    options = ["--interface", "rsgi", "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "granian", *options, "--no-ws", "--factory", "web:create_front"]


@pytest.fixture(scope="module")
def port(migrated: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the server listens."""
    log = tmp_path_factory.mktemp("granian") / "log"
    chosen, root = free_port(), str(Path(__file__).parents[2])
    env = {**os.environ, **migrated, "MAX_BODY_BYTES": str(LIMIT), "PYTHONPATH": root}
    with tethered(server_command(chosen), stop=signal.SIGTERM, log=log, env=env) as process:
        deadline = time.monotonic() + 60
        while not answers(chosen):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield chosen


def answers(port: int) -> bool:
    try:
        with Line(port) as line:
            return line.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
    except OSError:
        return False


class Line:
    """One connection, written to byte by byte if need be."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((LOOPBACK, port), timeout=10)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.socket.close()

    def send(self, *parts: bytes | float) -> None:
        """Bytes are sent, numbers are seconds to wait."""
        for part in parts:
            if isinstance(part, bytes):
                self.socket.sendall(part)
            else:
                time.sleep(part)

    def answer(self) -> tuple[int, Any]:
        """(status, the JSON or the bytes) of the next answer."""
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        body = response.read()
        is_json = "json" in response.headers.get("Content-Type", "")
        return response.status, json.loads(body) if is_json else body

    def ask(self, *parts: bytes | float) -> tuple[int, Any]:
        self.send(*parts)
        return self.answer()

    def is_closed(self) -> bool:
        """Whether the server has hung up."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def head(servers: dict[str, str], port: int, key: MakeKey) -> bytes:
    """The beginning of a lawful POST, up to what describes its body.

    The server has seen the key: no question of its to PostgreSQL is under way when the next test
    empties the tables.
    """
    sender = bearer(key("ingest", "read", fleet=FLEET))["Authorization"]
    with Line(port) as line:
        asked = f"GET /v1/meters HTTP/1.1\r\nHost: x\r\nAuthorization: {sender}\r\n\r\n"
        assert line.ask(asked.encode())[0] == 200
    return (
        "POST /ingestion/meter HTTP/1.1\r\nHost: x\r\n"
        f"Content-Type: application/json\r\nAuthorization: {sender}\r\n"
    ).encode()


def sized(size: int) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % size


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


ACCEPTED = (202, {"accepted": 1, "rejected": []})


def code(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["code"]


# --- bodies ---------------------------------------------------------------------------------------


def test_a_body_may_come_in_chunks(port: int, head: bytes) -> None:
    with Line(port) as line:
        pieces = [chunk(ONE[:7]), chunk(ONE[7:8]), chunk(ONE[8:])]
        assert line.ask(head + CHUNKED, *pieces, LAST_CHUNK) == ACCEPTED
    assert entries(METER) == [(1, [json.loads(ONE)])]


def test_a_body_may_come_slowly(port: int, head: bytes) -> None:
    with Line(port) as line:
        halves = [ONE[:20], 0.2, ONE[20:]]
        assert line.ask(head + sized(len(ONE)), 0.2, *halves) == ACCEPTED
        halves = [chunk(ONE[:20]), 0.2, chunk(ONE[20:]), LAST_CHUNK]
        assert line.ask(head + CHUNKED, 0.2, *halves) == ACCEPTED


def test_a_body_may_wait_to_be_asked_for(port: int, head: bytes) -> None:
    with Line(port) as line:
        line.send(head + b"Expect: 100-continue\r\n" + sized(len(ONE)))
        assert line.socket.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert line.ask(ONE) == ACCEPTED


def test_a_gzip_body_may_come_in_chunks(port: int, head: bytes) -> None:
    packed = gzip.compress(ONE)
    with Line(port) as line:
        encoding = b"Content-Encoding: gzip\r\n"
        assert line.ask(head + encoding + CHUNKED, chunk(packed), LAST_CHUNK) == ACCEPTED


def test_a_body_declared_too_large_is_refused_before_it_comes(port: int, head: bytes) -> None:
    with Line(port) as line:
        assert code(line.ask(head + sized(LIMIT + 1))) == (413, "BODY_TOO_LARGE")


def test_a_body_that_grows_too_large_in_chunks_is_refused(port: int, head: bytes) -> None:
    with Line(port) as line:
        pieces = [chunk(b" " * 10_000)] * 10
        assert code(line.ask(head + CHUNKED, *pieces, chunk(b" "))) == (413, "BODY_TOO_LARGE")
    assert waiting() == 0


def test_a_post_without_any_body_is_no_json(port: int, head: bytes) -> None:
    with Line(port) as line:
        assert code(line.ask(head + b"\r\n")) == (400, "MALFORMED_JSON")


# --- cut connections ------------------------------------------------------------------------------


def test_of_a_body_that_stops_short_nothing_is_kept(port: int, head: bytes) -> None:
    with Line(port) as line:
        line.send(head + sized(len(ONE) + 1), ONE)
        line.socket.shutdown(socket.SHUT_WR)
        assert code(line.answer()) == (400, "BODY_INCOMPLETE")
    assert waiting() == 0


def test_of_lines_in_chunks_nothing_is_kept(port: int, head: bytes) -> None:
    """Cut off between two lines they would look whole."""
    lines = head.replace(b"application/json", b"application/x-ndjson")
    with Line(port) as line:
        answer = line.ask(lines + CHUNKED, chunk(ONE + b"\n"), chunk(ONE + b"\n"), LAST_CHUNK)
        assert code(answer) == (411, "LENGTH_REQUIRED")
    with Line(port) as line:
        line.send(lines + CHUNKED, chunk(ONE + b"\n"), 0.2)
    with Line(port) as line:
        packed = gzip.compress(ONE + b"\n" + ONE)
        headers = lines + b"Content-Encoding: gzip\r\n" + CHUNKED
        assert line.ask(headers, chunk(packed), LAST_CHUNK)[0] == 202
    assert waiting() == 1


def test_senders_that_hang_up_disturb_nobody(port: int, head: bytes) -> None:
    for sent in (b"POST", head, head + sized(len(ONE)), head + sized(500) + ONE, head + CHUNKED):
        for _ in range(SLOW_SENDERS):
            with Line(port) as line:
                line.send(sent)
    with Line(port) as line:
        assert line.ask(head + sized(len(ONE)), ONE) == ACCEPTED
    assert waiting() == 1


def test_a_few_slow_senders_hold_up_nobody(port: int, head: bytes) -> None:
    slow = [Line(port) for _ in range(SLOW_SENDERS)]
    for line in slow:
        line.send(head + sized(len(ONE)), ONE[:5])
    with Line(port) as line:
        began = time.monotonic()
        assert line.ask(head + sized(len(ONE)), ONE) == ACCEPTED
        assert time.monotonic() - began < 2
    for line in slow:
        with line:
            assert line.ask(ONE[5:]) == ACCEPTED


# --- many requests on one connection --------------------------------------------------------------


def test_a_connection_is_good_for_many_requests(port: int, head: bytes) -> None:
    with Line(port) as line:
        for _ in range(3):
            assert line.ask(head + sized(len(ONE)), ONE) == ACCEPTED
            assert code(line.ask(head + sized(1), b"{")) == (400, "MALFORMED_JSON")
            assert line.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200


def test_a_header_that_stands_twice_is_not_chosen_from(port: int, head: bytes) -> None:
    """A proxy may have looked at the other one."""
    (mine,) = (line for line in head.split(b"\r\n") if line.startswith(b"Authorization"))
    for twice in (b"Authorization: Bearer x\r\n" + mine, mine + b"\r\nAuthorization: Bearer x"):
        with Line(port) as line:
            asked = head.replace(mine, twice) + sized(len(ONE))
            assert code(line.ask(asked, ONE)) == (401, "KEY_INVALID")
    assert waiting() == 0


def test_a_body_that_was_not_read_is_not_taken_for_a_request(port: int, head: bytes) -> None:
    """Refused by its headers alone; its body is a request of its own, to an open address."""
    trick = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    no_key = head.split(b"Authorization")[0]
    for refusing, answered in (
        (no_key, (401, "KEY_MISSING")),
        (head.replace(b"application/json", b"text/plain"), (415, "UNSUPPORTED_MEDIA_TYPE")),
        (head.replace(b"/ingestion/meter", b"/nowhere"), (404, "NOT_FOUND")),
        (head.replace(b"POST", b"PUT"), (405, "METHOD_NOT_ALLOWED")),
    ):
        with Line(port) as line:
            assert code(line.ask(refusing + sized(len(trick)), trick)) == answered
            try:
                next_answer = line.ask(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
            except ConnectionError:  # the server may hang up instead of reading on
                continue
            assert code(next_answer) == (404, "NOT_FOUND")


def test_a_large_body_that_was_not_read_ends_the_connection(port: int, head: bytes) -> None:
    with Line(port) as line:
        no_key = head.split(b"Authorization")[0]
        assert code(line.ask(no_key + sized(10_000_000))) == (401, "KEY_MISSING")
        assert line.is_closed()


# --- rubbish --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rubbish", "statuses"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n" % (b"a" * 1_000_000), {431}),
        (b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % (b"X: a\r\n" * 10_000), {431}),
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 100_000), {414}),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", {400}),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", {400}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400}),
        (b"what\r\n\r\n", {400}),
    ],
    ids=["header", "headers", "address", "length", "negative length", "TLS", "words"],
)
def test_rubbish_is_refused_and_the_server_lives(
    port: int, rubbish: bytes, statuses: set[int]
) -> None:
    with Line(port) as line:
        try:
            line.send(rubbish)
            assert line.answer()[0] in statuses
        except ConnectionError:  # hung up in the middle of it
            pass
    assert answers(port)


def test_a_nul_in_an_address_is_no_defect(port: int, head: bytes) -> None:
    asked = head.replace(b"POST /ingestion/meter", b"GET /v1/meters/%00/status")
    with Line(port) as line:
        assert code(line.ask(asked + b"\r\n")) == (404, "UNKNOWN_DEVICE")


@pytest.mark.parametrize(
    "address", ["/healthz?a=\u20ac", "/healthz?\u00e9", "/v1/meters?limit=\u20ac"]
)
def test_an_address_that_is_not_ascii_is_no_defect(port: int, head: bytes, address: str) -> None:
    asked = head.replace(b"POST /ingestion/meter", b"GET " + address.encode())
    with Line(port) as line:
        status, told = line.ask(asked + b"\r\n")
    assert status == (422 if "limit" in address else 200)
    assert told


def test_files_are_served_whole(port: int) -> None:
    with Line(port) as line:
        status, body = line.ask(
            b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert (status, len(body) > 100_000) == (200, True)
        assert line.ask(b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
