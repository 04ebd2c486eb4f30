"""The benchmark's command line."""

from __future__ import annotations

import pytest

from bench.options import MEASUREMENTS, parse


def test_a_run_measures_everything_but_what_must_be_asked_for() -> None:
    options = parse([])

    assert set(MEASUREMENTS) - options.only == {"rollup-charging"}
    assert (options.rounds, options.sizes.vehicles, options.connections) == (5, 2_000, 64)


def test_only_names_what_is_measured() -> None:
    options = parse(["--only", "single", "--only", "rollup-charging", "--rounds", "2"])

    assert [name for name in MEASUREMENTS if options.wants(name)] == ["single", "rollup-charging"]
    assert options.rounds == 2


def test_sizes_grow_with_what_is_asked() -> None:
    assert parse(["--full"]).sizes.vehicles == 10_000
    assert parse(["--full", "--vehicles", "500"]).sizes.vehicles == 500
    assert parse(["--quick"]).seconds("batch") == 1.0
    assert parse([]).seconds("batch") == 5.0


@pytest.mark.parametrize(
    "wrong", [["--only", "all"], ["--quick", "--full"], ["--connections", "7"]]
)
def test_what_makes_no_sense_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(wrong)
