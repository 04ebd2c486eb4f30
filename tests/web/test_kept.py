"""A summary is told again only while PostgreSQL is known to hold the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import psycopg
import pytest

from models import changes, engine, reads
from models.engine import Hotline
from models.kinds import METER, VEHICLE
from tests.factories import at, flush_all, meter_reading, roll_up, rows, vehicle_reading
from tests.web.calls import Api
from tests.web.rsgi import FrontClient
from web import kept, summary
from web.kept import Kept

PATH = "/v1/analytics/performance/vehicle-001"
ONE, OTHER = (1, "vehicle-1"), (1, "vehicle-2")

_INSERT = """
    INSERT INTO vehicle_performance_24h
        (vehicle_key, fleet_id, vehicle_id, window_from, window_to, ac_samples, dc_samples,
         ac_events, dc_events, computed_at)
    SELECT n, 1, 'vehicle-' || n, now(), now(), 0, 0, '{}', '{}', now()
    FROM generate_series(%s::int, %s::int) AS n
    ON CONFLICT (vehicle_key) DO UPDATE SET computed_at = excluded.computed_at
"""
_TOUCH = "UPDATE vehicle_performance_24h SET open_alarms = '[]' WHERE vehicle_key = %s"


def write(statement: str | Callable[[], None], *parameters: object) -> None:
    if callable(statement):
        statement()
        return
    with engine.transaction() as conn:
        engine.driver(conn).execute(statement.encode(), parameters)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# --- what PostgreSQL tells ------------------------------------------------------------------------


def heard(*statements: tuple[Any, ...], until_all: int) -> set[int] | None:
    """Keys that were told after these were done one after the other; None if once all were."""

    async def listen() -> set[int] | None:
        line, found, keys = Hotline(), set[int](), None
        async with line.open() as conn:
            told = changes.of_summaries(conn)
            assert await anext(told) is None  # what was before is not known
            for statement in statements:
                await asyncio.to_thread(write, *statement)
            async for keys in told:
                if keys is None:
                    break
                found.update(keys)
                if len(found) >= until_all:
                    break
            await told.aclose()
        await line.close()
        return None if keys is None else found

    return asyncio.run(asyncio.wait_for(listen(), 30))


@pytest.mark.parametrize("many", [1, 700, 701, 3_000])
def test_whatever_was_written_is_told(servers: dict[str, str], many: int) -> None:
    assert heard((_INSERT, 2_000_000_001, 2_000_000_000 + many), until_all=many) == {
        *range(2_000_000_001, 2_000_000_001 + many)
    }
    assert heard((_INSERT, 2_000_000_001, 2_000_000_000 + many), until_all=many) == {
        *range(2_000_000_001, 2_000_000_001 + many)
    }


def test_each_kind_of_change_is_told(servers: dict[str, str]) -> None:
    write(_INSERT, 1, 3)
    assert heard((_TOUCH, 2), until_all=1) == {2}
    delete = "DELETE FROM vehicle_performance_24h WHERE vehicle_key = %s"
    assert heard((delete, 3), until_all=1) == {3}
    assert heard((delete, 3), (_TOUCH, 1), until_all=1) == {1}  # of nothing nothing is told
    assert heard(("TRUNCATE vehicle_performance_24h",), until_all=1) is None


def test_who_writes_as_a_replica_does_tells_as_well(servers: dict[str, str]) -> None:
    write(_INSERT, 1, 2)
    assert heard((f"SET session_replication_role = replica; {_TOUCH % 1}",), until_all=1) == {1}
    engine.dispose()  # the session that was changed


@pytest.mark.parametrize("payload", ["", "hello", "1,", "1,two"])
def test_what_is_not_understood_may_be_about_any(servers: dict[str, str], payload: str) -> None:
    assert heard((f"NOTIFY summaries, '{payload}'",), until_all=1) is None


def test_what_is_not_committed_is_not_told(servers: dict[str, str]) -> None:
    write(_INSERT, 1, 2)

    def undone() -> None:
        with engine.engine().connect() as conn:  # rolled back at the end
            engine.driver(conn).execute(_TOUCH.encode(), (1,))

    assert heard((undone,), (_TOUCH, 2), until_all=1) == {2}


def test_silence_is_ended_by_a_sign_of_life(
    servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "BEAT_SECONDS", 0.1)

    async def listen() -> list[Any]:
        line = Hotline()
        async with line.open() as conn:
            told = changes.of_summaries(conn)
            found = [await anext(told) for _ in range(3)]
            await told.aclose()
        await line.close()
        return found

    assert asyncio.run(listen()) == [None, (), ()]


@pytest.mark.parametrize(
    "silenced",
    [
        "ALTER TABLE vehicle_performance_24h DISABLE TRIGGER tell_update",
        "UNLISTEN summaries",  # as if a pooler had given another session
    ],
)
def test_a_postgresql_that_would_not_tell_is_noticed(
    servers: dict[str, str], monkeypatch: pytest.MonkeyPatch, silenced: str
) -> None:
    monkeypatch.setattr(changes, "BEAT_SECONDS", 0.1)

    async def listen() -> None:
        line = Hotline()
        async with line.open() as conn:
            told = changes.of_summaries(conn)
            assert await anext(told) is None
            await conn.execute(silenced.encode())
            with pytest.raises(psycopg.OperationalError, match="do not tell"):
                await anext(told)
        await line.close()

    try:
        asyncio.run(listen())
    finally:
        write("ALTER TABLE vehicle_performance_24h ENABLE ALWAYS TRIGGER tell_update")


# --- what is kept ---------------------------------------------------------------------------------


@asynccontextmanager
async def listening() -> AsyncIterator[Kept[str]]:
    """One that knows of two vehicles what it was told of them."""
    memory: Kept[str] = Kept()
    memory.listen()
    await until(lambda: memory._trusted_until > 0)
    memory.keep(ONE, 1, "one", read_after=memory.news)
    memory.keep(OTHER, 2, "other", read_after=memory.news)
    yield memory
    await memory.close()


def on_a_loop(check: Callable[[Kept[str]], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with listening() as memory:
            assert (memory.find(ONE), memory.find(OTHER)) == ("one", "other")
            await check(memory)

    asyncio.run(run())


@pytest.fixture(autouse=True)
def _two_summaries(servers: dict[str, str]) -> None:
    write(_INSERT, 1, 2)


def test_nothing_is_found_before_it_is_kept_or_before_anything_was_heard() -> None:
    memory: Kept[str] = Kept()
    memory.keep(ONE, 1, "one", read_after=memory.news)
    assert memory.find(ONE) is None

    async def check(memory: Kept[str]) -> None:
        assert memory.find((2, "vehicle-1")) is None  # of another fleet

    on_a_loop(check)


def test_what_has_changed_is_forgotten_and_nothing_else() -> None:
    async def check(memory: Kept[str]) -> None:
        before = memory.news
        await asyncio.to_thread(write, _TOUCH, 1)
        await until(lambda: memory.news > before)
        assert (memory.find(ONE), memory.find(OTHER)) == (None, "other")

    on_a_loop(check)


def test_what_was_read_before_a_change_was_heard_of_is_not_kept() -> None:
    async def check(memory: Kept[str]) -> None:
        read_after = memory.news
        await asyncio.to_thread(write, _TOUCH, 1)
        await until(lambda: memory.news > read_after)
        memory.keep(ONE, 1, "as it was", read_after=read_after)
        assert memory.find(ONE) is None
        memory.keep(ONE, 1, "as it is", read_after=memory.news)
        assert memory.find(ONE) == "as it is"

    on_a_loop(check)


def test_while_news_wait_to_be_read_nothing_is_believed() -> None:
    """The event loop may be late: what has arrived is news before it is read."""

    async def check(memory: Kept[str]) -> None:
        write(_TOUCH, 1)  # the loop stands still
        deadline = time.monotonic() + 10
        while not memory._line.has_arrived():
            assert time.monotonic() < deadline
        assert (memory.find(ONE), memory.find(OTHER)) == (None, None)
        await until(lambda: memory.find(OTHER) == "other")
        assert memory.find(ONE) is None

    on_a_loop(check)


def test_a_postgresql_that_is_silent_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "TRUST_SECONDS", 0.3)

    async def check(memory: Kept[str]) -> None:
        await until(lambda: memory.find(ONE) is None)
        await until(lambda: memory.find(ONE) == "one")  # it was asked, and is there

    on_a_loop(check)


def test_a_connection_that_ended_is_made_anew_and_all_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept, "RETRY_SECONDS", 0.1)

    async def check(memory: Kept[str]) -> None:
        before = memory.news
        assert memory._line._line is not None
        ended = memory._line._line[2].info.backend_pid
        await asyncio.to_thread(rows, f"SELECT pg_terminate_backend({ended}, 5000)")
        await until(lambda: memory.news > before and memory._trusted_until > 0)
        assert (memory.find(ONE), memory.find(OTHER)) == (None, None)
        before = memory.news
        await asyncio.to_thread(write, _TOUCH, 1)
        await until(lambda: memory.news > before)

    on_a_loop(check)


def test_a_postgresql_that_is_away_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept, "RETRY_SECONDS", 0.01)
    told, refused = mock.Mock(), psycopg.OperationalError("refused")
    monkeypatch.setattr(kept, "log", told)
    tries = mock.Mock(side_effect=refused)
    monkeypatch.setattr(Hotline, "open", tries)

    async def run() -> None:
        memory: Kept[str] = Kept()
        memory.listen()
        await until(lambda: tries.call_count > 3)
        await memory.close()

    asyncio.run(run())
    assert told.warning.call_count == 1


def test_between_two_connections_nothing_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes meanwhile is told to nobody."""
    monkeypatch.setattr(kept, "RETRY_SECONDS", 0.1)

    async def check(memory: Kept[str]) -> None:
        with mock.patch.object(changes, "of_summaries", side_effect=OSError):
            assert memory._line._line is not None
            ended = memory._line._line[2].info.backend_pid
            await asyncio.to_thread(rows, f"SELECT pg_terminate_backend({ended}, 5000)")
            await until(lambda: not memory._told)
            await asyncio.sleep(0.3)  # it is connected, and has not begun to listen
            memory.keep(ONE, 1, "one", read_after=memory.news)
            assert memory.find(ONE) is None

    on_a_loop(check)


