"""The load generator: prebuilt requests over raw keep-alive sockets, as little Python as possible.

Each connection sends its next request when it has its answer. Standard library only.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from selectors import EVENT_READ, DefaultSelector

from bench import Broken
from bench.readings import KINDS, Fleet

HOST = "127.0.0.1"
CONNECTIONS = 16
#: Longest wait for an answer.
TIMEOUT_SECONDS = 30.0

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"


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
        """A connection."""
        connection = socket.create_connection((HOST, self.port), TIMEOUT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _headers(self) -> str:
        return f"Host: {HOST}:{self.port}\r\nAuthorization: Bearer {self.key}\r\n"


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
    #: Seconds from one request to the next; 0 sends as fast as answers come.
    interval: float = 0.0

    def prepare(self) -> Callable[[], None]:
        """Build every request and connect."""
        sent = [self._request(number) for number in self.requests]
        if self.interval:
            return partial(pace, self.target, sent, self.interval)
        return partial(drive, _connections(self.target, self.connections), sent, b"202")

    def _request(self, number: int) -> bytes:
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
    status: bytes = b"200"

    def prepare(self) -> Callable[[], None]:
        """Build every request and connect."""
        built = [self.target.get(path) for path in self.paths]
        sent = [built[number % len(built)] for number in range(self.count)]
        return partial(drive, _connections(self.target, self.connections), sent, self.status)


def shares(total: int, parts: int) -> list[range]:
    """0 to `total`, cut into `parts` ranges of about the same length."""
    cuts = [total * part // parts for part in range(parts + 1)]
    return [range(a, b) for a, b in pairwise(cuts)]


def _connections(target: Target, count: int) -> list[socket.socket]:
    return [target.connect() for _ in range(count)]


def drive(connections: Sequence[socket.socket], requests: Iterable[bytes], status: bytes) -> None:
    """Send every request once; close the connections. Raises Broken for any other status."""
    waiting = iter(requests)
    with ExitStack() as cleanup, DefaultSelector() as selector:
        for connection in connections:
            cleanup.enter_context(connection)
            if _send_next(connection, waiting):
                selector.register(connection, EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(TIMEOUT_SECONDS):
                assert isinstance(key.fileobj, socket.socket)  # noqa: S101  (narrows)
                receive(key.fileobj, status)
                if not _send_next(key.fileobj, waiting):
                    selector.unregister(key.fileobj)


def _send_next(connection: socket.socket, requests: Iterator[bytes]) -> bool:
    request = next(requests, None)
    if request is not None:
        connection.sendall(request)
    return request is not None


def pace(target: Target, requests: Iterable[bytes], interval: float) -> None:
    """Send one request every `interval` seconds over one connection."""
    due = time.monotonic()
    with target.connect() as connection:
        for request in requests:
            connection.sendall(request)
            receive(connection, b"202")
            due += interval
            time.sleep(max(0.0, due - time.monotonic()))


def receive(connection: socket.socket, status: bytes) -> bytes:
    """One whole answer. Raises Broken unless its status is `status`."""
    answer = connection.recv(65_536)
    while not (whole := is_whole(answer)):
        more = connection.recv(65_536)
        if not more:
            break
        answer += more
    if not whole or answer[9:12] != status:
        raise Broken(f"not {status.decode()} but: {answer.decode(errors='replace') or 'nothing'}")
    return answer


def is_whole(answer: bytes) -> bool:
    """Whether these bytes are a complete answer; one without a content length never is."""
    end = answer.find(_END_OF_HEAD)
    if end < 0:
        return False
    head = answer[:end].lower()
    at = head.find(_LENGTH)
    if at < 0:
        return False
    length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
    return len(answer) >= end + len(_END_OF_HEAD) + length
