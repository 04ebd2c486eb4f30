"""The home: private, locked by one, with secrets that stay."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from stack import credentials
from stack.errors import StackError
from stack.home import Home, default_path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A prepared home."""
    home = Home.at(tmp_path / "home")
    home.prepare()
    return home


def mode(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_in_it_is_private(home: Home) -> None:
    home.secret("postgres")
    credentials.write(home, "http://127.0.0.1:3000", "key")
    assert mode(home.path) == 0o700
    assert mode(home.path / "secrets.json") == 0o600
    assert mode(home.credentials) == 0o600


def test_a_secret_is_random_and_stays(home: Home, tmp_path: Path) -> None:
    assert home.secret("postgres") == Home(home.path).secret("postgres")
    assert home.secret("postgres") != home.secret("stream")
    other = Home.at(tmp_path / "other")
    other.prepare()
    assert home.secret("postgres") != other.secret("postgres")


def test_a_home_has_one_holder(home: Home) -> None:
    message = f"running here already .process {os.getpid()}"
    with home.lock(), pytest.raises(StackError, match=message), home.lock():
        pytest.fail("two held it")
    with home.lock():
        pass  # and it is free again


def test_metrics_of_an_earlier_start_are_gone(home: Home) -> None:
    (home.metrics / "counter_1.db").touch()
    home.prepare()
    assert list(home.metrics.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_home_of_another_user_is_refused(home: Home) -> None:
    os.chown(home.path, 65534, 65534)
    with pytest.raises(StackError, match="ENERGY_HOME=DIR"):
        home.prepare()


def test_a_folder_full_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(StackError, match=r"thesis\.txt"), Home.at(tmp_path).lock():
        pytest.fail("it was taken")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_environment_chooses_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENERGY_HOME", "/somewhere/else")
    assert default_path() == Path("/somewhere/else")
    monkeypatch.delenv("ENERGY_HOME")
    assert default_path().name == ".local"


def test_credentials_are_read_back(home: Home) -> None:
    assert credentials.read_key(home) is None
    credentials.write(home, "http://127.0.0.1:3000", "abc=def")
    assert credentials.read_key(home) == "abc=def"
    assert home.credentials.read_text() == "API_URL=http://127.0.0.1:3000\nAPI_KEY=abc=def\n"
