"""The benchmark's own arithmetic. How fast anything is, no test says."""

from __future__ import annotations

import json
import socket
import struct
from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest

from bench import Broken, report
from bench.copying import rows
from bench.crew import Done, span
from bench.figures import Rounds, number, percentile, spread, table
from bench.load import Posts, Target, drive, is_whole, receive, shares
from bench.readings import DEVICES, Fleet
from bench.usage import Memory, difference

FLEET = Fleet(datetime(2026, 1, 10, tzinfo=UTC))
ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"


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
        rounds.add({"single.accepted": accepted, "healthz": 400.0, "busy.single": 12.0})

    told = report.render(rounds, {"web": Memory(processes=3, largest=50.0, together=90.0)})

    assert "POST, accepted (202)" in told
    assert "100 - 300" in told
    assert "/healthz 0.500" in told
    assert "queue taken out" not in told
    assert "COPY" not in told
    assert "single 12 %" in told


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

    sent = [posts._request(n) for n in posts.requests]

    assert [one.split(b" ")[1] for one in sent] == [b"/ingestion/meter", b"/ingestion/vehicle"] * 2
    meters = [body_of(sent[0]), body_of(sent[2])]
    assert [[r["meterId"] for r in batch] for batch in meters] == [  # type: ignore[attr-defined]
        ["meter-0010", "meter-0011", "meter-0012"],
        ["meter-0013", "meter-0014", "meter-0015"],
    ]


def test_a_single_reading_is_posted_as_an_object() -> None:
    posts = Posts(Target(1, "key"), FLEET, range(2), 1, 0, connections=1)

    assert body_of(posts._request(1)) == json.loads(FLEET.objects("vehicle", range(1))[0])


@pytest.mark.parametrize(("total", "parts"), [(10, 3), (4, 4), (2, 4), (0, 2)])
def test_shares_leave_nothing_out(total: int, parts: int) -> None:
    found = shares(total, parts)

    assert len(found) == parts
    assert [n for part in found for n in part] == list(range(total))


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (ANSWER, True),
        (ANSWER[:-1], False),
        (ANSWER[:20], False),
        (b"", False),
        (b"HTTP/1.1 200 OK\r\n\r\n", False),
    ],
)
def test_an_answer_is_whole_with_its_last_byte(answer: bytes, whole: bool) -> None:
    assert is_whole(answer) is whole


def test_any_other_status_is_broken() -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(ANSWER.replace(b"202", b"503"))
        with pytest.raises(Broken, match=r"not 202 but: HTTP/1\.1 503"):
            receive(here, b"202")


def test_every_request_is_sent_once() -> None:
    here, there = socket.socketpair()
    heard: list[bytes] = []

    def answer() -> None:
        with there:
            while request := there.recv(100):
                heard.append(request)
                there.sendall(ANSWER[:30])
                there.sendall(ANSWER[30:])

    server = Thread(target=answer)
    server.start()
    drive([here], [b"one", b"two", b"three"], b"202")
    server.join()

    assert heard == [b"one", b"two", b"three"]


def test_copied_rows_have_the_binary_form_of_postgresql() -> None:
    copied = rows("vehicle", Fleet(datetime(2000, 1, 1, tzinfo=UTC)), [7] * DEVICES, range(2))

    assert copied.startswith(b"PGCOPY\n\xff\r\n\0" + bytes(8))
    assert copied.endswith(struct.pack(">h", -1))
    fields, size, key = struct.unpack_from(">hii", copied, 19)
    assert (fields, size, key) == (6, 4, 7)


def test_registers_never_fall_from_one_fleet_to_the_next() -> None:
    later = Fleet(FLEET.begin + timedelta(days=5), timedelta(hours=4), timedelta(days=5))
    numbers = range(0, 2 * DEVICES, DEVICES)  # two steps of the first device

    sent = [json.loads(one) for fleet in (FLEET, later) for one in fleet.objects("meter", numbers)]

    assert [one["kwhConsumedAc"] for one in sent] == [1000.0, 1000.12, 1864.0, 1892.8]


def test_a_fleet_may_report_at_any_interval() -> None:
    slow = Fleet(FLEET.begin, timedelta(hours=4))

    assert slow.instant(6) == FLEET.begin + timedelta(days=1)
    assert slow.micros(1) - slow.micros(0) == 4 * 3_600_000_000
