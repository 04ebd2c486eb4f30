"""The servers' configuration in deploy/: what docker-compose.yml mounts is enough for the product,
and no more than that."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
from alembic import command

import settings
from models import engine
from models.kinds import KINDS, METER
from stack import postgres, valkey
from stack.ports import free_port
from stack.tether import tethered
from tests.conftest import alembic_config
from workers import stream
from workers.celery import app

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PASSWORD = "-Aa_0123456789"  # every sort of character that `make env` uses


@contextmanager
def composed(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a Valkey started as in its container: start.sh, configuration, password."""
    port, here = free_port(), folder / kind
    (here / "data").mkdir(parents=True)
    (here / "valkey-server").symlink_to(valkey.program())
    conf = (DEPLOY / "valkey" / f"{kind}.conf").read_text().replace("/data", f"{here}/data")
    (here / f"{kind}.conf").write_text(conf + f"port {port}\nbind 127.0.0.1\n")
    start = (DEPLOY / "valkey" / "start.sh").read_text().replace("/etc/valkey", str(here))
    (here / "start.sh").write_text(start)
    environment = {"PATH": f"{here}:{os.environ['PATH']}", "VALKEYCLI_AUTH": PASSWORD}
    log = here / "log"
    script = ["sh", str(here / "start.sh"), kind]
    with tethered(script, stop=signal.SIGTERM, log=log, env=os.environ | environment) as process:
        valkey.wait_ready(valkey.url(port, PASSWORD), 30, lambda: process.poll() is None)
        yield valkey.url(port, PASSWORD)


@pytest.fixture
def stream_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The stream's server as the product's."""
    with composed("stream", tmp_path) as url:
        monkeypatch.setenv("STREAM_URL", url)
        monkeypatch.setenv("CELERY_BROKER_URL", url)
        monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
        settings.load.cache_clear()
        yield url
        stream.client().connection_pool.disconnect()


def test_the_stream_may_do_all_that_the_product_asks(stream_url: str) -> None:
    assert stream.unsafe_settings() == {}
    stream.ensure_group(METER)
    stream.append(METER, 1, 1, b"[]")
    (entry,) = stream.claim(METER, "worker-1", 10)
    assert stream.claim(METER, "worker-1", 10) == [entry]
    stream.excuse(METER, "worker-1", [entry])
    assert stream.claim_suspect(METER, "worker-1") is None
    assert stream.share_usage({"key:requests": 2}) == {"key:requests": 2}
    assert stream.oldest_us(METER) is not None
    assert stream.pressure(list(KINDS.values())).writable
    stream.silence_bell(METER)
    stream.remove(METER, [entry])
    assert stream.waiting(METER) == 0


@pytest.mark.parametrize(
    "words",
    [
        *("FLUSHALL", "KEYS *", "CONFIG SET appendfsync no", "SHUTDOWN NOSAVE", "ACL LIST", "SAVE"),
        *("XTRIM energy:{meter} MAXLEN 0", "XGROUP DESTROY energy:{meter} flush", "MONITOR"),
    ],
)
def test_nobody_wipes_or_reconfigures_a_server(stream_url: str, words: str) -> None:
    refused = pytest.raises(redis.exceptions.NoPermissionError)
    with redis.Redis.from_url(stream_url) as client, refused:
        client.execute_command(*words.split())


def test_nothing_is_told_without_the_password(stream_url: str) -> None:
    stranger = redis.Redis.from_url(stream_url.replace(PASSWORD, "wrong"))
    with stranger as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()


def test_celery_may_send_and_receive_by_the_broker(tmp_path: Path) -> None:
    with composed("broker", tmp_path) as url, app.connection_for_write(url) as connection:
        queue = connection.SimpleQueue("flush")
        queue.put({"kind": "meter"}, serializer="json")
        message = queue.get(timeout=5)
        message.ack()
        assert message.payload == {"kind": "meter"}
        queue.close()


def test_the_engines_role_owns_its_database_and_is_no_superuser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The embedded server has a superuser called energy already, so here the role has another name.
    script = tmp_path / "role.sql"
    script.write_text((DEPLOY / "postgres" / "role.sql").read_text().replace("energy", "plain"))
    with postgres.temporary() as admin_url:
        with psycopg.connect(admin_url, autocommit=True) as admin:
            admin.execute("CREATE DATABASE plain")
        in_plain = psycopg.conninfo.make_conninfo(admin_url, dbname="plain")
        psql = [str(postgres.program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", in_plain]
        environment = os.environ | {"DATABASE_PASSWORD": PASSWORD}
        subprocess.run([*psql, "-f", str(script)], check=True, env=environment)
        server = psycopg.conninfo.conninfo_to_dict(admin_url)
        url = f"postgresql://plain:{PASSWORD}@{server['host']}:{server['port']}/plain"
        monkeypatch.setenv("DATABASE_URL", url)
        for name in ("STREAM_URL", "CELERY_BROKER_URL"):
            monkeypatch.setenv(name, "redis://127.0.0.1:1/0")
        settings.load.cache_clear()
        command.upgrade(alembic_config(), "head")  # the whole schema needs no more than that
        with psycopg.connect(url) as conn:
            row = conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            assert row.fetchone() == (False,)
        engine.dispose()
