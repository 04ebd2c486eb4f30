"""The load generator: one request at a time on each connection, as answers come or as planned."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Thread

import pytest

from bench import Broken
from bench.load import drive, is_whole, receive, shares
from bench.pacing import pace

ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(("total", "parts"), [(10, 3), (4, 4), (2, 4), (0, 2)])
def test_shares_leave_nothing_out(total: int, parts: int) -> None:
    found = shares(total, parts)

    assert len(found) == parts
    assert [n for part in found for n in part] == list(range(total))


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (ANSWER, True),
        (ANSWER[:-1], False),
        (ANSWER[:20], False),
        (b"", False),
        (b"HTTP/1.1 200 OK\r\n\r\n", False),
    ],
)
def test_an_answer_is_whole_with_its_last_byte(answer: bytes, whole: bool) -> None:
    assert is_whole(answer) is whole


def test_any_other_status_is_broken() -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(ANSWER.replace(b"202", b"503"))
        with pytest.raises(Broken, match=r"not 202 but: HTTP/1\.1 503"):
            receive(here, b"202")


def test_every_request_is_sent_once() -> None:
    here, there = socket.socketpair()
    heard: list[bytes] = []

    def answer() -> None:
        with there:
            while request := there.recv(100):
                heard.append(request)
                there.sendall(ANSWER[:30])
                there.sendall(ANSWER[30:])

    server = Thread(target=answer)
    server.start()
    drive([here], [b"one", b"two", b"three"], b"202")
    server.join()

    assert heard == [b"one", b"two", b"three"]


@contextmanager
def served(seconds: list[float]) -> Iterator[tuple[socket.socket, list[bytes]]]:
    """A connection to a server that takes so long for each of its answers, and what it heard."""
    here, there = socket.socketpair()
    heard: list[bytes] = []

    def serve() -> None:
        with there:
            for pause in seconds:
                heard.append(there.recv(100))
                time.sleep(pause)
                there.sendall(ANSWER)
            assert not there.recv(100)  # nothing more, until the other side closes

    server = Thread(target=serve)
    server.start()
    yield here, heard
    server.join()


ACCEPTED = partial(receive, status=b"202")


def test_a_stall_is_told_by_every_request_that_was_planned_meanwhile() -> None:
    with served([0.3, 0.0, 0.0, 0.0]) as (connection, heard):
        found = pace([connection], [b"1", b"2", b"3", b"4"], 0.05, 0.0, ACCEPTED)

    assert heard == [b"1", b"2", b"3", b"4"]
    assert found[0].sent < 0.3
    assert all(answer.sent >= 0.3 - 0.05 * n for n, answer in enumerate(found) if n)
    assert all(answer.answered >= 0.3 - 0.05 * n for n, answer in enumerate(found))


def test_a_request_takes_whichever_connection_is_free() -> None:
    with served([0.5]) as (slow, one), served([0.0, 0.0]) as (quick, two):
        found = pace([slow, quick], [b"1", b"2", b"3"], 0.02, 0.0, ACCEPTED)

    assert (one, two) == ([b"1"], [b"2", b"3"])
    assert max(answer.sent for answer in found) < 0.3
    assert sorted(answer.answered > 0.3 for answer in found) == [False, False, True]


def test_requests_leave_when_they_are_planned() -> None:
    began = time.monotonic()
    with served([0.0] * 4) as (connection, _):
        pace([connection], [b"1", b"2", b"3", b"4"], 0.05, 0.1, ACCEPTED)

    assert time.monotonic() - began >= 0.1 + 3 * 0.05


def test_a_refused_paced_request_is_broken() -> None:
    with served([0.0]) as (connection, _), pytest.raises(Broken, match="not 200 but"):
        pace([connection], [b"1"], 0.01, 0.0, partial(receive, status=b"200"))


def test_a_silent_server_is_broken() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)  # as if the kernel's patience were at its end
        with pytest.raises(Broken, match="no answer"):
            receive(here, b"202")
