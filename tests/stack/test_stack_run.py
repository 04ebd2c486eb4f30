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

from stack import orphans, probe
from stack.home import ROOT, Home
from stack.launcher import Stack, running
from stack.ports import free_port, is_free

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NAMES = {"postgres", "stream", "broker", "web", "worker-flush", "worker-rollup", "beat", "flower"}


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


def test_the_line_on_the_screen_works(stack: Stack) -> None:
    reading = {
        "meterId": "meter-001",
        "kwhConsumedAc": 100.5,
        "voltage": 230,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    assert post(stack, "/ingestion/meter", reading) == 202


def test_the_key_is_remembered_in_a_private_file(stack: Stack) -> None:
    credentials = stack.home.credentials
    assert f"API_URL={stack.api_url}\nAPI_KEY={stack.api_key}\n" == credentials.read_text()
    assert credentials.stat().st_mode & 0o077 == 0


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


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_nothing_is_left(tmp_path: Path, how: signal.Signals) -> None:
    home = Home.at(tmp_path / "home")
    with launched(home, subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        screen = screen_of(launcher.stdout.fileno())
        launcher.send_signal(how)
        launcher.stdout.read()  # to the end
    assert launcher.returncode == (-how if how == signal.SIGKILL else 0)
    until(lambda: not belonging_to(home))
    assert re.search(r"ready in \d+\.\d s", screen)
    assert "curl -H 'Authorization: Bearer eie_" in screen


def test_a_closed_terminal_ends_it_even_when_nobody_tells(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    window, terminal = os.openpty()
    with launched(home, terminal) as launcher:
        os.close(terminal)
        screen_of(window)
        os.close(window)  # no process has it as its controlling terminal: there is no SIGHUP
    assert launcher.returncode is not None
    until(lambda: not belonging_to(home))


def test_a_second_start_keeps_data_key_and_ports(tmp_path: Path) -> None:
    api_port = free_port()
    with running(tmp_path, api_port=api_port) as first:
        key, database = first.api_key, first.environment["DATABASE_URL"]
    with running(tmp_path, api_port=api_port) as second:
        assert second.api_key == key
        assert second.environment["DATABASE_URL"] == database
        assert probe.is_known(api_port, key)
        assert not probe.is_known(api_port, key + "x")
