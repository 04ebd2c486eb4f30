"""What every process sets up for itself: its database URL and its log."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

import settings
from models.engine import normalise_url
from workers import logs


@pytest.mark.parametrize(
    "url",
    [
        "postgres://user:pass@host:5432/energy",
        "postgresql://user:pass@host:5432/energy",
        "postgresql+psycopg://user:pass@host:5432/energy",
    ],
)
def test_any_spelling_of_a_postgres_url_means_psycopg(url: str) -> None:
    assert normalise_url(url) == "postgresql+psycopg://user:pass@host:5432/energy"


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment of a process that sets up its log; undone at the end."""
    for name in ("DATABASE_URL", "STREAM_URL", "CELERY_BROKER_URL"):
        monkeypatch.setenv(name, "nowhere")
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    quiet = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    yield monkeypatch
    root.handlers = handlers
    root.setLevel(level)
    for name, before in quiet.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


def test_logs_for_machines_are_one_json_object_a_line(
    logged: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logged.setenv("LOG_FORMAT", "json")
    settings.load.cache_clear()
    logs.configure()
    structlog.get_logger("workers.flush").warning("readings set aside", dead=1)
    logging.getLogger("elsewhere").error("plain %s", "logging")
    ours, theirs = map(json.loads, capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["dead"], ours["level"]) == ("readings set aside", 1, "warning")
    assert (theirs["event"], theirs["logger"]) == ("plain logging", "elsewhere")
    assert ours["timestamp"].endswith("Z")


def test_logs_for_people_are_lines(
    logged: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure()
    structlog.get_logger("workers.flush").info("partitions kept", created=2)
    line = capsys.readouterr().err
    assert "partitions kept" in line
    assert "created=2" in line
    assert "\x1b" not in line
