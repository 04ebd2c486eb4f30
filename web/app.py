"""create_app(): configuration, logging, refusals, routes, in that order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from flask import Flask, Response
from flask.json.provider import DefaultJSONProvider

import settings
from web import (
    alarms,
    analytics,
    cli,
    devices,
    errors,
    health,
    ingestion,
    openapi,
    operations,
    registry,
    slow,
    webhooks,
)
from web.admission import Admission
from web.auth import KeyRing
from workers import logs

#: On every answer, whoever made it. TLS, and with it Strict-Transport-Security, is the proxy's.
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",  # data of a fleet; what may be kept says so itself
}
#: For pages: our own files only. Swagger UI sets styles in its markup.
_PAGE_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
#: For everything else: data is no page, and if a browser takes it for one it may load nothing.
_DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"


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
    operations.register(app)
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
        *alarms.blueprints(keys),
        webhooks.blueprint(keys),
    )
    for blueprint in protected:
        api.register_blueprint(blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(openapi.pages)


def _add_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    policy = _PAGE_POLICY if response.mimetype == "text/html" else _DATA_POLICY
    response.headers.setdefault("Content-Security-Policy", policy)
    return response
