"""The Makefile: its menu and its choice of a Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stack.home import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
PHONY = next(line for line in MAKEFILE.splitlines() if line.startswith(".PHONY:")).split()[1:]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run make in the checkout as from a plain shell: without what a make around us exported."""
    environment = {"PATH": path or os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],  # noqa: S607  (a test may look on the PATH)
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_menu_is_what_make_alone_shows() -> None:
    assert make().stdout == make("help").stdout


@pytest.mark.parametrize("target", PHONY)
def test_the_menu_lists_every_target(target: str) -> None:
    assert re.search(rf"^  make {target} +\S", make("help").stdout, re.MULTILINE)


def test_every_target_is_declared() -> None:
    assert re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE) == sorted(
        PHONY, key=lambda name: MAKEFILE.index(f"\n{name}:")
    )


def _fake(folder: Path, name: str, body: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


def test_the_first_python_that_works_is_taken(tmp_path: Path) -> None:
    _fake(tmp_path, "python3.13", "echo 'version not installed' >&2; exit 127")
    _fake(tmp_path, "python3.12", "exit 1")
    _fake(tmp_path, "python3.11", f'exec "{sys.executable}" "$@"')
    shown = make("--dry-run", "status", path=f"{tmp_path}:{os.defpath}").stdout
    assert "python3.11 stack/bootstrap.py stack status" in shown


def test_without_a_python_the_reason_is_said(tmp_path: Path) -> None:
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        _fake(tmp_path, name, "exit 1")
    done = make("--dry-run", "status", path=f"{tmp_path}:{os.defpath}")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr


def test_extra_arguments_reach_pytest() -> None:
    assert "term:skip-covered -k flush" in make("--dry-run", "test", "ARGS=-k flush").stdout
