"""Ends connections that hold a thread for ever: bodies that do not come, answers not fetched.

The HTTP server waits for a body as long as the connection lives, and a sender that lost its network
in mid-body never closes its own. There is no deadline to set, so a thread of each web process looks
at the process's connections (TCP_INFO, Linux only): one to which nothing could be sent for
SLOW_SENDER_SECONDS, and which sent next to nothing since the look before, is shut down. The waiting
thread then sees a body that stops short (BODY_INCOMPLETE), the sender an end without an answer.

Idle connections are not met here: the server closes those after 30 s by itself.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import structlog

import settings
from workers.metrics import SLOW_CONNECTIONS_ENDED

log = structlog.get_logger(__name__)

#: The longest between two looks.
LOOK_SECONDS = 5.0
#: Who sends at least so much is slow and honest: 20 readings a second.
LEAST_BYTES_PER_SECOND = 1_000

_FDS = "/proc/self/fd"
#: struct tcp_info: milliseconds since data was sent, and bytes received, at these offsets.
_SINCE_SENT = struct.Struct("=44xI")
_RECEIVED = struct.Struct("=128xQ")
_INFO_BYTES = 136


class Connection(NamedTuple):
    """A client's connection, and how it is doing."""

    number: int
    peer: object
    quiet_seconds: float
    received_bytes: int


def is_serving() -> bool:
    """Whether this process is a child, as the HTTP server's are; no command of ours is."""
    return multiprocessing.parent_process() is not None


def watch() -> None:
    """Look after this process's connections from now on, when it is one of the HTTP server's."""
    patience = settings.load().slow_sender_seconds
    if is_serving() and patience > 0 and sys.platform == "linux":
        threading.Thread(target=_watch, args=(patience,), name="slow", daemon=True).start()


def _watch(patience_seconds: float) -> None:
    interval = min(LOOK_SECONDS, patience_seconds / 2)
    before: dict[tuple[int, object], int] = {}
    while True:
        time.sleep(interval)
        before = end_slow(before, patience_seconds, interval * LEAST_BYTES_PER_SECOND)


def end_slow(
    before: dict[tuple[int, object], int], patience_seconds: float, least_bytes: float
) -> dict[tuple[int, object], int]:
    """End what is stuck; returns what each has received: the next look's `before`."""
    received = {}
    for one in connections():
        key = (one.number, one.peer)
        came = one.received_bytes - before.get(key, 0)
        if one.quiet_seconds >= patience_seconds and key in before and came < least_bytes:
            _end(one)
        else:
            received[key] = one.received_bytes
    return received


def connections() -> list[Connection]:
    """The connections that this process accepted."""
    ports, found = set(), []
    for number in map(int, os.listdir(_FDS)):
        with _borrowed(number) as one:
            if one is None:
                continue
            port = one.getsockname()[1]
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                ports.add(port)
            elif (state := _state(number, one)) is not None:
                found.append((port, state))
    return [state for port, state in found if port in ports]


def _state(number: int, one: socket.socket) -> Connection | None:
    try:
        info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        peer = one.getpeername()
    except OSError:  # it ended while we looked
        return None
    if len(info) < _INFO_BYTES:  # an old kernel: nothing is known, nothing is ended
        return None
    (since_sent_ms,), (received,) = _SINCE_SENT.unpack_from(info), _RECEIVED.unpack_from(info)
    return Connection(number, peer, since_sent_ms / 1000, received)


def _end(stuck: Connection) -> None:
    with _borrowed(stuck.number) as one:
        try:
            if one is None or one.getpeername() != stuck.peer:
                return  # the number is another connection's by now
            one.shutdown(socket.SHUT_RDWR)
        except OSError:  # it ended by itself
            return
    SLOW_CONNECTIONS_ENDED.inc()
    log.warning("slow connection ended", quiet_seconds=round(stuck.quiet_seconds))


@contextmanager
def _borrowed(number: int) -> Iterator[socket.socket | None]:
    """The file descriptor as a TCP socket of our own, None if it is none (any more)."""
    try:
        # Files are left alone: closing a second descriptor of one would let go of its locks.
        is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
        one = socket.socket(fileno=os.dup(number)) if is_socket else None
    except OSError:  # it ended while we looked
        one = None
    if one is None:
        yield None
        return
    with one:
        is_tcp = one.family in {socket.AF_INET, socket.AF_INET6} and one.type == socket.SOCK_STREAM
        yield one if is_tcp else None
