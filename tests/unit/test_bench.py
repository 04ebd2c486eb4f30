"""The benchmark's own arithmetic. How fast anything is, no test says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from bench import report
from bench.crew import Done, span
from bench.figures import Rounds, number, percentile, spread, table
from bench.load import Posts, Target
from bench.readings import DEVICES, Fleet
from bench.usage import Memory, difference

FLEET = Fleet(datetime(2026, 1, 10, tzinfo=UTC))


def body_of(request: bytes) -> object:
    return json.loads(request.partition(b"\r\n\r\n")[2])


def test_a_percentile_is_a_value_that_was_measured() -> None:
    hundred = [float(n) for n in range(1, 101)]

    assert [percentile(hundred, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([7.0], 0.99) == 7.0


def test_a_ratio_compares_each_round_with_itself() -> None:
    rounds = Rounds()
    for value, floor in ((10.0, 100.0), (40.0, 200.0), (90.0, 300.0)):
        rounds.add({"value": value, "floor": floor})

    assert rounds.median("value") == 40.0
    assert rounds.ratio("value", "floor") == pytest.approx(0.2)  # the median of 0.1, 0.2 and 0.3


def test_what_was_not_measured_is_unknown() -> None:
    rounds = Rounds()
    rounds.add({"value": 1.0, "floor": 0.0})

    assert rounds.median("other") is None
    assert rounds.ratio("value", "other") is None
    assert rounds.ratio("value", "floor") is None


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1_234_567.0, "1,230,000"),
        (12_345.0, "12,300"),
        (123.4, "123"),
        (12.34, "12.3"),
        (2.0, "2.00"),
        (0.01234, "0.0123"),
        (None, "-"),
    ],
)
def test_numbers_have_three_digits(value: float | None, written: str) -> None:
    assert number(value) == written


def test_a_table_is_markdown_with_numbers_to_the_right() -> None:
    written = table(["Name", "per second"], [["short", "1"], ["a longer one", "22,000"]])

    assert written.splitlines() == [
        "| Name         | per second |",
        "| ------------ | ---------: |",
        "| short        |          1 |",
        "| a longer one |     22,000 |",
    ]


def test_a_report_shows_what_was_measured_and_nothing_else() -> None:
    rounds = Rounds()
    for accepted in (100.0, 300.0, 200.0):
        rounds.add({"single.accepted": accepted, "healthz": 400.0})
        rounds.add({"busy.single": 12.0, "us.single": 21.5})

    told = report.render(rounds, {"web": Memory(processes=3, largest=50.0, together=90.0)})

    assert "POST, accepted (202)" in told
    assert "100 - 300" in told
    assert "/healthz 0.500" in told
    assert "queue taken out" not in told
    assert "COPY" not in told
    assert "single 12 % (21.5 µs)" in told


def test_the_samples_of_all_rounds_are_one_figure() -> None:
    rounds = Rounds()
    rounds.add({"latency": [0.1, 0.3]})
    rounds.add({"latency": [0.2]})

    assert rounds.values("latency") == [0.1, 0.3, 0.2]
    assert rounds.percentile("latency", 0.99) == 0.3
    assert rounds.percentile("other", 0.99) is None


def test_latencies_are_told_in_milliseconds() -> None:
    rounds = Rounds()
    rounds.add({"latency.offered": [0.010, 0.020, 0.400], "offered.offered": 10_000.0})
    rounds.add({"rows": 28_800_000, "performance": 900.0, "healthz": 1_200.0})
    for slowest in (0.009, 0.300, 0.008):  # one round had to wait for the machine
        rounds.add({"performance.half": [0.001, 0.001, slowest], "performance.late": [0.0001]})
        rounds.add({"performance.quarter": [0.0006, 0.002], "performance.floor": [0.0005, 0.004]})

    told = [
        [cell.strip() for cell in line.split("|")]
        for line in report.render(rounds, {}).splitlines()
    ]

    batches = ["", "202 to latest, batches of 500", "10,000", "20.0", "400", "3", ""]
    assert batches in told
    after = [
        "after the rounds",
        "28,800,000",
        "900",
        "0.750",
        "1.00",
        "9.00",
        "0.100",
        "0.600",
        "2.00",
        "0.500",
        "4.00",
        "300",
    ]
    assert ["", *after, ""] in told


def test_a_backlog_is_told_with_what_it_took() -> None:
    rounds = Rounds()
    rounds.add({"backlog.seconds": 21.5, "backlog.start": 1.5, "backlog.drained": 100_000.0})
    rounds.add({"backlog.copy": 200_000.0, "backlog.stream": 250.0, "backlog.limit": 536.9})
    rounds.add({"backlog.rss.web": 150.0})

    told = report.render(rounds, {})

    assert "bare COPY 0.500" in told
    assert "drained 21.5 s after the flush was told to start" in told
    assert "250 of its 537 MB" in told
    assert "MB: web 150" in told


def test_a_rollup_is_told_with_its_fleet_and_its_plan() -> None:
    rounds = Rounds()
    rounds.add({"rollup.vehicles": 2_000, "rollup.tick": 1.5, "rollup.grouped": 3.0})
    rounds.add({"rollup.cold": 6.0, "rollup.workers": 0, "rollup.ticks": 2})

    told = report.render(rounds, {})

    assert "2,000 vehicles charging three hours a day" in told
    assert "GROUP BY 0.500" in told
    assert "GROUP BY 2.00" in told
    assert "The GROUP BY was not parallel; calls of the tick until all was done: 2." in told
    assert "day and night" not in told


def test_the_spread_of_nothing_is_a_dash() -> None:
    assert spread([3.0, 1.0, 2.0]) == "1.00 - 3.00"
    assert spread([]) == "-"


def test_a_span_reaches_from_the_first_beginning_to_the_last_end() -> None:
    both = span([Done(10.0, 12.0, 1.0), Done(10.5, 14.5, 3.0)])

    assert both.seconds == 4.5
    assert both.busy_percent == 75.0


def test_cpu_time_of_a_program_that_was_restarted_is_not_negative() -> None:
    assert difference({"web": 5.0, "beat": 9.0}, {"web": 7.5, "beat": 1.0, "new": 2.0}) == {
        "web": 2.5,
        "beat": 0.0,
        "new": 2.0,
    }


def test_no_two_readings_share_device_and_timestamp() -> None:
    readings = [json.loads(one) for one in FLEET.objects("meter", range(3 * DEVICES))]

    assert len({(one["meterId"], one["timestamp"]) for one in readings}) == 3 * DEVICES
    assert readings[0]["timestamp"] == "2026-01-10T00:00:00Z"
    assert readings[-1]["timestamp"] == "2026-01-10T00:02:00Z"


def test_requests_take_turns_and_share_no_reading() -> None:
    posts = Posts(Target(1, "key"), FLEET, range(4), 3, 10, connections=1)

    sent = [posts.request(n) for n in posts.requests]

    assert [one.split(b" ")[1] for one in sent] == [b"/ingestion/meter", b"/ingestion/vehicle"] * 2
    meters = [body_of(sent[0]), body_of(sent[2])]
    assert [[r["meterId"] for r in batch] for batch in meters] == [  # type: ignore[attr-defined]
        ["meter-0010", "meter-0011", "meter-0012"],
        ["meter-0013", "meter-0014", "meter-0015"],
    ]


def test_a_single_reading_is_posted_as_an_object() -> None:
    posts = Posts(Target(1, "key"), FLEET, range(2), 1, 0, connections=1)

    assert body_of(posts.request(1)) == json.loads(FLEET.objects("vehicle", range(1))[0])


def test_registers_never_fall_from_one_fleet_to_the_next() -> None:
    later = Fleet(FLEET.begin + timedelta(days=5), timedelta(hours=4), timedelta(days=5))
    numbers = range(0, 2 * DEVICES, DEVICES)  # two steps of the first device

    sent = [json.loads(one) for fleet in (FLEET, later) for one in fleet.objects("meter", numbers)]

    assert [one["kwhConsumedAc"] for one in sent] == [1000.0, 1000.12, 1864.0, 1892.8]


def test_a_fleet_may_report_at_any_interval() -> None:
    slow = Fleet(FLEET.begin, timedelta(hours=4))

    assert slow.instant(6) == FLEET.begin + timedelta(days=1)
    assert slow.micros(1) - slow.micros(0) == 4 * 3_600_000_000
