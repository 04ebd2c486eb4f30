"""A request as granian's RSGI hands it over, as far as it is used here.

https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from web.headers import Headers


class RequestHeaders(Protocol):
    """Names are lower case; a value that is not visible ASCII is not there."""

    def get_all(self, name: str) -> list[str]:
        """All values."""

    def __contains__(self, name: str) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


class Scope(Protocol):
    """What a request asks for."""

    @property
    def method(self) -> str:
        """GET, POST."""

    @property
    def path(self) -> str:
        """Without percent signs; what is no UTF-8 has become U+FFFD."""

    @property
    def query_string(self) -> str:
        """As it came."""

    @property
    def http_version(self) -> str:
        """1.1"""

    @property
    def scheme(self) -> str:
        """http"""

    @property
    def server(self) -> str:
        """address:port"""

    @property
    def client(self) -> str:
        """address:port"""

    @property
    def authority(self) -> str | None:
        """Of an address that names its host."""

    @property
    def headers(self) -> RequestHeaders:
        """The request's."""


class Exchange(Protocol):
    """The body in, the answer out; granian calls it the protocol."""

    async def __call__(self) -> bytes:
        """The whole body, however large. Raises ProtocolClosed when the connection ended first."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body in pieces; an empty one is the end, wherever it came."""

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer; from any thread, once."""

    def response_file(self, status: int, headers: Headers, file: str) -> None:
        """The same with what stands in a file, of which little is in memory at a time."""


class Asked:
    """A request that is being answered."""

    __slots__ = ("body", "exchange", "headers", "scope")

    def __init__(self, scope: Scope, exchange: Exchange) -> None:
        self.scope, self.exchange, self.headers = scope, exchange, scope.headers
        #: None until it is read.
        self.body: bytes | None = None

    def only(self, name: str) -> str:
        """The value of a header; nothing if there are several, of which each could be meant."""
        values = self.headers.get_all(name)
        return values[0] if len(values) == 1 else ""

    async def read(self) -> bytes:
        """The whole body; nothing if the sender hung up. For a body that is known to be small."""
        try:
            self.body = await self.exchange()
        except ProtocolClosed:
            self.body = b""
        return self.body
