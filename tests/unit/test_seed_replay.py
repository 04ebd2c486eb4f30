"""A register from a file: read with its gaps, sent digit by digit, compared with the API."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from seed import replay
from seed.testing import FakeApi, Reply

OPSD = Path(__file__).parents[3] / "shared" / "data" / "opsd_ev_meter_60min.csv"
DAY = date(2026, 1, 10)
TABLE = """\
time,register,marked
2026-01-09T23:00:00Z,99.5,0
2026-01-10T00:00:00Z,100.000,0
2026-01-10T12:00:00+01:00,101.250,1
2026-01-10T12:00:00Z,,0
2026-01-10T18:00:00Z,103.5,0
2026-01-11T00:00:00Z,104.362,0
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return written(tmp_path, TABLE)


def written(folder: Path, text: str) -> Path:
    file = folder / "register.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_gaps_are_counted_and_not_sent(table: Path) -> None:
    register = replay.read(table, "register", "time")
    assert (register.rows, register.empty, register.skipped) == (6, 1, 0)
    sent = [json.loads(line) for line in register.lines('a"b')]
    assert sent[2] == {
        "meterId": 'a"b',
        "kwhConsumedAc": 101.25,
        "voltage": 230,
        "timestamp": "2026-01-10T11:00:00Z",
    }
    assert len(sent) == 5


def test_digits_are_sent_as_they_stand_in_the_file(table: Path) -> None:
    lines = list(replay.read(table, "register", "time").lines("m"))
    assert '"kwhConsumedAc":100.000,' in lines[1]


def test_marked_rows_are_sent_unless_told_otherwise(table: Path) -> None:
    register = replay.read(table, "register", "time", "marked")
    assert (len(register.values), register.empty, register.skipped) == (4, 1, 1)


def test_a_days_energy_lies_between_its_midnights(table: Path) -> None:
    register = replay.read(table, "register", "time")
    assert register.energy_on(DAY) == Decimal("4.362")
    assert register.readings_on(DAY) == 3


@pytest.mark.parametrize("day", [date(2026, 1, 9), date(2026, 1, 11)])
def test_without_a_reading_at_midnight_nobody_knows_the_days_energy(table: Path, day: date) -> None:
    assert replay.read(table, "register", "time").energy_on(day) is None


def test_a_register_that_falls_has_no_simple_difference(tmp_path: Path) -> None:
    falling = written(tmp_path, TABLE.replace("103.5", "3.5"))
    assert replay.read(falling, "register", "time").energy_on(DAY) is None


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("103.5", "many", "line 6: "),
        ("103.5", "NaN", "line 6: 'NaN' is no energy"),
        ("2026-01-10T18:00:00Z", "2026-01-10T18:00:00", "line 6: .* no offset"),
        ("2026-01-10T18:00:00Z", "yesterday", "line 6: "),
        ("time,register", "time,registre", "no column 'register'"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    with pytest.raises(replay.BadFileError, match=complaint):
        replay.read(written(tmp_path, TABLE.replace(old, new)), "register", "time")


@pytest.mark.skipif(not OPSD.is_file(), reason="the source file is not at hand")
def test_the_real_register_has_its_known_figures() -> None:
    register = replay.read(OPSD, "ev_kwh_cumulative", "utc_timestamp")
    assert (register.rows, len(register.values), register.empty) == (11_867, 11_462, 405)
    assert max(register.values.values()) - min(register.values.values()) == Decimal("1345.340")
    assert register.energy_on(date(2016, 2, 26)) == Decimal("14.362")
    marked = replay.read(OPSD, "ev_kwh_cumulative", "utc_timestamp", "ev_value_interpolated")
    assert marked.skipped == 370


def test_the_api_is_asked_until_its_answer_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "POLL_S", 0.01)
    script = (
        Reply(404, {"code": "not_found"}),
        FakeApi.HANG_UP,
        Reply(200, {"energyKwh": None, "samples": 0}),
        Reply(200, {"energyKwh": 4.362, "samples": 3}),
    )
    with FakeApi(*script) as api:
        said = replay.wait_for_energy(
            api.target, "a b/c", DAY, lambda said: said["samples"] == 3, patience_s=10
        )
    assert said["energyKwh"] == 4.362
    assert len(api.seen) == 4
    assert api.seen[0].path == (
        "/v1/meters/a%20b%2Fc/energy?from=2026-01-10T00%3A00%3A00Z&to=2026-01-11T00%3A00%3A00Z"
    )


def test_when_patience_ends_the_last_answer_counts() -> None:
    with FakeApi(Reply(200, {"energyKwh": 1.0})) as api:
        said = replay.wait_for_energy(api.target, "m", DAY, lambda _: False, patience_s=0)
    assert said == {"energyKwh": 1.0}


def test_when_patience_ends_without_an_answer_its_reason_is_said() -> None:
    with (
        FakeApi(Reply(404, {"code": "meter_unknown"})) as api,
        pytest.raises(replay.NoEnergyError, match="HTTP 404: meter_unknown"),
    ):
        replay.wait_for_energy(api.target, "m", DAY, lambda _: True, patience_s=0)
