"""The migrations make what the models describe, and can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory

import settings
from models import Base, engine, partitions
from models.kinds import KINDS
from tests.conftest import alembic_config
from tests.factories import rows


@pytest.fixture
def scratch(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty database of its own on the tests' server."""
    url = servers["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE DATABASE scratch")
    monkeypatch.setenv("DATABASE_URL", url.rpartition("/")[0] + "/scratch")
    settings.load.cache_clear()
    yield "scratch"
    engine.dispose()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DROP DATABASE scratch")


def tables() -> set[str]:
    return {
        row["tablename"]
        for row in rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    }


def test_models_and_migrations_agree(servers: dict[str, str]) -> None:
    command.check(alembic_config())  # raises when a migration is missing


def test_partitions_are_no_difference(servers: dict[str, str]) -> None:
    with engine.transaction() as conn:
        for kind in KINDS.values():
            partitions.create(conn, kind, date(2026, 1, 10))
    try:
        command.check(alembic_config())
    finally:
        with engine.transaction() as conn:
            for kind in KINDS.values():
                partitions.drop(conn, kind, date(2026, 1, 10))


def test_the_way_up_down_and_up_again(scratch: str) -> None:
    command.upgrade(alembic_config(), "head")
    assert set(Base.metadata.tables) < tables()
    with engine.transaction() as conn:
        partitions.create(conn, KINDS["meter"], date(2026, 1, 10))
    command.downgrade(alembic_config(), "base")
    assert tables() == {"alembic_version"}
    assert rows("SELECT * FROM pg_class WHERE relkind = 'S'") == []
    command.upgrade(alembic_config(), "head")
    command.check(alembic_config())


def test_upgrading_what_is_up_to_date_changes_nothing(servers: dict[str, str]) -> None:
    before = tables()
    command.upgrade(alembic_config(), "head")
    assert tables() == before


def test_revisions_are_numbered_one_after_the_other() -> None:
    revisions = list(ScriptDirectory.from_config(alembic_config()).walk_revisions())[::-1]
    numbers = [script.revision for script in revisions]
    assert numbers == [f"{n:04}" for n in range(1, len(numbers) + 1)]
    parents = [script.down_revision for script in revisions]
    assert parents == [None, *numbers[:-1]]
    for script in revisions:
        assert script.path.rpartition("/")[2].startswith(f"{script.revision}_")


def test_no_migration_needs_an_extension(servers: dict[str, str]) -> None:
    assert rows("SELECT extname FROM pg_extension") == [{"extname": "plpgsql"}]
