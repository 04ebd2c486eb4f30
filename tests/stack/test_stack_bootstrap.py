"""The first thing that runs on a new machine: it must be right without any library."""

from __future__ import annotations

import ast
import fcntl
import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from stack import bootstrap
from stack.bootstrap import CannotStartError
from stack.home import ROOT


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An empty virtual environment of this Python, without pip: made in no time."""
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    return folder


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with both requirement files and nothing in them."""
    for name in (bootstrap.RUN, bootstrap.DEV):
        (tmp_path / name).write_text(f"# {name}\n")
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize("version", [(3, 8), (3, 10)])
def test_an_old_python_is_told_what_is_needed(version: tuple[int, int]) -> None:
    with pytest.raises(CannotStartError, match=rf"Python 3\.{version[1]}; 3\.11 or newer"):
        bootstrap.require_version(version)


@pytest.mark.parametrize("version", [(3, 11), (3, 13), (4, 0)])
def test_newer_pythons_are_welcome(version: tuple[int, int]) -> None:
    bootstrap.require_version(version)


def test_an_old_python_gets_as_far_as_the_message() -> None:
    source = (ROOT / "stack" / "bootstrap.py").read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {
        name.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert imported <= sys.stdlib_module_names


def test_a_working_environment_is_kept(environment: Path) -> None:
    assert bootstrap.unfit(environment) == ""


def _nothing(_: Path) -> None:
    """Leave it as it is."""


def _without_interpreter(folder: Path) -> None:
    bootstrap.python_of(folder).unlink()


def _with_vanished_interpreter(folder: Path) -> None:
    python = bootstrap.python_of(folder)
    python.unlink()
    python.symlink_to("/nowhere/python3")


def _with_another_version(folder: Path) -> None:
    python = bootstrap.python_of(folder)
    python.unlink()
    python.write_text("#!/bin/sh\necho 3.99\n")
    python.chmod(0o755)


def _without_configuration(folder: Path) -> None:
    (folder / "pyvenv.cfg").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_without_interpreter, "does not run"),
        (_with_vanished_interpreter, "does not run"),
        (_with_another_version, "is for Python 3.99"),
        (_without_configuration, "incomplete"),
    ],
)
def test_a_damaged_environment_is_made_anew(
    environment: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(environment)
    assert reason in bootstrap.unfit(environment)
    bootstrap.remove(environment)
    assert "none yet" in bootstrap.unfit(environment)


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path, environment: Path) -> None:
    (environment / "pyvenv.cfg").unlink()
    link, circle = tmp_path / "link", tmp_path / "circle"
    link.symlink_to(environment)
    circle.symlink_to(circle)
    for folder in (link, circle):
        assert bootstrap.unfit(folder) != ""
        bootstrap.remove(folder)
        assert not folder.is_symlink()
    assert environment.exists()


def test_an_environment_in_use_is_not_deleted(environment: Path) -> None:
    with (environment / "pyvenv.cfg").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(CannotStartError, match="a running program uses it"):
            bootstrap.remove(environment)
    assert environment.exists()


def test_holding_an_environment_outlives_exec(environment: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from stack import bootstrap\n"
        "bootstrap.hold(Path(sys.argv[1]))\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'print(flush=True); input()'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(environment)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(CannotStartError):
            bootstrap.remove(environment)
        holder.communicate(b"\n")
    bootstrap.remove(environment)
    assert not environment.exists()


def test_only_a_complete_installation_is_stamped(
    checkout: Path, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "find_uv", lambda: None)
    bootstrap.install(environment, bootstrap.RUN)  # nothing listed: pip has nothing to fetch
    assert bootstrap.is_current(environment, bootstrap.RUN)
    assert not bootstrap.is_current(environment, bootstrap.DEV)

    (checkout / bootstrap.RUN).write_text("no-such-distribution @ file:///nowhere\n")
    assert not bootstrap.is_current(environment, bootstrap.RUN)
    with pytest.raises(CannotStartError, match="could not be installed"):
        bootstrap.install(environment, bootstrap.RUN)
    assert not bootstrap.stamp_of(environment, bootstrap.RUN).exists()


def test_the_larger_environment_serves_for_the_smaller(
    checkout: Path, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "run", lambda command, quiet=False: True)
    bootstrap.install(environment, bootstrap.DEV)
    assert bootstrap.is_current(environment, bootstrap.DEV)
    assert bootstrap.is_current(environment, bootstrap.RUN)


def test_the_larger_requirements_hold_the_smaller() -> None:
    pin = re.compile(r"^([\w.\[\],-]+==[^ ;\\]+)", re.MULTILINE)
    run, dev = (set(pin.findall((ROOT / name).read_text())) for name in bootstrap._ALSO)
    assert run
    assert run <= dev


def test_missing_pip_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "find_uv", lambda: None)
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CannotStartError, match=r"apt install python3\.\d+-venv"):
        bootstrap.create(tmp_path / "venv")


def test_a_name_without_a_program_is_not_uv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = tmp_path / "uv"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert bootstrap.find_uv() is None
