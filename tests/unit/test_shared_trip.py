"""Callers share trips: none is lost, none waits for company, a failure reaches whom it is about."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from workers.shared_trip import LoopTrip, SharedTrip


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


# --- on an event loop -----------------------------------------------------------------------------


class LoopDriver:
    """Doubles numbers; each trip takes a few turns of the loop."""

    def __init__(self) -> None:
        self.trips: list[list[int]] = []

    async def __call__(self, items: list[int]) -> list[int | Exception]:
        self.trips.append(items)
        for _ in range(3):
            await asyncio.sleep(0)
        if 13 in items:
            raise OSError("no road")
        return [ValueError(item) if item < 0 else 2 * item for item in items]


async def asked(trip: LoopTrip[int, int], *items: int) -> list[int | BaseException]:
    return await asyncio.gather(*map(trip.submit, items), return_exceptions=True)


def test_on_a_loop_a_turns_callers_travel_together() -> None:
    async def turns() -> LoopDriver:
        trip = LoopTrip(driver := LoopDriver())
        assert await asked(trip, 1, 2, 3) == [2, 4, 6]
        assert await asked(trip, 4) == [8]
        return driver

    assert asyncio.run(turns()).trips == [[1, 2, 3], [4]]


def test_on_a_loop_who_comes_during_a_trip_shares_the_next() -> None:
    async def turns() -> LoopDriver:
        trip = LoopTrip(driver := LoopDriver())
        first = trip.submit(0)
        await asyncio.sleep(0)
        assert driver.trips == [[0]]
        assert await asked(trip, 1, 2) == [2, 4]
        assert await first == 0
        return driver

    assert asyncio.run(turns()).trips == [[0], [1, 2]]


def test_on_a_loop_a_failure_reaches_whom_it_is_about() -> None:
    async def turns() -> None:
        trip = LoopTrip(LoopDriver())
        one, other = await asked(trip, -1, 2)
        assert isinstance(one, ValueError)
        assert other == 4
        lost = trip.submit(13)
        await asyncio.sleep(0)
        found = await asked(trip, 1, 2)  # they wait, and would only meet the same failure
        assert {type(outcome) for outcome in found} == {OSError}
        with pytest.raises(OSError, match="no road"):
            await lost
        assert await asked(trip, 5) == [10]

    asyncio.run(turns())


def test_on_a_loop_a_caller_who_left_disturbs_nobody() -> None:
    async def turns() -> None:
        trip = LoopTrip(LoopDriver())
        gone, there = trip.submit(1), trip.submit(2)
        gone.cancel()
        assert await there == 4
        assert await trip.submit(3) == 6

    asyncio.run(turns())


def test_on_a_loop_what_failed_to_travel_is_not_kept() -> None:
    class Body:
        pass

    async def failing(_: list[Body]) -> list[Exception]:
        raise OSError("no road")

    async def turns() -> list[weakref.ref[Body]]:
        trip: LoopTrip[Body, None] = LoopTrip(failing)
        gone = []
        for _ in range(10):
            body = Body()
            gone.append(weakref.ref(body))
            with suppress(OSError):
                await trip.submit(body)
            del body
        return gone

    gc.collect()
    gc.disable()
    try:
        assert [ref() for ref in asyncio.run(turns())] == [None] * 10
    finally:
        gc.enable()
