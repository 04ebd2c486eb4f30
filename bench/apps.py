"""WSGI floors, served by granian exactly as the product is: `--factory bench.apps:NAME`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

from flask import Flask

from models.kinds import Kind
from web import create_app
from workers import stream

_ANSWER = b'{"status":"ok"}'
_HEADERS = [("Content-Type", "application/json"), ("Content-Length", str(len(_ANSWER)))]

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def bare() -> Wsgi:
    """The server alone: no framework, no work."""

    def application(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", _HEADERS)
        return (_ANSWER,)

    return application


def without_queue() -> Flask:
    """The product whose readings go nowhere: authenticated, validated, answered, forgotten."""
    mock.patch.object(stream, "append", _forget).start()
    return create_app()


def _forget(_kind: Kind, _fleet_id: int, _count: int, _body: bytes) -> bool:
    return False  # nobody is to be woken
