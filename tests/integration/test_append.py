"""What waits together on an event loop travels together; 202 is still a promise to each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest

import settings
from models.kinds import METER, VEHICLE, Kind
from models.packed import Packed
from tests.integration.test_stream import use
from workers import append, stream
from workers.stream import StreamUnavailable


@pytest.fixture(autouse=True)
def loop(servers: dict[str, str]) -> Iterator[asyncio.AbstractEventLoop]:
    """The process's event loop."""
    stream.ensure_group(METER)
    stream.ensure_group(VEHICLE)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        yield loop
        loop.run_until_complete(append.hang_up())


def travel(parcels: list[append._Parcel]) -> list[bool | StreamUnavailable]:
    """One trip on a loop of its own."""

    async def there_and_back() -> list[bool | StreamUnavailable]:
        outcomes = await append._travel(parcels)
        await append.hang_up()
        return outcomes

    return asyncio.run(there_and_back())


def parcel(kind: Kind, fleet: int, *readings: int) -> append._Parcel:
    return append._Parcel(kind, fleet, len(readings), json.dumps(readings).encode())


def claimed(kind: Kind) -> list[tuple[int | None, int, list[int]]]:
    """(fleet, readings counted, the readings) of each entry."""
    found = stream.claim(kind, "a", 100)
    return [(e.fleet_id, e.count, json.loads(e.body or b"")) for e in found]


def test_who_waits_together_shares_an_entry_with_the_own_fleet_and_kind() -> None:
    sent = [
        parcel(METER, 7, 1, 2),
        parcel(VEHICLE, 7, 3),
        parcel(METER, 8, 4),
        parcel(METER, 7, 5),
        parcel(VEHICLE, 7, 6, 7, 8),
    ]
    assert travel(sent) == [True, True, False, False, False]  # one of each kind rings
    assert claimed(METER) == [(7, 3, [1, 2, 5]), (8, 1, [4])]
    assert claimed(VEHICLE) == [(7, 4, [3, 6, 7, 8])]


def test_an_entry_is_shared_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "JOINED_BYTES", 10)
    sent = [parcel(METER, 7, *range(n)) for n in (1, 2, 9, 1, 1)]
    assert sorted(travel(sent), key=bool) == [False, False, False, False, True]
    found = claimed(METER)
    assert [n for _, n, _ in found] == [len(readings) for *_, readings in found]
    assert sorted(map(len, (readings for *_, readings in found))) == [2, 3, 9]
    assert sorted(n for *_, readings in found for n in readings) == [0] * 5 + [1, 1, *range(2, 9)]


