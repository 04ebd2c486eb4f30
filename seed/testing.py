"""A stand-in for the API, in this process: for the tests of whoever sends readings."""

from __future__ import annotations

import gzip
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from seed.api import Target


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came in; `port` is the client's and tells connections apart."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    port: int

    def readings(self) -> list[dict[str, Any]]:
        """The readings in the body."""
        zipped = self.headers.get("content-encoding") == "gzip"
        readings: list[dict[str, Any]] = json.loads(
            gzip.decompress(self.body) if zipped else self.body
        )
        return readings


class FakeApi:
    """A context: listens on a free port, remembers requests, gives the scripted answers in turn.

    Without a script a POST is accepted whole and a GET is not found. The reply `HANG_UP` closes the
    connection without an answer.
    """

    HANG_UP = Reply(0)

    def __init__(self, *script: Reply) -> None:
        self.script = deque(script)
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.target = Target(f"http://127.0.0.1:{self._server.server_port}", "key-of-a-test")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def posts(self) -> list[Seen]:
        """The POST requests."""
        return [seen for seen in self.seen if seen.method == "POST"]

    def accepted(self, path: str) -> list[dict[str, Any]]:
        """All readings that were sent to a path."""
        return [one for seen in self.posts() if seen.path == path for one in seen.readings()]

    def _answer(self, seen: Seen) -> Reply:
        with self._lock:
            self.seen.append(seen)
            # The first look whether anybody is there doesn't use up the script.
            if self.script and seen.path != "/":
                return self.script.popleft()
        if seen.method == "POST":
            return Reply(202, {"accepted": len(seen.readings()), "rejected": []})
        return Reply(404, {"code": "not_found", "title": "Not found"})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.serve()

            def do_POST(self) -> None:
                self.serve()

            def serve(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                body, port = self.rfile.read(length), self.client_address[1]
                reply = api._answer(Seen(self.command, self.path, headers, body, port))
                if reply is api.HANG_UP:
                    self.close_connection = True
                    return
                payload = json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_args: Any, **_kwargs: Any) -> None:
                """Says nothing: the test looks at `seen`."""

        return Handler
