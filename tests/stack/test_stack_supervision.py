"""Programs under supervisor, with tiny ones in place of the product's."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from stack import orphans, valkey
from stack.errors import StackError
from stack.home import Home
from stack.ports import free_port
from stack.programs import Program
from stack.supervision import Supervisor, supervised

SLEEP = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")

#: A parent whose child lives on when the parent is killed, as the web server's do.
PARENT = (
    sys.executable,
    "-I",
    "-S",
    "-c",
    f"import subprocess; subprocess.run({list(SLEEP)!r})",
)

#: Writes its name into a file when it is told to stop.
NOTE_THE_END = """
import pathlib, signal, sys, time
def end(*_):
    with pathlib.Path(sys.argv[1]).open("a") as file:
        print(sys.argv[2], file=file)
    sys.exit()
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A prepared home."""
    home = Home.at(tmp_path / "home")
    home.prepare()
    return home


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@contextmanager
def started(home: Home, *programs: Program) -> Iterator[Supervisor]:
    """All programs, the group "app" included, in the state RUNNING."""
    with supervised(home, programs, free_port(), os.environ) as supervisor:
        supervisor.start_group("app")
        until(lambda: {p["statename"] for p in supervisor.processes()} == {"RUNNING"})
        yield supervisor


def test_what_dies_is_started_again_and_leaves_no_children(home: Home) -> None:
    with started(home, Program("web", "app", PARENT)) as supervisor:
        first = supervisor.pid("web")
        until(lambda: psutil.Process(first).children())
        (child,) = psutil.Process(first).children()
        os.kill(first, signal.SIGKILL)
        until(lambda: supervisor.pids().get("web", first) != first)
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running()
        second = psutil.Process(supervisor.pid("web"))
        until(second.children)
        left = [second, *second.children()]
    psutil.wait_procs(left, timeout=10)
    assert [process for process in left if process.is_running()] == []


def test_groups_stop_in_order_and_nothing_is_left(home: Home) -> None:
    script, order = home.path / "script.py", home.path / "order"
    script.write_text(NOTE_THE_END)
    programs = [
        Program(group, group, (sys.executable, str(script), str(order), group))
        for group in ("postgres", "valkey", "app")
    ]
    with started(home, *programs) as supervisor:
        processes = [psutil.Process(pid) for pid in supervisor.pids().values()]
        time.sleep(0.3)  # for the handlers to be in place
    assert order.read_text().split() == ["app", "valkey", "postgres"]
    assert [process for process in processes if process.is_running()] == []


def test_a_program_that_does_not_come_up_is_shown_with_its_log(home: Home) -> None:
    broken = Program("web", "app", (sys.executable, "-c", "raise SystemExit('no such database')"))
    with supervised(home, [broken], free_port(), os.environ) as supervisor:
        supervisor.require_health()
        supervisor.start_group("app")
        with pytest.raises(StackError) as raised:
            until(supervisor.require_health)
    assert "web does not start" in str(raised.value)
    assert "no such database" in str(raised.value)


def test_a_program_can_be_stopped_and_started(home: Home) -> None:
    with started(home, Program("worker-flush", "app", SLEEP)) as supervisor:
        first = supervisor.pid("worker-flush")
        supervisor.stop("worker-flush")
        with pytest.raises(KeyError):
            supervisor.pid("worker-flush")
        supervisor.start("worker-flush")
        assert supervisor.pid("worker-flush") != first


def test_a_supervisor_that_cannot_start_says_why(home: Home) -> None:
    unknown = Program("web", "app", SLEEP, stop_signal="NONSENSE")
    with pytest.raises(StackError, match="NONSENSE"), started(home, unknown):
        pytest.fail("it started")


def test_orphans_are_found_and_stopped(home: Home) -> None:
    server = valkey.command(home.stream, free_port(), "secret", appendfsync="no", maxmemory="64mb")
    programs = [Program("stream", "valkey", tuple(server)), Program("web", "app", PARENT)]
    with started(home, *programs) as supervisor:
        mains = [psutil.Process(pid) for pid in supervisor.pids().values()]
        until((home.stream / valkey.PID_FILE).exists)
        pid = int((home.path / "supervisord.pid").read_text())
        left = [*mains, *(child for main in mains for child in main.children())]
        os.kill(pid, signal.SIGKILL)
        until(lambda: not supervisor.is_alive())
        assert all(process.is_running() for process in left)

        stopped = orphans.stop(home)
        assert {process.pid for process in mains} <= set(stopped)
        psutil.wait_procs(left, timeout=5)
        assert [process for process in left if process.is_running()] == []
    assert orphans.stop(home) == []


def test_another_homes_processes_are_left_alone(home: Home, tmp_path: Path) -> None:
    other = Home.at(tmp_path / "other")
    other.prepare()
    with started(home, Program("web", "app", SLEEP)) as supervisor:
        assert orphans.stop(other) == []
        supervisor.require_health()


@pytest.mark.parametrize("content", ["", "not a number", "1\n", f"{os.getpid()}\n", "4194303\n"])
def test_a_stale_pid_file_harms_nobody(home: Home, content: str) -> None:
    home.postgres.mkdir()
    (home.postgres / "postmaster.pid").write_text(content)
    assert orphans.stop(home) == []
