"""The Flask application behind RSGI: each request in a thread of its own, as a WSGI server has it.

As PEP 3333 has it. The body is read when the application asks for it, and not before.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import structlog

from web import headers
from web.errors import PROBLEM_JSON
from web.headers import Headers, StartResponse
from web.refusals import REQUEST_REFUSALS
from web.rsgi import Asked, Exchange

log = structlog.get_logger(__name__)

#: A WSGI request.
Environ = dict[str, Any]
Wsgi = Callable[[Environ, StartResponse], Iterable[bytes]]

#: A thread for each connection that the server takes (stack/programs.py): senders whose body comes
#: slowly each hold one, and whoever waits for a thread is blocked by them. They are started when
#: needed and cost 60 KiB.
THREADS = 512
#: Headers that CGI does not call HTTP_.
_PLAIN = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}


class _File:
    """An open file as an answer: the server reads it, as fast as it is fetched."""

    def __init__(self, file: Any, _block_size: int = 0) -> None:
        self.path, self.close = str(file.name), file.close


#: What is the same in every request.
_SAME: Environ = {
    "SCRIPT_NAME": "",
    "wsgi.version": (1, 0),
    "wsgi.errors": sys.stderr,
    "wsgi.input_terminated": True,  # a body without a length ends where the server says
    "wsgi.file_wrapper": _File,
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
}


#: What web/errors.py says of a defect.
_PROBLEM = ("Content-Type", PROBLEM_JSON)
_DEFECT = msgspec.json.encode(
    {
        "type": "about:blank",
        "title": REQUEST_REFUSALS["INTERNAL_ERROR"][1],
        "status": 500,
        "code": "INTERNAL_ERROR",
    }
)


class Threads(ThreadPoolExecutor):
    """Where the system starts no further thread, work waits for those there are."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:  # the work is in the queue already
            if not self._threads:
                raise


class Bridge:
    """Hands requests to a WSGI application, and its answers back."""

    def __init__(self, application: Wsgi) -> None:
        self._application = application
        self._threads = Threads(THREADS, "flask")

    async def answer(self, asked: Asked, **more: Any) -> None:
        """Have the application answer; `more` stands in its environ."""
        loop = asyncio.get_running_loop()
        environ = environ_of(asked, loop) | more
        await loop.run_in_executor(self._threads, self._answer, environ, asked.exchange)

    def _answer(self, environ: Environ, exchange: Exchange) -> None:
        try:
            self._ask(environ, exchange)
        except Exception:  # from outside of what Flask itself would answer for
            log.exception("unhandled", path=environ["PATH_INFO"])
            exchange.response_bytes(500, headers.complete([_PROBLEM]), _DEFECT)

    def _ask(self, environ: Environ, exchange: Exchange) -> None:
        begun: list[tuple[int, Headers]] = []

        def start_response(status: str, headers: Headers, _: Any = None) -> Callable[[bytes], None]:
            begun[:] = [(int(status[:3]), headers)]
            return _write

        answer = self._application(environ, start_response)
        try:
            if isinstance(answer, _File):
                exchange.response_file(*begun[0], answer.path)
            else:
                exchange.response_bytes(*begun[0], b"".join(answer))
        finally:
            getattr(answer, "close", _nothing)()


def _write(_: bytes) -> None:
    raise NotImplementedError("answers are returned, not written")


def _nothing() -> None:
    pass


def environ_of(asked: Asked, loop: asyncio.AbstractEventLoop) -> Environ:
    """A request as PEP 3333 has it."""
    scope = asked.scope
    address, _, port = scope.server.rpartition(":")
    environ = {
        **_SAME,
        "REQUEST_METHOD": scope.method,
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string.encode().decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "SERVER_NAME": address,
        "SERVER_PORT": port,
        "REMOTE_ADDR": scope.client.rpartition(":")[0],
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": _input(asked, loop),
    }
    for name in asked.headers:
        if name == "range":  # whoever fetches a part slowly would have all of it kept in memory
            continue
        key = _PLAIN.get(name) or "HTTP_" + name.upper().replace("-", "_")
        environ[key] = (";" if name == "cookie" else ",").join(asked.headers.get_all(name))
    environ.setdefault("HTTP_HOST", scope.authority or "")
    return environ


def _input(asked: Asked, loop: asyncio.AbstractEventLoop) -> io.BufferedIOBase:
    if asked.body is not None:
        return io.BytesIO(asked.body)
    return io.BufferedReader(_Body(asked.exchange, loop))


class _Body(io.RawIOBase):
    """A body that comes over the event loop, for one other thread to read."""

    def __init__(self, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        self._exchange, self._loop = exchange, loop
        self._pieces: Any = None
        self._piece, self._ended = memoryview(b""), False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for some bytes; 0 at the end."""
        if not self._piece and not self._ended:
            coming = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
            self._piece = memoryview(coming.result())
            self._ended = not self._piece
        count = min(len(buffer), len(self._piece))
        buffer[:count], self._piece = self._piece[:count], self._piece[count:]
        return count

    async def _next(self) -> bytes:
        if self._pieces is None:
            self._pieces = aiter(self._exchange)
        piece: bytes = await anext(self._pieces, b"")
        return piece
