"""The load generator: prebuilt requests over raw keep-alive sockets, as little Python as possible.

Here every connection sends its next request when it has its answer (a closed loop: `drive`);
bench/pacing.py sends at planned instants (an open loop). No connection ever has two requests at
once. Standard library only.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from selectors import EVENT_READ, DefaultSelector

from bench import Broken
from bench.pacing import Answers, pace
from bench.readings import KINDS, Fleet

HOST = "127.0.0.1"
#: Of single requests, and of batches: gateways are fewer than devices.
CONNECTIONS, BATCH_CONNECTIONS = 64, 16
#: Longest wait for an answer.
TIMEOUT_SECONDS = 30
#: Longest wait for a server to listen.
START_SECONDS = 60.0

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"


@dataclass(frozen=True, slots=True)
class Target:
    """A server and a key that it knows."""

    port: int
    key: str

    def get(self, path: str) -> bytes:
        """The bytes of a GET."""
        return f"GET {path} HTTP/1.1\r\n{self._headers()}\r\n".encode()

    def post(self, path: str, body: str) -> bytes:
        """The bytes of a POST of JSON."""
        content = body.encode()
        described = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        return f"POST {path} HTTP/1.1\r\n{self._headers()}{described}".encode() + content

    def connect(self) -> socket.socket:
        """A connection. The kernel times it: Python's own timeouts cost a system call each time."""
        connection = socket.create_connection((HOST, self.port), TIMEOUT_SECONDS)
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", TIMEOUT_SECONDS, 0))
        return connection

    def wait_until_it_listens(self) -> None:
        """Raises OSError when nobody does for a minute."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect().close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _headers(self) -> str:
        return f"Host: {HOST}:{self.port}\r\nAuthorization: Bearer {self.key}\r\n"


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds from one request of a process to its next, and until its first."""

    interval: float
    offset: float


@dataclass(frozen=True, slots=True)
class Posts:
    """POSTs of `size` readings each, meters and vehicles by turns; a task of the crew.

    `requests` is a range of request numbers, `first` the first reading's number of each kind.
    """

    target: Target
    fleet: Fleet
    requests: range
    size: int
    first: int
    connections: int
    #: Without one, as fast as answers come.
    pace: Pace | None = None

    def prepare(self) -> Callable[[], Answers]:
        """Build every request and connect."""
        sent = [self.request(number) for number in self.requests]
        return _prepared(self.target, self.connections, sent, b"202", self.pace)

    def request(self, number: int) -> bytes:
        """The bytes of one of them."""
        turn, place = divmod(number, len(KINDS))
        begin = self.first + turn * self.size
        objects = self.fleet.objects(KINDS[place], range(begin, begin + self.size))
        body = objects[0] if self.size == 1 else f"[{','.join(objects)}]"
        return self.target.post(f"/ingestion/{KINDS[place]}", body)


@dataclass(frozen=True, slots=True)
class Gets:
    """`count` GETs of `paths`, one after the other, over and over; a task of the crew."""

    target: Target
    paths: Sequence[str]
    count: int
    connections: int
    pace: Pace | None = None

    def prepare(self) -> Callable[[], Answers]:
        """Build every request and connect."""
        built = [self.target.get(path) for path in self.paths]
        sent = [built[number % len(built)] for number in range(self.count)]
        return _prepared(self.target, self.connections, sent, b"200", self.pace)


def _prepared(
    target: Target, connections: int, requests: Sequence[bytes], status: bytes, paced: Pace | None
) -> Callable[[], Answers]:
    connected = [target.connect() for _ in range(connections)]
    if paced is None:
        return partial(drive, connected, requests, status)
    answer = partial(receive, status=status)
    return partial(pace, connected, requests, paced.interval, paced.offset, answer)


def shares(total: int, parts: int) -> list[range]:
    """0 to `total`, cut into `parts` ranges of about the same length."""
    cuts = [total * part // parts for part in range(parts + 1)]
    return [range(a, b) for a, b in pairwise(cuts)]


def drive(
    connections: Sequence[socket.socket], requests: Iterable[bytes], status: bytes
) -> Answers:
    """Send every request once; close the connections. Raises Broken for any other status."""
    waiting = iter(requests)
    with ExitStack() as cleanup, DefaultSelector() as selector:
        for connection in connections:
            cleanup.enter_context(connection)
            if (request := next(waiting, None)) is not None:
                connection.sendall(request)
                selector.register(connection, EVENT_READ, connection)
        while selector.get_map():
            ready = selector.select(TIMEOUT_SECONDS)
            if not ready:
                raise Broken(f"no answer to a request for {TIMEOUT_SECONDS} s")
            for key, _ in ready:
                receive(key.data, status)
                if (request := next(waiting, None)) is not None:
                    key.data.sendall(request)
                else:
                    selector.unregister(key.data)
    return []


def receive(connection: socket.socket, status: bytes) -> bytes:
    """One whole answer. Raises Broken unless its status is `status`."""
    answer = _recv(connection)
    while not (whole := is_whole(answer)):
        more = _recv(connection)
        if not more:
            break
        answer += more
    if not whole or answer[9:12] != status:
        raise Broken(f"not {status.decode()} but: {answer.decode(errors='replace') or 'nothing'}")
    return answer


def _recv(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536)
    except BlockingIOError:  # how the kernel says that its time is up
        raise Broken(f"no answer to a request for {TIMEOUT_SECONDS} s") from None


def is_whole(answer: bytes) -> bool:
    """Whether these bytes are a complete answer; one without a content length never is."""
    end = answer.find(_END_OF_HEAD)
    if end < 0:
        return False
    at = answer.find(_LENGTH, 0, end)  # as granian spells it
    if at < 0:
        at = answer[:end].lower().find(_LENGTH)
    if at < 0:
        return False
    length = int(answer[at + len(_LENGTH) : end].split(b"\r\n", 1)[0])
    return len(answer) >= end + len(_END_OF_HEAD) + length
