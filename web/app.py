"""create_app(): configuration, logging, refusals, routes, in that order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from flask import Flask, Response
from flask.json.provider import DefaultJSONProvider

import settings
from web import analytics, cli, devices, errors, health, ingestion, openapi, registry, slow
from web.admission import Admission
from web.auth import KeyRing
from workers import logs

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
}


class _Json(DefaultJSONProvider):
    """Flask's JSON, written by msgspec."""

    def dumps(self, obj: Any, **_: Any) -> str:
        return msgspec.json.encode(obj).decode()


def create_app() -> Flask:
    """The API. Opens no connection: those come with the first request that needs one."""
    settings.load()  # a missing setting stops the start, not the first request
    logs.configure()
    app = Flask("web")
    app.json = _Json(app)
    app.config.update(openapi.CONFIG)
    errors.register(app)
    cli.register(app)
    _register_routes(app)
    app.after_request(_add_headers)
    slow.watch()
    return app


def _register_routes(app: Flask) -> None:
    keys = app.extensions["energy_keys"] = KeyRing()
    api = openapi.EnergyApi(app)
    protected: Iterable[Any] = (
        ingestion.blueprint(keys, Admission()),
        analytics.blueprint(keys),
        *devices.blueprints(keys),
        registry.blueprint(keys),
    )
    for blueprint in protected:
        api.register_blueprint(blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(openapi.pages)


def _add_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
    return response
