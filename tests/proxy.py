"""A network that misbehaves: a TCP proxy with latency, slices, resets, black holes, lost replies.

Only the dice of the resets are random, and they fall the same way in every run.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from stack.ports import LOOPBACK

#: close() with this sends RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Weather:
    """How the network is at present; may be changed while connections are open."""

    latency_seconds: float = 0.0
    #: Bytes come in pieces of at most so many.
    slice_bytes: int = 65_536
    #: Share of pieces at which the connection is reset instead.
    resets: float = 0.0
    #: How many of the next replies are swallowed, the connection reset in their place.
    replies_to_lose: int = 0
    #: Nothing passes any more on connections made before this moment (of time.monotonic).
    blackhole_before: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311


class Proxy:
    """Stands before the server of `url`."""

    def __init__(self, url: str) -> None:
        self.weather = Weather()
        self._target = urlsplit(url)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self.url = url.replace(f":{self._target.port}/", f":{self.port}/")
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((LOOPBACK, self._target.port or 0))
                self._sockets += [client, server]
                born = time.monotonic()
                self._start(self._pass_on, client, server, born, False)
                self._start(self._pass_on, server, client, born, True)

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, born: float, replies: bool
    ) -> None:
        weather = self.weather
        with suppress(OSError):  # one side has hung up
            while data := source.recv(weather.slice_bytes):
                if born < weather.blackhole_before:
                    continue
                time.sleep(weather.latency_seconds)
                if replies and weather.replies_to_lose > 0:
                    weather.replies_to_lose -= 1
                    break
                if weather.rng.random() < weather.resets:
                    break
                sink.sendall(data)
        if born >= weather.blackhole_before:
            for end in (source, sink):
                _reset(end)

    def close(self) -> None:
        """Cut everything."""
        # accept() does not notice that its socket is closed: shut it down first.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._sockets:
            _reset(end)
        for thread in self._threads:
            thread.join(5)


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def before(url: str) -> Iterator[Proxy]:
    """A proxy in front of the server of `url`."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
