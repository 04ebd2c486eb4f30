"""The commands of `python -m seed`, as an operator sees them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import seed.__main__ as commands
from seed import report
from seed.faults import FAULTS
from seed.testing import FakeApi, Reply

TABLE = """\
time,register
2026-01-10T00:00:00Z,100.000
2026-01-10T12:00:00Z,
2026-01-11T00:00:00Z,104.362
"""
FLEET = ["fleet", "--vehicles", "4", "--hours", "2", "--end", "2026-01-10T10:00:00Z"]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tables that don't wrap, and a folder and environment without credentials."""
    monkeypatch.setattr(report, "console", Console(width=200))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("API_URL", raising=False)
    monkeypatch.delenv("API_KEY", raising=False)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as running:
        yield running


def run(api: FakeApi | None, *arguments: str) -> Result:
    env = {"API_URL": api.target.url, "API_KEY": "key"} if api else {}
    return CliRunner().invoke(commands.main, list(arguments), env=env)


def test_a_fleet_is_sent_and_summed_up(api: FakeApi) -> None:
    result = run(api, *FLEET, "--faults", "degraded=1,silent=1")
    assert result.exit_code == 0, result.output
    assert len(api.accepted("/ingestion/meter")) == 4 * 120
    # The silent one stops after a quarter of the two hours.
    assert len(api.accepted("/ingestion/vehicle")) == 3 * 120 + 30
    assert "accepted" in result.output
    assert "degraded" in result.output
    assert "silent" in result.output


def test_credentials_are_found_where_make_run_left_them(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local" / "credentials.env").write_text(
        f"API_URL={api.target.url}\nAPI_KEY=left-there\n", encoding="utf-8"
    )
    assert run(None, *FLEET).exit_code == 0
    assert {seen.headers["authorization"] for seen in api.posts()} == {"Bearer left-there"}


def test_without_credentials_the_way_to_get_them_is_said() -> None:
    result = run(None, *FLEET)
    assert result.exit_code == 1
    assert "make run" in result.output


def test_without_an_api_its_address_is_said() -> None:
    with FakeApi() as gone:
        pass
    result = run(gone, *FLEET)
    assert result.exit_code == 1
    assert f"no API answers at {gone.target.url}" in result.output


def test_planted_invalid_readings_are_expected_to_be_refused() -> None:
    rejected = [{"index": 0, "code": "out_of_range"}] * 5
    with FakeApi(Reply(202, {"accepted": 475, "rejected": rejected})) as api:
        result = run(api, *FLEET, "--faults", "invalid=5")
    assert result.exit_code == 0, result.output
    assert "rejected: out_of_range" in result.output
    assert "Planted 5 invalid readings; 5 were refused." in result.output


def test_other_refusals_are_a_failure() -> None:
    with FakeApi(Reply(202, {"accepted": 0, "rejected": [{"index": 0, "code": "x"}]})) as api:
        result = run(api, *FLEET, "--faults", "none")
    assert result.exit_code == 1
    assert "differ" in result.output


def test_an_impossible_mix_is_a_usage_error(api: FakeApi) -> None:
    result = run(api, *FLEET, "--faults", "rust=1")
    assert result.exit_code == 2
    assert "unknown fault 'rust'" in result.output


@pytest.mark.parametrize("end", ["2026-01-10T10:00:00", "tomorrow"])
def test_the_end_of_the_window_needs_an_offset(api: FakeApi, end: str) -> None:
    assert run(api, "fleet", "--end", end).exit_code == 2


def test_a_dry_run_sends_nothing() -> None:
    result = run(None, *FLEET, "--dry-run", "--faults", "none")
    assert result.exit_code == 0, result.output
    assert "960 readings in" in result.output


def test_all_faults_are_listed() -> None:
    result = run(None, "faults")
    assert all(name in result.output for name in FAULTS)


def replay(api: FakeApi, folder: Path, *more: str) -> Result:
    file = folder / "register.csv"
    file.write_text(TABLE, encoding="utf-8")
    options = ["--meter-id", "m", "--column", "register", "--time-column", "time"]
    return run(api, "replay", str(file), *options, *more)


def test_a_replayed_day_is_shown_beside_the_files(tmp_path: Path) -> None:
    accepted = Reply(202, {"accepted": 2, "rejected": []})
    with FakeApi(
        accepted, Reply(200, {"energyKwh": 4.362, "samples": 2, "events": {"DIP": 2, "RESET": 1}})
    ) as api:
        result = replay(api, tmp_path, "--day", "2026-01-10")
    assert result.exit_code == 0, result.output
    assert "3 rows: 2 readings, 1 without a value" in result.output
    assert result.output.count("4.362") == 2
    assert re.search(r"API: samples\W+2\b", result.output)
    assert re.search(r"API: events\W+3\b", result.output)


def test_a_day_on_which_api_and_file_differ_is_a_failure(tmp_path: Path) -> None:
    accepted = Reply(202, {"accepted": 2, "rejected": []})
    with FakeApi(accepted, *[Reply(200, {"energyKwh": 4.3})] * 9) as api:
        result = replay(api, tmp_path, "--day", "2026-01-10", "--patience", "0.01")
    assert result.exit_code == 1
    assert "not the file's" in result.output


def test_a_day_without_midnight_readings_is_shown_as_unknown(tmp_path: Path) -> None:
    accepted = Reply(202, {"accepted": 2, "rejected": []})
    with FakeApi(accepted, Reply(200, {"energyKwh": None, "samples": 1})) as api:
        result = replay(api, tmp_path, "--day", "2026-01-11")
    assert result.exit_code == 0, result.output
    assert "unknown: no reading at midnight" in result.output


def test_live_catches_up_then_sends_the_present_until_interrupted(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([datetime.now(UTC).replace(microsecond=0)] * 4)

    def now_until_interrupted() -> datetime:
        try:
            return next(times)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(commands, "now", now_until_interrupted)
    monkeypatch.setattr(commands, "LIVE_TICK_S", 0.1)
    speed = ["--hours", "1", "--speed", "1000000"]
    result = run(api, "live", "--vehicles", "2", "--faults", "none", *speed)
    assert result.exit_code == 0, result.output
    moments = [one["timestamp"] for one in api.accepted("/ingestion/meter")]
    assert 2 * 55 <= len(moments) <= 2 * 61
    present = datetime.now(UTC)
    assert all(present - timedelta(hours=1, minutes=1) < at(one) <= present for one in moments)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)
