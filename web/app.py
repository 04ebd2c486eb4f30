"""create_app(): configuration, logging, refusals, routes, in that order."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

import msgspec
from flask import Flask
from flask.json.provider import DefaultJSONProvider

import settings
from web import (
    alarms,
    analytics,
    cli,
    devices,
    errors,
    front,
    headers,
    health,
    ingestion,
    openapi,
    operations,
    registry,
    slow,
    summary,
    webhooks,
)
from web.admission import Admission
from web.auth import KeyRing
from web.front import Front
from workers import append, logs


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
    front.register(app)
    _register_routes(app)
    app.wsgi_app = headers.completed(app.wsgi_app)  # type: ignore[method-assign]
    slow.watch()
    _settle()
    return app


def create_front(app: Flask | None = None) -> Front:
    """The API as the HTTP server serves it (RSGI)."""
    app = app or create_app()
    keys, admission = app.extensions["energy_keys"], app.extensions["energy_admission"]
    return Front(
        app,
        {
            ("POST", "/ingestion"): ingestion.express(keys, admission),
            ("GET", "/v1/analytics/performance"): summary.express(keys),
        },
        [append.hang_up, summary.hang_up],
    )


def _settle() -> None:
    """What is loaded by now stays: the collector need not walk it under load (workers/celery.py).

    Tests make many apps in one process and want them gone.
    """
    if slow.is_serving():
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)


def _register_routes(app: Flask) -> None:
    keys = app.extensions["energy_keys"] = KeyRing()
    api = openapi.EnergyApi(app)
    admission = app.extensions["energy_admission"] = Admission()
    protected: Iterable[Any] = (
        ingestion.blueprint(keys, admission),
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
