"""A migration runs while ingest continues: nobody stops the flush for a new column."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

import settings
from models import engine
from models.kinds import METER
from tests.conftest import PYPROJECT, alembic_config
from tests.factories import at, make_fleet, meter_reading, post_to_stream, roll_up, rows
from workers import flush, stream
from workers.devices import DeviceKeys

#: What the next release might bring: a column more, an index, a column less on the way back.
MIGRATION = '''
"""A note on each reading."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade() -> None:
    for kind in ("meter", "vehicle"):
        op.add_column(f"{{kind}}_telemetry_history", sa.Column("note", sa.Text))
        op.add_column(f"{{kind}}_status_latest", sa.Column("note", sa.Text, server_default="-"))
    op.create_index("noted", "meter_status_latest", ["note"])


def downgrade() -> None:
    for kind in ("meter", "vehicle"):
        op.drop_column(f"{{kind}}_telemetry_history", "note")
        op.drop_column(f"{{kind}}_status_latest", "note")
'''


@pytest.fixture
def next_release(
    servers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Config]:
    """Alembic with one migration more than there is, on a database of its own at today's head."""
    url = servers["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE DATABASE upgraded")
    monkeypatch.setenv("DATABASE_URL", url.rpartition("/")[0] + "/upgraded")
    settings.load.cache_clear()
    monkeypatch.setattr(flush, "_device_keys", DeviceKeys())
    command.upgrade(alembic_config(), "head")
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    folder = tmp_path / "migrations"
    shutil.copytree(PYPROJECT.parent / "migrations", folder)
    (folder / "versions" / "9999_a_note.py").write_text(MIGRATION.format(head=head))
    config = alembic_config()
    config.set_main_option("script_location", str(folder))
    yield config
    engine.dispose()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DROP DATABASE upgraded WITH (FORCE)")


class Ingest(threading.Thread):
    """Posts and flushes, one reading after the other, until told to stop."""

    def __init__(self, fleet: int) -> None:
        super().__init__()
        self.fleet, self.count, self.slowest_seconds = fleet, 0, 0.0
        self.stopping = threading.Event()
        self.trouble: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                began = time.monotonic()
                post_to_stream(METER, self.fleet, [meter_reading(timestamp=at(seconds=self.count))])
                flush.flush(METER, "test")
                self.count += 1
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
        except BaseException as error:
            self.trouble = error
            raise

    def wait_for(self, more: int) -> None:
        """Until so many more readings are in history."""
        aim, deadline = self.count + more, time.monotonic() + 20
        while self.count < aim:
            assert self.trouble is None, self.trouble
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_migration_runs_while_ingest_continues(next_release: Config) -> None:
    ingest = Ingest(make_fleet("Northern depot"))
    ingest.start()
    try:
        ingest.wait_for(20)
        for _ in range(3):  # there and back again, each time in the middle of the flushes
            command.upgrade(next_release, "head")
            ingest.wait_for(10)
            roll_up()
            command.downgrade(next_release, "-1")
            ingest.wait_for(10)
    finally:
        ingest.stopping.set()
        ingest.join()
    assert ingest.trouble is None
    assert ingest.slowest_seconds < 4  # it waited for a lock at the most as long as a migration may
    assert rows("SELECT count(*) AS n FROM meter_telemetry_history") == [{"n": ingest.count}]
    assert rows("SELECT * FROM dead_letters") == []
    assert stream.waiting(METER) == 0
