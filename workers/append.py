"""Readings into the stream from an event loop: requests that wait together travel together.

They share the round trip to Redis, the server's fsync with it, and, if they are small and of one
fleet and kind, an entry (docs/adr/0017). A lone request travels at once. What a request is promised
is what `stream.append` promises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, NamedTuple

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import settings
from models.kinds import Kind
from models.packed import Packed
from workers import stream
from workers.shared_trip import LoopTrip
from workers.stream import TIMEOUT_SECONDS, Command, StreamUnavailable

#: Turns of the event loop after which replies that have come are read.
_TURNS = 5
#: Requests that share an entry are so large together at the most; who is larger has one alone.
JOINED_BYTES = 65_536


def soon(kind: Kind, fleet_id: int, count: int, body: bytes) -> Awaitable[bool]:
    """Add one request's readings, a JSON array or `Packed`; True when the caller should ring.

    Raises StreamUnavailable: the readings may or may not be stored then.
    """
    return _trips.submit(_Parcel(kind, fleet_id, count, body))


async def hang_up() -> None:
    """Close this event loop's connection; the next call opens one."""
    await _line.hang_up()


class _Parcel(NamedTuple):
    """One request's readings on their way into the stream."""

    kind: Kind
    fleet_id: int
    readings: int
    body: bytes

    @property
    def joins(self) -> bool:
        """Whether it is small, and a bare array: one that can be joined to another."""
        if isinstance(self.body, Packed) or len(self.body) > JOINED_BYTES:
            return False
        return self.body[:1] == b"[" and self.body[-1:] == b"]"


class _Line:
    """A connection of the event loop's own, for one exchange at a time."""

    def __init__(self) -> None:
        self._connection: Any = None
        self._leads_to: tuple[str, asyncio.AbstractEventLoop] | None = None

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to `commands`, all sent at once; a refused one's is its error.

        Raises RedisError or OSError (TimeoutError among them): what was sent may have been done.
        """
        asking = asyncio.create_task(_ask(self._connected(), commands))
        try:
            await asyncio.wait({asking}, timeout=TIMEOUT_SECONDS)
            turns = iter(range(_TURNS))
            while not asking.done():
                if next(turns, None) is None:
                    raise TimeoutError(f"the stream has not answered for {TIMEOUT_SECONDS:g} s")
                await asyncio.sleep(
                    0
                )  # it may be this loop that was late, and the replies are here
            return asking.result()
        finally:
            if not asking.done():
                asking.cancel()
                await asyncio.wait({asking})  # until it has hung up

    async def hang_up(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)
        self._connection = self._leads_to = None

    def _connected(self) -> Any:
        """The connection, which opens itself."""
        leads_to = settings.load().stream_url, asyncio.get_running_loop()
        if self._leads_to != leads_to:
            # No second try: it could store an entry twice. The time limit is the exchange's.
            once, unlimited = Retry(NoBackoff(), 0), {"socket_timeout": None}
            pool = redis.asyncio.ConnectionPool.from_url(leads_to[0], retry=once, **unlimited)
            self._connection = pool.make_connection()  # type: ignore[no-untyped-call]
            self._leads_to = leads_to
        return self._connection


async def _ask(connection: Any, commands: Sequence[Command]) -> list[Any]:
    try:
        if connection.is_connected and await connection.can_read():
            await connection.disconnect(nowait=True)  # the server has hung up
        await connection.send_packed_command(connection.pack_commands(commands))
        return [await _reply(connection) for _ in commands]
    except BaseException:  # the answers to this must never be read as another's
        await connection.disconnect(nowait=True)
        raise


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except redis.ResponseError as error:
        return error


async def _travel(parcels: Sequence[_Parcel]) -> list[bool | StreamUnavailable]:
    """For each parcel: whether to ring, or why it is not stored."""
    entries = list(_entries(parcels))
    kinds = list(dict.fromkeys(parcel.kind for parcel in parcels))
    commands = [_add_command([parcels[place] for place in places]) for places in entries]
    commands += map(stream.bell_command, kinds)
    try:
        replies = await _line.exchange(commands)
    except (redis.RedisError, OSError, RuntimeError) as error:  # the last: a transport that closed
        raise StreamUnavailable(str(error) or type(error).__name__) from error
    rung = zip(kinds, replies[len(entries) :], strict=True)
    to_ring = {kind for kind, reply in rung if stream.is_rung(reply)}
    outcomes: list[bool | StreamUnavailable] = [False] * len(parcels)
    for places, reply in zip(entries, replies, strict=False):
        for place in places:
            kind = parcels[place].kind
            lost = isinstance(reply, Exception)
            outcomes[place] = StreamUnavailable(str(reply)) if lost else kind in to_ring
            if not lost:
                to_ring.discard(kind)  # one of them rings
    return outcomes


def _entries(parcels: Sequence[_Parcel]) -> Iterator[list[int]]:
    """Which parcels share an entry, by their places: small ones of one kind and fleet.

    An entry holds no more readings than a request may: as a dead letter it must pass the door.
    """
    most = settings.load().max_batch_readings
    open_: dict[tuple[Kind, int], tuple[list[int], int, int]] = {}
    for place, parcel in enumerate(parcels):
        if not parcel.joins:
            yield [place]
            continue
        key = (parcel.kind, parcel.fleet_id)
        places, size, readings = open_.get(key, ([], 0, 0))
        size, readings = size + len(parcel.body), readings + parcel.readings
        if places and (size > JOINED_BYTES or readings > most):
            yield places
            places, size, readings = [], len(parcel.body), parcel.readings
        places.append(place)
        open_[key] = (places, size, readings)
    yield from (places for places, *_ in open_.values())


def _add_command(parcels: Sequence[_Parcel]) -> Command:
    """What adds parcels of one kind and fleet as one entry."""
    kind, fleet_id, count, body = parcels[0]
    if len(parcels) > 1:
        count = sum(parcel.readings for parcel in parcels)
        body = b"[%b]" % b",".join(parcel.body[1:-1] for parcel in parcels)
    return stream.add_command(kind, fleet_id, count, body)


_line = _Line()
_trips = LoopTrip(_travel)
