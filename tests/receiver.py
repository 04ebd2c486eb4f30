"""A receiver of webhooks: a real HTTP server on a free port that notes what comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """What it answers (the last answer again and again), and what it has received."""

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [200])
    answer_headers: dict[str, str] = field(default_factory=dict)
    #: Before the answer.
    sleep_seconds: float = 0
    #: Between the bytes of an answer that never ends; None: an answer at once.
    drip_seconds: float | None = None
    received: list[Received] = field(default_factory=list)
    #: Called with each request, before it is answered.
    on_request: Callable[[], object] = lambda: None

    def next_answer(self) -> int:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def event_ids(self) -> list[str]:
        return [request.event_id for request in self.received]


class _Handler(BaseHTTPRequestHandler):
    """Notes each request with `receiver`, and answers as that says."""

    receiver: ClassVar[Receiver]
    stopping: ClassVar[threading.Event]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        named = {name.lower(): value for name, value in self.headers.items()}
        self.receiver.received.append(Received(self.path, named, body))
        self.receiver.on_request()
        time.sleep(self.receiver.sleep_seconds)
        try:
            if self.receiver.drip_seconds is None:
                self._answer()
            else:
                self._drip(self.receiver.drip_seconds)
        except OSError:
            return  # the sender has given up, as some tests want it to

    def _answer(self) -> None:
        self.send_response(self.receiver.next_answer())
        for name, value in self.receiver.answer_headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def _drip(self, seconds: float) -> None:
        while not self.stopping.wait(seconds):
            self.wfile.write(b"H")
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Not on the tests' terminal."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on 127.0.0.1 until the block ends."""
    receiver, stopping = Receiver(), threading.Event()
    handler = type("Handler", (_Handler,), {"receiver": receiver, "stopping": stopping})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
        yield receiver
        stopping.set()
        server.shutdown()
        thread.join()
