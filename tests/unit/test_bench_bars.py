"""The bars: which figure is held against which target. No test says that one is met."""

from __future__ import annotations

import pytest

from bench import bars
from bench.bars import BARS, Bar
from bench.figures import Rounds


def lines(rounds: Rounds, cores: int = 4) -> dict[str, list[str]]:
    """The cells behind each bar's name."""
    told = bars.render(rounds, cores).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in told]
    return {first: others for first, *others in cells}


def test_a_p99_at_half_load_is_the_median_of_the_rounds() -> None:
    rounds = Rounds()
    for slowest in (0.009, 0.300, 0.008, 0.0095, 0.007):
        rounds.add({"performance.half": [0.001] * 50 + [slowest], "rows": 28_800_000})
    assert lines(rounds)["GET performance at half load: p99"][-2:] == ["9.00 ms", "met"]


def test_an_absolute_bar_is_lower_on_fewer_cores_and_no_higher_on_more() -> None:
    bar = Bar("accepted", lambda _: None, 10_000, absolute=True)

    assert [bar.wanted(cores) for cores in (1, 2, 4, 64)] == [2_500, 5_000, 10_000, 10_000]
    assert bar.is_met(5_000.0, 2)
    assert not bar.is_met(4_999.0, 2)
    assert not bar.is_met(5_000.0, 4)


def test_a_ratio_is_the_same_on_any_machine() -> None:
    bar = Bar("ratio", lambda _: None, 0.25, at_least=False)

    assert bar.wanted(1) == bar.wanted(64) == 0.25
    assert bar.is_met(0.25, 2)
    assert not bar.is_met(0.26, 2)


def test_what_was_not_measured_has_no_line() -> None:
    assert bars.render(Rounds()) == ""


def test_each_line_tells_target_figure_and_verdict() -> None:
    rounds = Rounds()
    rounds.add({"single.accepted": 4_400.0, "door.single": 10_000.0, "single.arrived": 3_100.0})

    told = lines(rounds, cores=2)

    assert told["single POSTs accepted, of the queue taken out"] == [
        *("at least 0.6", "at least 0.6", "0.440", "NOT met")
    ]
    assert told["single POSTs accepted/s"] == [
        *("at least 10,000", "at least 5,000", "4,400", "NOT met")
    ]
    assert told["single POSTs in history/s while they come"][-1] == "met"


def test_a_run_too_small_for_a_bar_says_so() -> None:
    rounds = Rounds()
    rounds.add({"healthz": 100.0, "performance": 60.0, "rows": 5_760_000})

    assert (
        lines(rounds)["GET performance, of /healthz"][-1]
        == "met (with 5,760,000 rows, not 28,800,000)"
    )

    rounds.add({"reads.healthz": 100.0, "reads.performance": 40.0, "reads.rows": 28_820_000})

    assert lines(rounds)["GET performance, of /healthz"][-2:] == ["0.400", "NOT met"]


def test_a_small_backlog_says_so() -> None:
    rounds = Rounds()
    rounds.add({"backlog.drained": 80.0, "backlog.copy": 100.0, "backlog.readings": 100_000})

    assert lines(rounds)["backlog drained, of bare COPY"][-1] == "met (100,000 readings, not 2 M)"

    rounds.clear()
    rounds.add({"backlog.drained": 60.0, "backlog.copy": 100.0, "backlog.readings": 2_000_000})

    assert lines(rounds)["backlog drained, of bare COPY"][-2:] == ["0.600", "NOT met"]


def test_reads_after_more_history_are_held_against_healthz_of_their_own_time() -> None:
    rounds = Rounds()
    for name, performance, healthz in (("few", 500.0, 1_000.0), ("many", 240.0, 500.0)):
        rounds.add({f"history.{name}.performance": performance, f"history.{name}.healthz": healthz})

    assert lines(rounds)["GET performance after 10 times the history, of before"][-2:] == [
        *("0.960", "met")
    ]


def test_a_tick_after_more_history_is_held_against_the_group_by_of_its_own_time() -> None:
    rounds = Rounds()
    for name, tick, grouped in (("few", 0.2, 1.0), ("many", 0.36, 1.5)):  # a slower hour
        rounds.add({f"history.{name}.tick": tick, f"history.{name}.grouped": grouped})

    assert lines(rounds)["a tick after 10 times the history, of before"][-2:] == ["1.20", "NOT met"]


def test_the_larger_kind_counts_and_milliseconds_are_of_all_samples() -> None:
    rounds = Rounds()
    rounds.add({"bytes.meter": 96.0, "bytes.vehicle": 104.0})
    rounds.add({"latency.offered": [0.05] * 97 + [0.7] * 3})

    told = lines(rounds)

    assert told["bytes per reading in history"][-2:] == ["104", "NOT met"]
    assert told["202 to latest, 10,000/s offered: p50"][-2:] == ["50.0 ms", "met"]
    assert told["202 to latest, 10,000/s offered: p99"][-2:] == ["700 ms", "NOT met"]


def test_every_bar_has_a_name_of_its_own() -> None:
    assert len({bar.what for bar in BARS}) == len(BARS)


@pytest.mark.parametrize("bar", BARS, ids=lambda bar: bar.what)
def test_no_bar_is_judged_by_nothing(bar: Bar) -> None:
    assert bar.found(Rounds()) is None
