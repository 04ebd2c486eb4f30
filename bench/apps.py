"""Floors, served by granian exactly as the product is: `--factory bench.apps:NAME`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

from web import create_front
from web.front import Front
from web.rsgi import Exchange, Scope
from workers import append, stream

_ANSWER = b'{"status":"ok"}'
_HEADERS = [("Content-Type", "application/json"), ("Content-Length", str(len(_ANSWER)))]


def bare() -> Callable[[Scope, Exchange], Awaitable[None]]:
    """The server alone: no framework, no work."""

    async def application(_: Scope, exchange: Exchange) -> None:
        exchange.response_bytes(200, _HEADERS, _ANSWER)

    return application


def without_queue() -> Front:
    """The product whose readings go nowhere: authenticated, validated, answered, forgotten."""
    mock.patch.object(stream, "append", _forget).start()
    mock.patch.object(append, "soon", _forget_soon).start()
    return create_front()


def _forget(*_parcel: Any) -> bool:
    return False  # nobody is to be woken


async def _forget_soon(*parcel: Any) -> bool:
    return _forget(*parcel)
