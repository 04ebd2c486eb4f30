"""The front as granian calls it, behind werkzeug's test client: without a server in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from werkzeug.datastructures import EnvironHeaders
from werkzeug.test import Client

from web.front import Front
from web.headers import Headers, StartResponse


class FrontClient(Client):
    """Asks the front on an event loop of its own."""

    def __init__(self, front: Front) -> None:
        self.front, self.loop = front, asyncio.new_event_loop()
        super().__init__(self._answer)

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        exchange = _Exchange(environ["wsgi.input"].read())
        self.loop.run_until_complete(self.front.__rsgi__(_Scope(environ), exchange))
        status, headers, body = exchange.answer
        start_response(f"{status} {HTTPStatus(status).phrase.upper()}", headers)
        return [body]


class _Headers:
    def __init__(self, environ: dict[str, Any]) -> None:
        self._found = {name.lower(): value for name, value in EnvironHeaders(environ)}

    def get_all(self, name: str) -> list[str]:
        return [self._found[name]] if name in self._found else []

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __iter__(self) -> Any:
        return iter(self._found)


class _Scope:
    http_version, scheme, authority = "1.1", "http", None
    server, client = "127.0.0.1:3000", "127.0.0.1:50000"

    def __init__(self, environ: dict[str, Any]) -> None:
        self.method, self.query_string = environ["REQUEST_METHOD"], environ["QUERY_STRING"]
        self.path = unquote(environ["PATH_INFO"])
        self.headers = _Headers(environ)


class _Exchange:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self.answer: tuple[int, Headers, bytes] = (0, [], b"")

    async def __call__(self) -> bytes:
        return self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        self.answer = status, headers, body

    def response_file(self, status: int, headers: Headers, file: str) -> None:
        self.answer = status, headers, Path(file).read_bytes()
