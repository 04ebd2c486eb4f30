"""The sender sends until it is told that everything was accepted, and counts what was not."""

from __future__ import annotations

import time

import pytest

from seed import send
from seed.api import Answer, RefusedError, UnreachableError
from seed.send import Sender, pause_s
from seed.testing import FakeApi, Reply

LINES = [f'{{"meterId":"meter-001","kwhConsumedAc":{n}}}' for n in range(10)]
ACCEPTED = Reply(202, {"accepted": 10, "rejected": []})


def busy(status: int = 503, seconds: str = "0") -> Reply:
    return Reply(status, {"code": "backlog_full"}, {"Retry-After": seconds})


def test_readings_go_in_batches_to_the_path_of_their_kind() -> None:
    with FakeApi() as api, Sender(api.target, batch=4, connections=2) as sender:
        sender.put("meter", LINES[:3])
        sender.put("meter", LINES[3:])
        sender.put("vehicle", ['{"vehicleId":"vehicle-001"}'])
    sizes = sorted((seen.path, len(seen.readings())) for seen in api.posts())
    meter, vehicle = "/ingestion/meter", "/ingestion/vehicle"
    assert sizes == [(meter, 2), (meter, 4), (meter, 4), (vehicle, 1)]
    sent = sorted(one["kwhConsumedAc"] for one in api.accepted(meter))
    assert sent == list(range(10))
    assert (sender.tally.sent, sender.tally.accepted, sender.tally.requests) == (11, 11, 4)


def test_each_connection_is_kept() -> None:
    with FakeApi() as api, Sender(api.target, batch=1, connections=3) as sender:
        sender.put("meter", LINES)
    assert len(api.posts()) == 10
    assert len({seen.port for seen in api.posts()}) <= 3


def test_bodies_may_be_compressed() -> None:
    with FakeApi() as api, Sender(api.target, compress=True) as sender:
        sender.put("meter", LINES)
    (seen,) = api.posts()
    assert seen.headers["content-encoding"] == "gzip"
    assert len(seen.readings()) == 10


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_api_gets_the_same_bytes_again_and_not_too_early(status: int) -> None:
    script = (busy(status, "1"), busy(status), ACCEPTED)
    began = time.monotonic()
    with FakeApi(*script) as api, Sender(api.target, connections=1) as sender:
        sender.put("meter", LINES)
    assert time.monotonic() - began >= 1
    assert len(api.posts()) == 3
    assert len({seen.body for seen in api.posts()}) == 1
    assert sender.tally.retries == {f"HTTP {status}: backlog_full": 2}
    assert (sender.tally.sent, sender.tally.accepted) == (10, 10)


def test_a_busy_api_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "FIRST_WAIT_S", 0.01)
    script = [busy()] * 20
    with FakeApi(*script) as api, Sender(api.target, patience_s=0) as sender:
        sender.put("meter", LINES)
    assert sender.tally.accepted == 10
    assert len(api.posts()) == 21


def test_a_lost_connection_gets_the_same_bytes_again() -> None:
    with FakeApi(FakeApi.HANG_UP) as api, Sender(api.target) as sender:
        sender.put("meter", LINES)
    first, second = api.posts()
    assert first.body == second.body
    assert sender.tally.retries == {"connection lost": 1}


def test_rejected_readings_are_counted_by_code() -> None:
    rejected = [{"index": 3, "code": "out_of_range"}, {"index": 4, "code": "out_of_range"}]
    script = Reply(202, {"accepted": 7, "rejected": [*rejected, {"index": 9, "code": "no_time"}]})
    with FakeApi(script) as api, Sender(api.target) as sender:
        sender.put("meter", LINES)
    assert sender.tally.rejected == {"out_of_range": 2, "no_time": 1}
    assert (sender.tally.sent, sender.tally.accepted) == (10, 7)


@pytest.mark.parametrize(
    "body",
    [
        {"code": "out_of_range", "detail": "none of 10"},
        {"code": "x", "rejected": [{"index": n, "code": "out_of_range"} for n in range(10)]},
    ],
)
def test_a_batch_without_any_good_reading_is_rejected_whole(body: dict[str, object]) -> None:
    with FakeApi(Reply(422, body)) as api, Sender(api.target) as sender:
        sender.put("meter", LINES)
    assert sender.tally.rejected == {"out_of_range": 10}
    assert sender.tally.accepted == 0
    assert len(api.posts()) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_a_refusal_ends_the_sending(status: int) -> None:
    refusal = Reply(status, {"code": "key_unknown", "detail": "No such key."})
    with FakeApi(*[refusal] * 100) as api:
        sender = Sender(api.target, batch=1)
        with pytest.raises(RefusedError, match=f"HTTP {status}: key_unknown: No such key"), sender:
            sender.put("meter", LINES * 100)
    assert len(api.posts()) < 100
    assert sender.tally.accepted == 0


def test_a_broken_api_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "FIRST_WAIT_S", 0.01)
    script = [Reply(500, {"title": "Internal error"})] * 1000
    with FakeApi(*script) as api:
        sender = Sender(api.target, patience_s=0.1)
        with pytest.raises(UnreachableError, match=r"gave up .* HTTP 500: Internal error"), sender:
            sender.put("meter", LINES)
    assert len(api.posts()) > 2


def test_an_error_in_the_generator_stops_the_sender() -> None:
    with (
        FakeApi(*[busy(seconds="600")] * 9) as api,
        pytest.raises(KeyboardInterrupt),
        Sender(api.target, batch=1),
    ):
        raise KeyboardInterrupt


def test_leaving_while_waiting_for_a_busy_api_takes_no_time() -> None:
    def interrupted(sender: Sender) -> None:
        with sender:
            sender.put("meter", LINES)
            sender.flush()
            raise KeyboardInterrupt

    began = time.monotonic()
    with FakeApi(*[busy(seconds="600")] * 9) as api, pytest.raises(KeyboardInterrupt):
        interrupted(Sender(api.target, connections=2))
    assert time.monotonic() - began < 10


def test_progress_is_told_when_batches_are_decided() -> None:
    told: list[int] = []
    script = (Reply(422, {"code": "x"}), busy())
    with (
        FakeApi(*script) as api,
        Sender(api.target, batch=5, connections=1, on_delivered=told.append) as sender,
    ):
        sender.put("meter", LINES)
    assert told == [5, 5]


def test_pauses_are_what_was_asked_for_and_a_bit_more() -> None:
    asked = Answer(503, {"retry-after": "4"}, b"")
    pauses = {pause_s(asked, 0.2) for _ in range(50)}
    assert 4 <= min(pauses) < max(pauses) <= 5
    assert 0.2 <= pause_s(None, 0.2) <= 0.25
    assert pause_s(Answer(503, {"retry-after": "0"}, b""), 5) >= send.FIRST_WAIT_S
