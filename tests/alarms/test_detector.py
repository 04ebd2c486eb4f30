"""A small run of the benchmark with a fixed seed: orders of magnitude, no promises."""

from __future__ import annotations

import pytest

from bench import detector
from workers.alarms import rules

pytestmark = pytest.mark.slow


def test_a_healthy_fleet_is_left_in_peace() -> None:
    rates = detector.false_alarms(24, 730)  # 48 vehicle-years
    assert rates[rules.LOW] < 1.5
    assert rates[rules.DROP] < 1.0
    assert rates[rules.SHIFT] < 0.05
    assert not [rule for rule in (rules.IDLE, rules.EXCEEDS, rules.AC_ONLY) if rates[rule]]


@pytest.mark.parametrize(
    ("fault", "rule", "median_days"),
    [
        ("5 pt lost", rules.SHIFT, 7),
        ("3 pt lost", rules.SHIFT, 14),
        ("drift 0.04 pt/day", rules.SHIFT, 90),
        ("standby 150 W", rules.IDLE, 3),
        ("DC above AC", rules.EXCEEDS, 3),
    ],
)
def test_a_fault_is_found(fault: str, rule: str, median_days: float) -> None:
    found = detector.detection(fault, 8)
    assert found.by_rule[rule] == 8
    assert found.median_days is not None
    assert found.median_days <= median_days


def test_the_benchmark_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--vehicles", "2", "--days", "60", "--faulty", "1", "--processes", "1"]
    assert detector.main(small) == 0
    printed = capsys.readouterr().out
    assert all(rule in printed for rule in rules.EVALUATED_RULES)
    assert all(fault in printed for fault in detector.FAULTS)
