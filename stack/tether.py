"""Tie a server's life to its owner's: however the owner ends, the server is stopped.

A `finally` does not run when a test runner is killed, and process groups do not help against -9.
So a small process stands between: it holds the read end of a pipe whose write end only the owner
has. End of file means that the owner is done or dead; the server then gets its stop signal.
Standard library only: the small process is this very file, started without site-packages.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

#: Seconds a server may take to stop before it is killed; more than PostgreSQL's last checkpoint.
GRACE_SECONDS = 30.0

#: Of the interpreter in between: neither the environment's settings nor site-packages matter to it.
_ISOLATED = ("-I", "-S")


@contextmanager
def tethered(
    command: Sequence[str],
    *,
    stop: signal.Signals,
    log: Path,
    grace_seconds: float = GRACE_SECONDS,
    discard: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` until the block ends or this process dies, then send it `stop` and wait.

    After `grace_seconds` it is killed; at last the folder `discard` is removed, unless the server
    ended by itself: its log is wanted then. Output is appended to `log`. What is yielded is the
    process in between: its end means that the server has ended, and its exit code is the server's.
    """
    terms = (stop.name, str(grace_seconds), str(discard or ""))
    holder = [sys.executable, *_ISOLATED, __file__, *terms, *command]
    with log.open("ab") as out:
        process = subprocess.Popen(
            holder,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            env=env,
            start_new_session=True,  # a Ctrl-C in the terminal is the owner's to handle
        )
    try:
        yield process
    finally:
        assert process.stdin is not None  # noqa: S101  (Popen was given a pipe)
        process.stdin.close()
        process.terminate()  # a process forked off this one may still hold the pipe open
        process.wait()


def hold(stop: signal.Signals, grace_seconds: float, discard: str, *command: str) -> int:
    """As the process in between: run `command`, stop it at SIGTERM or the end of standard input.

    Returns its exit code, or the signal that ended it.
    """
    let_go = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: let_go.set())
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    stopping = (let_go, server, stop, grace_seconds)
    threading.Thread(target=_set_at_eof, args=(let_go,), daemon=True).start()
    threading.Thread(target=_stop_when_set, args=stopping, daemon=True).start()
    code = server.wait()
    if discard and let_go.is_set():
        shutil.rmtree(discard, ignore_errors=True)
    return abs(code)


def _set_at_eof(let_go: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    let_go.set()


def _stop_when_set(
    let_go: threading.Event,
    server: subprocess.Popen[bytes],
    stop: signal.Signals,
    grace_seconds: float,
) -> None:
    let_go.wait()
    server.send_signal(stop)
    time.sleep(grace_seconds)
    server.kill()


if __name__ == "__main__":
    sys.exit(hold(signal.Signals[sys.argv[1]], float(sys.argv[2]), *sys.argv[3:]))
