"""Group commit: calls that wait at the same moment share one round trip.

The first caller leads: it takes all items that wait, makes the trip for them and hands out the
results. Who comes meanwhile waits; when the trip is over, one of the waiting leads the next. A
lone caller makes its trip at once, so nothing is delayed to gather company. When a trip fails as a
whole, those who wait fail with it: they would only wait for the same failure once more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Seat(Generic[Item, Result]):
    """One caller's place: its item, and what came of it."""

    __slots__ = ("item", "leads", "outcome", "ready")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.outcome: Result | BaseException | None = None
        self.leads = False
        self.ready = threading.Lock()  # held until there is an outcome, or the lead is handed over
        self.ready.acquire()


class SharedTrip(Generic[Item, Result]):
    """Callers of `submit` on any thread share calls of `travel`.

    `travel` gets the items in the order they came and returns as many results; an Exception among
    them, or one that it raises, is raised at the caller whose item it is about.
    """

    def __init__(self, travel: Callable[[list[Item]], Sequence[Result | Exception]]) -> None:
        self._travel = travel
        self._lock = threading.Lock()
        self._waiting: list[_Seat[Item, Result]] = []
        self._under_way = False

    def submit(self, item: Item) -> Result:
        """The result for `item`, after a trip that began after this call did."""
        seat: _Seat[Item, Result] = _Seat(item)
        with self._lock:
            self._waiting.append(seat)
            seat.leads = not self._under_way
            self._under_way = True
        if not seat.leads:
            seat.ready.acquire()
        if seat.leads:
            self._lead()
        if isinstance(seat.outcome, BaseException):
            raise seat.outcome
        return cast(Result, seat.outcome)  # set by whoever led

    def _lead(self) -> None:
        outcomes: Sequence[Result | BaseException]
        group = self._board()
        try:
            outcomes = self._travel([seat.item for seat in group])
        except BaseException as error:  # raised again, at each caller
            group += self._board(end=True)
            outcomes = [error] * len(group)
        else:
            self._hand_over()
        for seat, outcome in zip(group, outcomes, strict=True):
            seat.outcome = outcome
            seat.ready.release()

    def _board(self, *, end: bool = False) -> list[_Seat[Item, Result]]:
        """Everybody who waits; `end`: and nobody leads from now on."""
        with self._lock:
            group, self._waiting = self._waiting, []
            self._under_way = not end
        return group

    def _hand_over(self) -> None:
        """Let the first who waits lead the next trip."""
        with self._lock:
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].ready.release()
            else:
                self._under_way = False


class LoopTrip(Generic[Item, Result]):
    """The same for callers on an event loop: nobody leads, a task makes the trips.

    Who comes in the same turn of the loop travels together.
    """

    def __init__(
        self, travel: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]]
    ) -> None:
        self._travel = travel
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._driver: asyncio.Task[None] | None = None

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """The result for `item`, after a trip that begins after this call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if self._driver is None or self._driver.done():
            self._driver = loop.create_task(self._drive())
        return future

    async def _drive(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            outcomes: Sequence[Result | BaseException]
            try:
                outcomes = await self._travel([item for item, _ in group])
            except BaseException as error:  # raised again, at each caller
                group, self._waiting = group + self._waiting, []
                outcomes = [error] * len(group)
            for (_, future), outcome in zip(group, outcomes, strict=True):
                if future.cancelled():
                    continue
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
            # A failure knows this frame: what travelled would stay until the collector comes.
            del group, outcomes, future, outcome
