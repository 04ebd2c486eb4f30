"""The embedded servers really start, as root and as others, and stop however they are left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from stack import postgres, unprivileged, valkey
from stack.errors import StackError
from stack.home import ROOT

BOTH = textwrap.dedent("""
    import os, signal, sys
    from stack import postgres, valkey
    with postgres.temporary() as database, valkey.temporary() as stream:
        print(os.geteuid(), database, stream, flush=True)
        sys.stdin.read(1)
""")


def test_postgres_is_what_the_product_expects() -> None:
    with postgres.temporary() as url, psycopg.connect(url) as connection:
        shown = connection.execute("""
            SELECT current_database(), current_user, current_setting('timezone'),
                   current_setting('server_encoding'), current_setting('fsync'),
                   current_setting('listen_addresses'),
                   current_setting('server_version_num')::integer / 10000
            """).fetchone()
    assert shown == ("energy", "energy", "UTC", "UTF8", "off", "127.0.0.1", 18)


def test_a_durable_postgres_waits_for_the_disk() -> None:
    with postgres.temporary(durable=True) as url, psycopg.connect(url) as connection:
        names = ("fsync", "synchronous_commit", "full_page_writes")
        shown = [connection.execute(f"SHOW {name}").fetchone() for name in names]
    assert shown == [("on",)] * 3


def test_postgres_wants_the_password() -> None:
    with postgres.temporary() as url:
        wrong = url.replace(url.split(":")[2].split("@")[0], "wrong")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)


def test_an_interrupted_initdb_is_not_taken_for_a_cluster(tmp_path: Path) -> None:
    data_dir = tmp_path / "postgres"
    half = tmp_path / "postgres.unfinished"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")  # what an earlier, killed start left
    postgres.initialise(data_dir, "secret", durable=False)
    assert (data_dir / "global" / "pg_control").exists()
    assert not half.exists()
    before = (data_dir / "PG_VERSION").stat().st_mtime_ns
    postgres.initialise(data_dir, "secret")
    assert (data_dir / "PG_VERSION").stat().st_mtime_ns == before


def test_valkey_writes_every_reading_to_the_disk_first() -> None:
    with valkey.temporary(durable=True) as url, redis.Redis.from_url(url) as client:
        settings = client.config_get("append*") | client.config_get("maxmemory-policy")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "always"
    assert settings["maxmemory-policy"] == "noeviction"


def test_no_password_is_visible_in_the_process_list(tmp_path: Path) -> None:
    command = valkey.command(tmp_path, 6379, "secret-word", appendfsync="no", maxmemory="64mb")
    assert "secret-word" not in " ".join(command)
    assert (tmp_path / "valkey.conf").stat().st_mode & 0o077 == 0


def test_another_server_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALKEY_SERVER", sys.executable)
    assert valkey.program() == sys.executable
    monkeypatch.setenv("VALKEY_SERVER", "no-such-server")
    with pytest.raises(StackError, match="VALKEY_SERVER is 'no-such-server'"):
        valkey.program()


def test_a_server_that_does_not_start_shows_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postgres.SETTINGS, "no_such_setting", "1")
    message = "unrecognized configuration parameter"
    with pytest.raises(StackError, match=message), postgres.temporary():
        pytest.fail("it started")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_servers_end_with_their_owner(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BOTH], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline()
        servers = psutil.Process(owner.pid).children(recursive=True)
        assert {"postgres", "valkey-server"} <= {server.name() for server in servers}
        folders = {Path(server.cwd()) for server in servers} - {ROOT}
        owner.send_signal(how)
    _, left = psutil.wait_procs(servers, timeout=20)
    assert left == []
    assert [folder for folder in folders if folder.exists()] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: the other tests are this one")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_servers_start_for_an_ordinary_user_too() -> None:
    as_nobody = list(unprivileged._SETPRIV)
    for path in (os.path.realpath(sys.executable), psycopg.__file__, str(ROOT / "stack")):
        if subprocess.run([*as_nobody, "test", "-r", path], check=False).returncode != 0:
            pytest.skip(f"{path} is out of reach for other users")
    done = subprocess.run(
        [*as_nobody, sys.executable, "-B", "-c", BOTH],
        check=False,
        cwd=ROOT,
        input="\n",
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{unprivileged.NOBODY} postgresql://energy:")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become someone else")
class TestRoot:
    """Root's two ways around PostgreSQL's refusal, and their end."""

    @pytest.fixture(autouse=True)
    def forget(self) -> None:
        """What was found out about this machine."""
        unprivileged._trouble_of.cache_clear()

    def test_namespaces_come_first(self, tmp_path: Path) -> None:
        if unprivileged._trouble_of((*unprivileged._NAMESPACE, "true")):
            pytest.skip("this machine refuses user namespaces")
        assert unprivileged.prefix(Path("/bin/true"), tmp_path)[0] == "unshare"

    def test_nobody_is_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unprivileged, "_NAMESPACE", ("false",))
        with tempfile.TemporaryDirectory() as name:  # not pytest's: those are root's alone
            folder = Path(name)
            folder.chmod(0o711)
            assert unprivileged.prefix(Path("/bin/true"), folder / "data")[0] == "setpriv"
            assert (folder / "data").stat().st_uid == unprivileged.NOBODY

    def test_what_nobody_cannot_reach_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(unprivileged, "_NAMESPACE", ("false",))
        hidden = tmp_path / "postgres"
        shutil.copy("/bin/true", hidden)
        tmp_path.chmod(0o700)
        with pytest.raises(StackError, match=f"{hidden} is out of reach"):
            unprivileged.prefix(hidden, tmp_path / "data")

    def test_without_either_a_running_server_is_asked_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(unprivileged, "_NAMESPACE", ("no-such-program",))
        monkeypatch.setattr(unprivileged, "_SETPRIV", ("no-such-program",))
        with pytest.raises(StackError, match="set DATABASE_URL"):
            unprivileged.prefix(Path("/bin/true"), tmp_path / "data")