def test_the_same_vehicle_may_get_another_key_and_a_key_another_vehicle() -> None:
    async def check(memory: Kept[str]) -> None:
        memory.keep(ONE, 3, "one, made anew", read_after=memory.news)
        memory.keep((2, "vehicle-2"), 2, "of another fleet", read_after=memory.news)
        assert (memory.find(ONE), memory.find(OTHER)) == ("one, made anew", None)
        before = memory.news
        await asyncio.to_thread(write, _INSERT, 1, 3)
        await until(lambda: memory.news > before)
        assert [memory.find(v) for v in (ONE, OTHER, (2, "vehicle-2"))] == [None] * 3
        assert not memory._told
        assert not memory._vehicles

    on_a_loop(check)


def test_another_loop_begins_with_nothing() -> None:
    memory: Kept[str] = Kept()

    async def first() -> None:
        memory.listen()
        await until(lambda: memory._trusted_until > 0)
        memory.keep(ONE, 1, "one", read_after=memory.news)
        assert memory.find(ONE) == "one"

    async def second() -> None:
        memory.listen()
        assert memory.find(ONE) is None
        await memory.close()

    asyncio.run(first())
    asyncio.run(second())


def test_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST", 2)

    async def check(memory: Kept[str]) -> None:
        memory.keep((1, "vehicle-3"), 3, "third", read_after=memory.news)
        assert [memory.find((1, f"vehicle-{n}")) for n in (1, 2, 3)] == [None, "other", "third"]
        memory.keep(OTHER, 2, "read again", read_after=memory.news)  # the youngest now
        memory.keep(ONE, 1, "one", read_after=memory.news)
        assert [memory.find((1, f"vehicle-{n}")) for n in (1, 2, 3)] == ["one", "read again", None]
        assert len(memory._told) == len(memory._vehicles) == 2

    on_a_loop(check)


