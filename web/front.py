"""What the HTTP server serves: expresses on its event loop, behind them Flask in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from flask import Flask, request

from web.bridge import Bridge
from web.express import Express
from web.rsgi import Asked, Exchange, Scope

#: Where in a WSGI request Flask finds what went wrong in an express.
_TROUBLE = "energy.trouble"


class Front:
    """An RSGI application over a WSGI one."""

    def __init__(
        self,
        app: Flask,
        expresses: Mapping[tuple[str, str], Express],
        closing: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        """`expresses` by method and path without its last part; `closing` is what close() does."""
        self._expresses, self._closing = expresses, closing
        self._flask = Bridge(app.wsgi_app)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.run_until_complete(self.close())

    async def close(self) -> None:
        """Close the connections that the event loop has opened."""
        for close in self._closing:
            await close()

    async def __rsgi__(self, scope: Scope, exchange: Exchange) -> None:
        asked, trouble = Asked(scope, exchange), None
        road, _, last = scope.path.rpartition("/")
        express = self._expresses.get((scope.method, road))
        if express is not None:
            try:
                answer = await express(asked, last)
            except Exception as error:  # raised again, in Flask
                trouble = error
            else:
                if answer is not None:
                    exchange.response_bytes(*answer)
                    return
        try:
            await self._flask.answer(asked, **({_TROUBLE: trouble} if trouble else {}))
        finally:
            del trouble  # it knows this frame, and would keep the body until the collector comes


def register(app: Flask) -> None:
    """Let what went wrong in an express be raised where all errors are told."""
    app.before_request(_raise_trouble)


def _raise_trouble() -> None:
    trouble: Exception | None = request.environ.get(_TROUBLE)
    if trouble is not None:
        raise trouble
