"""Callers share trips: none is lost, none waits for company, a failure reaches whom it is about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from workers.shared_trip import SharedTrip


class Driver:
    """Doubles numbers, slowly if wanted, and remembers who travelled together."""

    def __init__(self) -> None:
        self.trips: list[list[int]] = []
        self.road = threading.Event()
        self.road.set()

    def __call__(self, items: list[int]) -> list[int | Exception]:
        self.trips.append(items)
        assert self.road.wait(10)
        return [ValueError(item) if item < 0 else 2 * item for item in items]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_lone_caller_travels_at_once_and_alone() -> None:
    driver = Driver()
    trip = SharedTrip(driver)
    assert [trip.submit(1), trip.submit(2)] == [2, 4]
    assert driver.trips == [[1], [2]]


def test_who_comes_during_a_trip_shares_the_next() -> None:
    driver = Driver()
    trip = SharedTrip(driver)
    driver.road.clear()
    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(trip.submit, 0)
        until(lambda: driver.trips == [[0]])
        others = [threads.submit(trip.submit, n) for n in range(1, 9)]
        until(lambda: len(trip._waiting) == 8)
        driver.road.set()
        assert first.result(10) == 0
        assert [other.result(10) for other in others] == [2 * n for n in range(1, 9)]
    assert len(driver.trips) == 2
    assert sorted(driver.trips[1]) == list(range(1, 9))


def test_an_items_failure_is_its_callers_alone() -> None:
    driver = Driver()
    trip = SharedTrip(driver)
    with pytest.raises(ValueError, match="-5"):
        trip.submit(-5)
    assert trip.submit(5) == 10


def test_a_failed_trip_fails_those_who_wait_and_the_next_one_travels() -> None:
    road = threading.Event()
    trips: list[list[int]] = []

    def travel(items: list[int]) -> list[int]:
        trips.append(items)
        assert road.wait(10)
        if len(trips) == 1:
            raise ConnectionError("no road")
        return items

    trip = SharedTrip(travel)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(trip.submit, 0)
        until(lambda: trips == [[0]])
        others = [threads.submit(trip.submit, n) for n in (1, 2, 3)]
        until(lambda: len(trip._waiting) == 3)
        road.set()
        for future in (first, *others):
            assert isinstance(future.exception(10), ConnectionError)
    assert trip.submit(7) == 7


def test_many_threads_get_their_own_results() -> None:
    driver = Driver()
    trip = SharedTrip(driver)
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(trip.submit, range(5000))) == [2 * n for n in range(5000)]
    assert sorted(item for together in driver.trips for item in together) == list(range(5000))