# --- behind the route -----------------------------------------------------------------------------


@pytest.fixture
def quick(front: FrontClient, api: Api) -> Api:
    """The express way to a vehicle that has a summary, which is kept."""
    write("TRUNCATE vehicle_performance_24h")
    api.send(METER, [meter_reading(timestamp=at(h), kwhConsumedAc=10.0 * h) for h in (1, 13)])
    api.send(VEHICLE, [vehicle_reading(timestamp=at(h), kwhDeliveredDc=9.0 * h) for h in (1, 13)])
    flush_all()
    roll_up(at(24))
    quick = Api(front, api.headers)
    quick.get(PATH)
    front.loop.run_until_complete(until(lambda: summary._kept._trusted_until > 0))
    assert quick.get(PATH).json["acKwh"] == 120.0
    return quick


def test_postgresql_is_asked_once(quick: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = quick.get(PATH).headers["ETag"]
    monkeypatch.setattr(reads, "performances", mock.Mock(side_effect=AssertionError))
    assert quick.get(PATH).json["acKwh"] == 120.0
    assert quick.get(PATH, headers={"If-None-Match": tag}).status_code == 304


def test_a_roll_up_is_told_at_once(quick: Api, api: Api, front: FrontClient) -> None:
    before = summary._kept.news
    api.send(METER, meter_reading(timestamp=at(23), kwhConsumedAc=330.0))
    api.send(VEHICLE, vehicle_reading(timestamp=at(23), kwhDeliveredDc=297.0))
    flush_all()
    roll_up(at(24))
    front.loop.run_until_complete(until(lambda: summary._kept.news > before))
    assert quick.get(PATH).json["acKwh"] == 320.0
    assert quick.get(PATH).json == api.get(PATH).json


def test_what_was_read_while_it_changed_is_told_once_and_not_kept(
    quick: Api, front: FrontClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, kept_before = reads.performances, summary._kept.find

    async def changed_meanwhile(conn: Any, wanted: Any) -> Any:
        found = await look_up(conn, wanted)
        before = summary._kept.news
        await asyncio.to_thread(write, "UPDATE vehicle_performance_24h SET ac_kwh = 5")
        await until(lambda: summary._kept.news > before)
        return found

    monkeypatch.setattr(reads, "performances", changed_meanwhile)
    monkeypatch.setattr(summary._kept, "find", lambda _: None)  # it has to be read
    assert quick.get(PATH).json["acKwh"] == 120.0
    monkeypatch.undo()
    assert kept_before((1, "vehicle-001")) is None
    assert quick.get(PATH).json["acKwh"] == 5.0


def test_fleets_do_not_see_each_others(quick: Api, other_api: Api, front: FrontClient) -> None:
    """Both have a vehicle of this name, and both are kept."""
    for hour in (1, 13):
        other_api.send(METER, meter_reading(timestamp=at(hour), kwhConsumedAc=5.0 * hour))
        other_api.send(VEHICLE, vehicle_reading(timestamp=at(hour), kwhDeliveredDc=4.0 * hour))
    flush_all()
    roll_up(at(24))
    others = Api(front, other_api.headers)
    for _ in range(2):
        front.loop.run_until_complete(until(lambda: not summary._kept._line.has_arrived()))
        assert quick.get(PATH).json["acKwh"] == 120.0
        assert others.get(PATH).json["acKwh"] == 60.0
    assert len(summary._kept._told) == 2
