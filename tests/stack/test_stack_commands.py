"""python -m stack: one clear message when it cannot go on, and nothing left running."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from stack import launcher, orphans
from stack.__main__ import main
from stack.home import ROOT, Home
from stack.ports import free_port


@pytest.fixture(autouse=True)
def ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free ones, so that a running `make run` is no matter."""
    monkeypatch.setenv("API_PORT", str(free_port()))
    monkeypatch.setenv("FLOWER_PORT", str(free_port()))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Not there yet."""
    return Home.at(tmp_path / "home")


def stack(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as the Makefile does."""
    command = [sys.executable, "-m", "stack", *arguments]
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("variable", ["API_PORT", "FLOWER_PORT"])
def test_a_taken_port_ends_the_start(
    home: Home, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv(variable, str(port))
        done = stack("run", "--home", str(home.path))
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"Port {port} (")
    assert variable in line
    assert not home.supervisor_config.exists()


def test_a_second_start_says_that_one_is_running(home: Home) -> None:
    with home.lock():
        done = stack("run", "--home", str(home.path))
    assert done.returncode == 1
    assert done.stderr.strip().startswith("`make run` is running here already (process ")


def test_a_given_server_that_is_not_there_is_named(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "GIVEN_SECONDS", 0.5)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://nobody@127.0.0.1:{free_port()}/nothing")
    assert main(["run", "--home", str(home.path)]) == 1
    assert not home.postgres.exists()  # that server is not ours to start
    assert [p for p in psutil.process_iter() if orphans._mark_of(p) == str(home.path)] == []


def test_status_of_nothing(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--home", str(home.path)]) == 1
    assert "Start with `make run`" in capsys.readouterr().out


def test_clean_asks_first(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.prepare()
    home.secret("postgres")
    monkeypatch.setattr("builtins.input", lambda prompt: "no")
    assert main(["clean", "--home", str(home.path)]) == 1
    assert home.path.exists()
    monkeypatch.setattr("builtins.input", lambda prompt: "yes")
    assert main(["clean", "--home", str(home.path)]) == 0
    assert not home.path.exists()
    assert main(["clean", "--home", str(home.path), "--yes"]) == 0


def test_clean_leaves_what_is_not_its_own(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with home.lock():
        home.prepare()
        (home.path / "thesis.txt").touch()
    assert main(["clean", "--home", str(home.path), "--yes"]) == 0
    assert [path.name for path in home.path.iterdir()] == ["thesis.txt"]
    assert "thesis.txt" in capsys.readouterr().out


def test_clean_leaves_a_running_stack_alone(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with home.lock():
        assert main(["clean", "--yes", "--home", str(home.path)]) == 1
    assert "running here already" in capsys.readouterr().err
    assert home.path.exists()


def test_clean_without_a_terminal_deletes_nothing(home: Home) -> None:
    home.prepare()
    done = stack("clean", "--home", str(home.path))
    assert done.returncode == 1
    assert "Nothing was deleted" in done.stdout
    assert home.path.exists()
