"""What a killed launcher left behind: find it and stop it before a new start.

Every process of a stack carries its home in the environment; that finds the application. The data
servers overwrite their environment when they set their title, but each writes a pid file.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from stack import valkey
from stack.home import Home

#: The variable by which a stack's processes are recognised; its value is the home.
MARK = "ENERGY_STACK_HOME"

#: A supervisor that was orphaned needs time to stop all it started, in order.
PATIENCE_SECONDS = 90.0


def stop(home: Home) -> list[int]:
    """Stop every process of an earlier start of this home, the data servers last.

    Returns the processes that were there. Call it holding the home's lock.
    """
    stopped: list[int] = []
    while topmost := _topmost_applications(home):  # a parent that dies may leave children behind
        stopped += _end(topmost, signal.SIGTERM)
    for server in _data_servers(home):
        postgres = Path(server.cwd()) == home.postgres.resolve()
        stopped += _end([server], signal.SIGINT if postgres else signal.SIGTERM)
    return stopped


def _data_servers(home: Home) -> list[psutil.Process]:
    """Valkey before PostgreSQL: that is the order to stop them in."""
    files = (
        home.stream / valkey.PID_FILE,
        home.broker / valkey.PID_FILE,
        home.postgres / "postmaster.pid",
    )
    found = (_of_pid_file(file) for file in files)
    return [process for process in found if process is not None]


def _of_pid_file(file: Path) -> psutil.Process | None:
    """The server that wrote `file`, if it still runs: it works in the folder of that file."""
    try:
        process = psutil.Process(int(file.read_text().split()[0]))
        return process if Path(process.cwd()) == file.parent.resolve() else None
    except (OSError, ValueError, IndexError, psutil.Error):
        return None  # no file, a torn file, or a number that by now is someone else's


def _topmost_applications(home: Home) -> list[psutil.Process]:
    """Marked processes without a marked parent: that one stops its children better than we could.

    The data servers' own children may carry the mark as well; those are theirs to stop.
    """
    marked = [process for process in psutil.process_iter() if _mark_of(process) == str(home.path)]
    servers = _data_servers(home)
    known = {process.pid for process in (*marked, *servers)}
    return [p for p in marked if p not in servers and _parent_of(p) not in known]


def _mark_of(process: psutil.Process) -> str | None:
    try:
        mark: str | None = process.environ().get(MARK)
    except psutil.Error:
        return None  # gone, or another user's
    return None if process.pid == os.getpid() else mark


def _parent_of(process: psutil.Process) -> int | None:
    try:
        parent: int = process.ppid()
    except psutil.NoSuchProcess:
        return None
    return parent


def _end(processes: list[psutil.Process], how: signal.Signals) -> list[int]:
    """Signal, wait, and kill what has not ended by then, children included."""
    for process in processes:
        try:
            process.send_signal(how)
        except psutil.NoSuchProcess:
            continue
    _, stubborn = psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)
    for process in stubborn:
        for victim in (*process.children(recursive=True), process):
            victim.kill()
    return [process.pid for process in processes]