def test_an_entry_holds_no_more_readings_than_a_request_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a dead letter it goes through the door again."""
    monkeypatch.setenv("MAX_BATCH_READINGS", "3")
    settings.load.cache_clear()
    travel([parcel(METER, 7, *range(n)) for n in (2, 1, 2, 3)])
    assert claimed(METER) == [(7, 3, [0, 1, 0]), (7, 2, [0, 1]), (7, 3, [0, 1, 2])]


@pytest.mark.parametrize("spelled", [b" [1]", b"[1]\n", b"\t[1] "])
def test_what_is_no_bare_array_is_stored_as_it_came(spelled: bytes) -> None:
    travel([parcel(METER, 7, 2), append._Parcel(METER, 7, 1, spelled)])
    assert {b"[2]", spelled} == {entry.body for entry in stream.claim(METER, "a", 10)}


def test_a_batch_that_is_packed_has_an_entry_alone() -> None:
    packed = append._Parcel(METER, 7, 40, Packed(b"[columns]"))
    outcomes = travel([parcel(METER, 7, 1), packed, parcel(METER, 7, 2)])
    assert sorted(outcomes, key=bool) == [False, False, True]  # one of them rings
    found = [(entry.body, entry.count) for entry in stream.claim(METER, "a", 10)]
    assert sorted(found) == [(b"[1,2]", 2), (b"[columns]", 40)]


def test_a_refused_entry_is_the_failure_of_those_in_it_and_of_nobody_else() -> None:
    server = stream.client()
    server.delete("energy:{vehicle}")
    server.set("energy:{vehicle}", "no stream")
    sent = [parcel(VEHICLE, 7, 1), parcel(METER, 7, 2), parcel(VEHICLE, 7, 3), parcel(METER, 7, 4)]
    outcomes = travel(sent)
    assert [isinstance(o, StreamUnavailable) for o in outcomes] == [True, False, True, False]
    assert (outcomes[1], outcomes[3]) == (True, False)
    assert claimed(METER) == [(7, 2, [2, 4])]


def test_requests_of_the_same_moment_share_a_trip(loop: asyncio.AbstractEventLoop) -> None:
    async def sixteen() -> list[bool]:
        return await asyncio.gather(*(append.soon(METER, 7, 1, b"[%d]" % n) for n in range(16)))

    assert sorted(loop.run_until_complete(sixteen())) == [False] * 15 + [True]
    assert claimed(METER) == [(7, 16, [*range(16)])]


def test_a_server_that_cannot_be_reached_is_named(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, "redis://127.0.0.1:1/0")

    async def two() -> list[object]:
        both = (append.soon(METER, 7, 1, b"[%d]" % n) for n in range(2))
        return await asyncio.gather(*both, return_exceptions=True)

    assert [type(outcome) for outcome in loop.run_until_complete(two())] == [StreamUnavailable] * 2


def test_a_server_that_hangs_is_given_up_and_found_again(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late answer to an old question must not be taken for a promise."""
    monkeypatch.setattr(append, "TIMEOUT_SECONDS", 0.3)

    async def one(body: bytes) -> bool:
        return await append.soon(METER, 7, 1, body)

    assert loop.run_until_complete(one(b"[1]")) is True
    stream.client().execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    began = time.monotonic()
    with pytest.raises(StreamUnavailable):
        loop.run_until_complete(one(b"[2]"))
    assert time.monotonic() - began < 10
    stream.client().execute_command("CLIENT", "UNPAUSE")
    assert loop.run_until_complete(one(b"[3]")) is False
    found = [readings for _, _, readings in claimed(METER)]
    assert found in ([[1], [2], [3]], [[1], [3]])  # the second may or may not be stored


def test_a_connection_that_the_server_closed_is_replaced(loop: asyncio.AbstractEventLoop) -> None:
    async def one() -> bool:
        return await append.soon(METER, 7, 1, b"[1]")

    loop.run_until_complete(one())
    stream.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    loop.run_until_complete(asyncio.sleep(0.2))  # it has heard of it
    assert loop.run_until_complete(one()) is False
    assert stream.waiting(METER) == 2


def test_replies_that_came_while_the_loop_was_busy_count(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was this process that was late, not the server."""

    async def connected() -> bool:
        return await append.soon(METER, 7, 1, b"[0]")

    async def one() -> bool:
        promise = append.soon(METER, 7, 1, b"[1]")
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(time.sleep, 0.5)
        return await promise

    loop.run_until_complete(connected())
    monkeypatch.setattr(append, "TIMEOUT_SECONDS", 0.2)
    for _ in range(5):
        loop.run_until_complete(one())
    assert stream.waiting(METER) == 6


def test_a_transport_that_closed_unnoticed_is_the_servers_trouble(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """uvloop says RuntimeError where asyncio has a ConnectionResetError."""

    async def one() -> bool:
        return await append.soon(METER, 7, 1, b"[1]")

    async def cut() -> None:
        append._line._connection._writer.transport.write = failing
        with pytest.raises(StreamUnavailable, match="closed"):
            await one()

    def failing(_: bytes) -> None:
        raise RuntimeError("unable to perform operation; the handler is closed")

    loop.run_until_complete(one())
    loop.run_until_complete(cut())
    assert loop.run_until_complete(one()) is False
