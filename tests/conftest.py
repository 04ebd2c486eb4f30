"""Real servers for the tests that ask: one PostgreSQL and two Valkeys, thrown away at the end.

A test that asks for `servers` finds them empty, migrated, and named in the environment while it
runs. A test that asks for nothing starts nothing, and settings.load() raises in it: no test ever
reaches a server that the developer's environment happens to name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kombu.pools
import pytest
from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

import settings
from models import engine
from stack import postgres, valkey
from tests import factories
from workers import flush, stream

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
URLS = ("DATABASE_URL", "STREAM_URL", "CELERY_BROKER_URL")

# The same examples in every run; a server's answer may take its time.
hypothesis_settings.register_profile(
    "tests",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
hypothesis_settings.load_profile("tests")


def alembic_config() -> Config:
    """Alembic as `alembic` on the command line sees it, with the database of DATABASE_URL."""
    return Config(toml_file=PYPROJECT)


@pytest.fixture(autouse=True)
def _no_chance_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Servers are used only by whoever asks for them."""
    for name in URLS:
        monkeypatch.delenv(name, raising=False)
    settings.load.cache_clear()
    yield
    settings.load.cache_clear()


@pytest.fixture(scope="session")
def migrated() -> Iterator[dict[str, str]]:
    """The three servers' URLs by environment variable; the schema is made by the migrations."""
    with (
        postgres.temporary() as database,
        valkey.temporary(durable=True) as readings,
        valkey.temporary() as broker,
        pytest.MonkeyPatch.context() as environment,
    ):
        urls = dict(zip(URLS, (database, readings, broker), strict=True))
        for name, url in urls.items():
            environment.setenv(name, url)
        settings.load.cache_clear()
        command.upgrade(alembic_config(), "head")
        yield urls
        kombu.pools.reset()
        engine.dispose()
        stream.client().connection_pool.disconnect()


@pytest.fixture
def servers(migrated: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The three servers, empty; their URLs by environment variable."""
    for name, url in migrated.items():
        monkeypatch.setenv(name, url)
    settings.load.cache_clear()
    # A flush gives its place back after a second and rings for another. Nobody hears that here,
    # and a slow machine may need longer.
    monkeypatch.setattr(flush, "TASK_SECONDS", 60.0)
    factories.empty_servers()
    return migrated


@pytest.fixture
def impatient(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PostgreSQL gives up on a lock after 100 ms instead of 5 s."""
    engine.dispose()
    engine._engine_of.cache_clear()
    monkeypatch.setitem(engine._SESSION, "lock_timeout", "100ms")
    yield
    engine.dispose()
    engine._engine_of.cache_clear()


@pytest.fixture
def fleet(servers: dict[str, str]) -> int:
    """A fleet's id."""
    return factories.make_fleet("Northern depot")


@pytest.fixture
def other_fleet(servers: dict[str, str]) -> int:
    """Another fleet's id."""
    return factories.make_fleet("Southern depot")
