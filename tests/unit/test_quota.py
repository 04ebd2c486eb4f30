"""What a key has left: worked out by hand, for one process and for two that tell each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

import settings
from web.quota import READINGS, Bucket, Quota
from web.refusals import Refused
from workers.stream import StreamUnavailable


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Server:
    """The count that the processes share."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.asked = 0
        self.away = False

    def __call__(self, used: Mapping[str, int]) -> dict[str, int]:
        self.asked += 1
        if self.away:
            raise StreamUnavailable("away")
        self.totals.update(used)
        return {name: self.totals[name] for name in used}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Server:
    return Server()


def limit(monkeypatch: pytest.MonkeyPatch, *, requests: float = 0, readings: float = 0) -> None:
    for name in ("DATABASE_URL", "STREAM_URL", "CELERY_BROKER_URL"):
        monkeypatch.setenv(name, "unused://")
    monkeypatch.setenv("KEY_REQUESTS_PER_SECOND", str(requests))
    monkeypatch.setenv("KEY_READINGS_PER_SECOND", str(readings))
    settings.load.cache_clear()


def admitted(quota: Quota, key: str = "a", most: int = 1000) -> int:
    """How many requests are let in until one is refused."""
    for number in range(most):
        try:
            quota.admit(key)
        except Refused:
            return number
    return most


def wait(quota: Quota, key: str = "a") -> int | None:
    """The Retry-After of a refusal."""
    with pytest.raises(Refused) as refusal:
        quota.admit(key)
    assert refusal.value.code == "RATE_LIMITED"
    return refusal.value.retry_after


# --- a bucket -------------------------------------------------------------------------------------


def test_a_bucket_holds_ten_seconds_and_fills_up() -> None:
    bucket = Bucket(2.0, 0.0)
    assert bucket.level(0.0) == 20  # 10 s of 2 a second
    bucket.use(23)
    assert bucket.level(0.0) == -3
    bucket.settle(0.0, 0)
    assert bucket.level(5.0) == 7  # -3 + 5 x 2
    assert bucket.level(1000.0) == 20


def test_what_others_used_was_spread_out_and_is_booked_before_the_cap() -> None:
    bucket = Bucket(2.0, 0.0)
    # 100 s at 2 a second are 200; others used 190 of them: 20 + 200 - 190 = 30, of which 20 fit.
    bucket.settle(100.0, 190)
    assert bucket.level(100.0) == 20
    bucket.settle(101.0, 30)
    assert bucket.level(101.0) == -8  # 20 + 2 - 30


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = Bucket(2.0, 50.0)
    bucket.use(5)
    assert bucket.level(10.0) == 15


# --- one process ----------------------------------------------------------------------------------


def test_without_limits_nothing_is_counted_and_nobody_asked(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, server: Server
) -> None:
    limit(monkeypatch)
    quota = Quota(server, clock)
    clock.now += 10
    assert admitted(quota) == 1000
    quota.count_readings("a", 5)
    assert (server.asked, server.totals) == (0, {})


def test_requests_are_limited_and_come_back(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, server: Server
) -> None:
    limit(monkeypatch, requests=5)
    quota = Quota(server, clock)
    assert admitted(quota) == 50  # ten seconds' worth at once
    assert wait(quota) == 1
    assert admitted(quota, "another key") == 50
    clock.now += 1
    assert admitted(quota) == 5


def test_a_large_batch_is_let_in_and_paid_off_afterwards(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, server: Server
) -> None:
    limit(monkeypatch, readings=10)
    quota = Quota(server, clock)
    quota.admit("a")
    quota.count_readings("a", 500)  # of 100
    assert wait(quota) == 41  # 400 of debt and one more, 10 a second
    clock.now += 40
    assert wait(quota) == 1
    clock.now += 1
    quota.admit("a")


def test_nobody_is_told_to_wait_for_hours(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, server: Server
) -> None:
    limit(monkeypatch, readings=1)
    quota = Quota(server, clock)
    quota.admit("a")
    quota.count_readings("a", 5000)
    assert wait(quota) == 60


# --- several processes ----------------------------------------------------------------------------


def test_processes_share_a_limit(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, server: Server
) -> None:
    """Four processes, ten requests a second: in a minute 10 x 60 and the burst, not 4 x as much."""
    limit(monkeypatch, requests=10)
    processes = [Quota(server, clock) for _ in range(4)]
    let_in = 0
    for _ in range(600):  # a minute in tenths of a second
        clock.now += 0.1
        let_in += sum(admitted(quota, most=3) for quota in processes)  # 120 a second want in
    # The burst: each lets through a bucket's content before it hears of the others.
    assert 600 <= let_in <= 600 + 4 * 100
    before = let_in
    for _ in range(600):
        clock.now += 0.1
        let_in += sum(admitted(quota, most=3) for quota in processes)
    # In the long run it is the limit, whoever of the four a sender comes to.
    assert 540 <= let_in - before <= 610


def test_a_process_asks_four_times_a_second_and_not_per_request(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, server: Server
) -> None:
    limit(monkeypatch, requests=1000, readings=1000)
    quota = Quota(server, clock)
    for _ in range(1000):
        clock.now += 0.01
        quota.admit("a")
        quota.count_readings("a", 1)
    assert server.asked <= 40
    assert server.totals[f"a:{READINGS}"] >= 970


def test_while_the_server_is_away_each_process_counts_for_itself(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, server: Server
) -> None:
    limit(monkeypatch, requests=10)
    quota = Quota(server, clock)
    server.away = True
    let_in = 0
    for _ in range(600):
        clock.now += 0.1
        let_in += admitted(quota, most=3)
    assert 690 <= let_in <= 700  # the burst of 100, and 10 a second for a minute
    server.away = False
    asked = server.asked
    assert asked <= 60 / 5  # and it is not asked all the time
    clock.now += 6
    quota.admit("a")
    assert server.totals["a:requests"] == let_in  # what was used meanwhile is told
    server.totals.clear()  # it lost its count
    clock.now += 5
    quota.admit("a")
