"""`make env`: what it writes, what it never touches, what it never shows."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import settings
from stack import env

EXAMPLE = "# why\nPASSWORD_A=\n\nPASSWORD_B=\n#OPTION=7\nNAME=given\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".env.example").write_text(EXAMPLE)
    return tmp_path


def test_writes_every_secret_for_the_owner_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    previous = os.umask(0)  # a careless umask must not matter
    try:
        assert env.main(folder) == 0
    finally:
        os.umask(previous)
    dotenv = folder / ".env"
    values = env.assignments(dotenv.read_text())
    assert dotenv.stat().st_mode & 0o777 == 0o600
    assert values["NAME"] == "given"
    assert "OPTION" not in values
    assert "# why" in dotenv.read_text()
    assert values["PASSWORD_A"] != values["PASSWORD_B"]
    said = capsys.readouterr().out
    assert "PASSWORD_A, PASSWORD_B" in said
    for name in ("PASSWORD_A", "PASSWORD_B"):
        assert re.fullmatch(r"[\w-]{40,}", values[name])
        assert values[name] not in said
    assert sorted(path.name for path in folder.iterdir()) == [".env", ".env.example"]


def test_a_second_run_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env.main(folder)
    before = (folder / ".env").read_bytes()
    env.main(folder)
    assert (folder / ".env").read_bytes() == before
    assert "nothing was changed" in capsys.readouterr().out


def test_adds_what_is_missing_and_keeps_the_rest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = "# mine\nexport PASSWORD_A='kept'\nOTHER=x y # z"
    (folder / ".env").write_text(mine)
    env.main(folder)
    after = (folder / ".env").read_text()
    assert after.startswith(mine + "\nPASSWORD_B=")
    said = capsys.readouterr().out
    assert "Added to .env: PASSWORD_B." in said
    assert "keeps the password" in said


@pytest.mark.parametrize("empty", ["", '""', "''"])
def test_an_empty_secret_is_a_missing_one_and_is_filled_in_its_place(
    folder: Path, empty: str
) -> None:
    (folder / ".env").write_text(f"PASSWORD_A={empty}\nPASSWORD_B=b\n")
    env.main(folder)
    first, second = (folder / ".env").read_text().splitlines()
    assert re.fullmatch(r"PASSWORD_A=[\w-]{40,}", first)
    assert second == "PASSWORD_B=b"


def test_closes_a_file_that_others_could_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dotenv = folder / ".env"
    dotenv.write_text("PASSWORD_A=a\nPASSWORD_B=b\n")
    dotenv.chmod(0o644)
    env.main(folder)
    assert dotenv.stat().st_mode & 0o777 == 0o600
    assert "0600" in capsys.readouterr().out


def test_says_what_is_wrong_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert env.main(tmp_path) == 1
    assert ".env.example" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_runs_before_anything_is_installed() -> None:
    """As a script, isolated from every installed package."""
    script = Path(env.__file__)
    probe = f"import runpy; runpy.run_path({str(script)!r}, run_name='env')"
    subprocess.run([sys.executable, "-I", "-S", "-c", probe], check=True)


def test_the_example_shows_the_defaults_that_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "STREAM_URL", "CELERY_BROKER_URL"):
        monkeypatch.setenv(name, "x")
    settings.load.cache_clear()
    shown = re.findall(r"^#([A-Z_]+)=(.*)$", (env.ROOT / ".env.example").read_text(), re.M)
    without = {"LOG_FORMAT", "CURRENCY", "TARIFF_PER_KWH", "GRID_FACTOR_KG_PER_KWH"}  # examples
    names = {field.name.upper() for field in dataclasses.fields(settings.Settings)}
    compared = [(name, value) for name, value in shown if name in names - without]
    assert len(compared) > 5
    for name, value in compared:
        assert float(value) == getattr(settings.load(), name.lower()), name
