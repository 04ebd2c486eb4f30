"""The whole product, started as `make run` starts it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from stack import credentials, orphans, probe
from stack.__main__ import main
from stack.home import ROOT, Home
from stack.launcher import Stack, running
from stack.ports import free_port, is_free

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NAMES = {
    "postgres",
    "stream",
    "broker",
    "web",
    "worker-flush",
    "worker-rollup",
    "worker-webhooks",
    "beat",
    "flower",
}


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def belonging_to(home: Home) -> list[psutil.Process]:
    """Every process of the stack of `home`, data servers included."""
    marked = [p for p in psutil.process_iter() if orphans._mark_of(p) == str(home.path)]
    return [*marked, *orphans._data_servers(home)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One product for the tests that leave it running."""
    with running(tmp_path_factory.mktemp("stack") / "home") as stack:
        yield stack


def post(stack: Stack, path: str, body: object) -> int:
    """The status of a POST with the key of the first fleet."""
    connection = http.client.HTTPConnection(urlsplit(stack.api_url).netloc, timeout=10)
    headers = {"Authorization": f"Bearer {stack.api_key}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_all_parts_run(stack: Stack) -> None:
    until(lambda: set(stack.supervisor.pids()) == NAMES)


def test_status_lists_them(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    until(lambda: {p["statename"] for p in stack.supervisor.processes()} == {"RUNNING"})
    assert main(["status", "--home", str(stack.home.path)]) == 0
    shown = capsys.readouterr().out
    assert [name for name in NAMES if f"{name} " not in shown] == []


def test_the_line_on_the_screen_works(stack: Stack) -> None:
    reading = {
        "meterId": "meter-001",
        "kwhConsumedAc": 100.5,
        "voltage": 230,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    assert post(stack, "/ingestion/meter", reading) == 202


def test_the_key_is_remembered_in_a_private_file(stack: Stack) -> None:
    file = stack.home.credentials
    assert file.read_text() == f"API_URL={stack.api_url}\nAPI_KEY={stack.api_key}\n"
    assert file.stat().st_mode & 0o077 == 0


def test_flower_wants_the_password(stack: Stack) -> None:
    port = urlsplit(stack.flower_url).port
    assert port is not None
    until(lambda: not is_free(port))
    assert probe.get(port, "/")[0] == 401


@pytest.mark.parametrize("name", sorted(NAMES))
def test_what_is_killed_comes_back(stack: Stack, name: str) -> None:
    until(lambda: set(stack.supervisor.pids()) == NAMES)
    killed = stack.pid(name)
    os.kill(killed, signal.SIGKILL)
    until(lambda: stack.supervisor.pids().get(name, killed) != killed)
    port = urlsplit(stack.api_url).port
    assert port is not None
    probe.wait_ready(port, 30, stack.supervisor.require_health)


@contextmanager
def launched(home: Home, stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m stack run` as from a shell, on free ports."""
    environment = os.environ | {"API_PORT": str(free_port()), "FLOWER_PORT": str(free_port())}
    command = [sys.executable, "-m", "stack", "run", "--home", str(home.path)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=stdout, stderr=stdout, start_new_session=True
    ) as launcher:
        yield launcher


def screen_of(descriptor: int) -> str:
    """What is shown until everything is ready."""
    screen = b""
    while b"Ctrl-C" not in screen:
        shown = os.read(descriptor, 4096)
        assert shown, screen.decode()
        screen += shown
    return screen.decode()


def shown_and_ended(home: Home, how: signal.Signals) -> tuple[str, int]:
    """The screen of a start that is then sent `how`, and its exit code."""
    with launched(home, subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        screen = screen_of(launcher.stdout.fileno())
        launcher.send_signal(how)
        launcher.stdout.read()  # to the end
    return screen, launcher.returncode


def test_ctrl_c_leaves_nothing_and_the_next_start_finds_everything(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    screen, code = shown_and_ended(home, signal.SIGINT)
    assert code == 0
    assert belonging_to(home) == []
    assert re.search(r"ready in \d+\.\d s", screen)
    key = credentials.read_key(home)
    assert f"curl -H 'Authorization: Bearer {key}'" in screen
    with running(home.path) as second:
        assert second.api_key == key
        port = urlsplit(second.api_url).port
        assert port is not None
        assert not probe.is_known(port, f"{key}x")
    assert home.delete() == []  # `make clean` knows all that is ever written


def test_a_launcher_that_is_killed_takes_everything_with_it(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    assert shown_and_ended(home, signal.SIGKILL)[1] == -signal.SIGKILL
    until(lambda: not belonging_to(home), seconds=60)


def test_a_closed_terminal_ends_it_even_when_nobody_tells(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    window, terminal = os.openpty()
    with launched(home, terminal) as launcher:
        os.close(terminal)
        screen_of(window)
        os.close(window)  # no process has it as its controlling terminal: there is no SIGHUP
    assert launcher.returncode is not None
    until(lambda: not belonging_to(home))
