"""Which connections are ended: those on which nothing moves, and no other."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator

import pytest

from web import slow

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux'")


class Pair:
    """A connection: the client's end, and ours, which this process accepted."""

    def __init__(self, server: socket.socket) -> None:
        self.client = socket.create_connection(server.getsockname(), timeout=5)
        self.ours, self.peer = server.accept()

    def is_ended(self) -> bool:
        self.client.settimeout(0.05)
        try:
            return self.client.recv(1) == b""
        except TimeoutError:
            return False


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def pair(server: socket.socket) -> Iterator[Pair]:
    made = Pair(server)
    with made.client, made.ours:
        yield made


def look(before: dict[tuple[int, object], int]) -> dict[tuple[int, object], int]:
    """After a moment, with a patience of 0.5 s, for less than 100 bytes since the look before."""
    time.sleep(0.6)
    return slow.end_slow(before, 0.5, 100)


def test_accepted_connections_are_found_and_others_are_not(pair: Pair) -> None:
    numbers = {one.number for one in slow.connections()}
    assert pair.ours.fileno() in numbers
    assert pair.client.fileno() not in numbers


def test_what_was_received_and_how_long_nothing_was_sent_is_known(pair: Pair) -> None:
    pair.client.sendall(b"x" * 1234)
    pair.ours.sendall(b"y")
    time.sleep(0.6)
    (one,) = (c for c in slow.connections() if c.number == pair.ours.fileno())
    assert (one.peer, one.received_bytes) == (pair.peer, 1234)
    assert 0.5 < one.quiet_seconds < 5


def test_a_connection_on_which_nothing_moves_is_ended_at_the_second_look(pair: Pair) -> None:
    before = look({})
    assert not pair.is_ended()
    look(before)
    assert pair.is_ended()


def test_who_sends_steadily_is_left_alone(pair: Pair) -> None:
    before = look({})
    for _ in range(3):
        pair.client.sendall(b"x" * 150)
        before = look(before)
    assert not pair.is_ended()
    pair.client.sendall(b"x" * 50)  # a trickle
    look(before)
    assert pair.is_ended()


def test_who_is_answered_is_left_alone(pair: Pair) -> None:
    before = look({})
    for _ in range(3):
        time.sleep(0.6)
        pair.ours.sendall(b"y")
        before = slow.end_slow(before, 0.5, 100)
    pair.client.setblocking(False)
    assert pair.client.recv(10) == b"yyy"
    assert not pair.is_ended()


def test_a_number_that_became_another_connections_is_not_ended(
    pair: Pair, server: socket.socket
) -> None:
    (stale,) = (c for c in slow.connections() if c.number == pair.ours.fileno())
    slow._end(stale._replace(peer=("127.0.0.1", 1)))
    assert not pair.is_ended()
