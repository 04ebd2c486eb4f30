"""The app, a client, and keys of any fleet and scope."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models import access
from models.engine import transaction
from tests.web.calls import FLEET, Api, bearer
from tests.web.rsgi import FrontClient
from web import create_app, create_front

MakeKey = Callable[..., str]


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """create_app() sets up logging for its process; this process is the test runner's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def app(servers: dict[str, str], logging_as_before: None) -> Flask:
    """A fresh app: nothing remembered, no request yet (so that a test can add routes)."""
    return create_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client without a key."""
    return app.test_client()


@pytest.fixture
def front(app: Flask) -> Iterator[FrontClient]:
    """The same app as the HTTP server serves it."""
    client = FrontClient(create_front(app))
    yield client
    client.loop.run_until_complete(client.front.close())
    client.loop.run_until_complete(client.loop.shutdown_default_executor())
    client.loop.close()


@pytest.fixture
def key(servers: dict[str, str]) -> MakeKey:
    """Makes keys: key("read"), key("ingest", fleet="Southern depot")."""

    def make(*scopes: str, fleet: str = FLEET, **more: object) -> str:
        with transaction() as conn:
            return access.create_key(
                conn, fleet=fleet, name="test", scopes=scopes, **{"expires_at": None, **more}
            )

    return make


@pytest.fixture
def headers(key: MakeKey) -> dict[str, str]:
    """The headers of a sender and reader of the first fleet."""
    return bearer(key("ingest", "read"))


@pytest.fixture
def api(client: FlaskClient, headers: dict[str, str]) -> Api:
    """The API as the first fleet uses it."""
    return Api(client, headers)


@pytest.fixture
def other_api(client: FlaskClient, key: MakeKey) -> Api:
    """The API as another fleet uses it."""
    return Api(client, bearer(key("ingest", "read", fleet="Southern depot")))


@pytest.fixture
def admin(client: FlaskClient, key: MakeKey) -> Api:
    """The API as the first fleet's administrator uses it, who sends and reads as well."""
    return Api(client, bearer(key("ingest", "read", "admin")))


@pytest.fixture
def other_admin(client: FlaskClient, key: MakeKey) -> Api:
    """The same of another fleet."""
    return Api(client, bearer(key("ingest", "read", "admin", fleet="Southern depot")))
