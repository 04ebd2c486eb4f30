"""Rows of docs/reliability.md that the stream, the flush and PostgreSQL decide among themselves."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from sqlalchemy.exc import OperationalError

import settings
from models import engine, writes
from models.codec import Row
from models.engine import driver, transaction
from models.kinds import METER, VEHICLE
from stack import valkey
from stack.ports import free_port
from stack.tether import tethered
from tests import proxy
from tests.factories import (
    at,
    execute,
    flush_all,
    meter_reading,
    performance_of,
    post_to_stream,
    register,
    roll_up,
    rows,
    store,
)
from workers import flush, stream
from workers.stream import StreamUnavailable

AWAY = (psycopg.OperationalError, OperationalError, redis.RedisError)


def use(monkeypatch: pytest.MonkeyPatch, variable: str, url: str) -> None:
    monkeypatch.setenv(variable, url)
    settings.load.cache_clear()


def history() -> list[datetime]:
    found = rows("SELECT recorded_at FROM meter_telemetry_history ORDER BY 1")
    return [row["recorded_at"] for row in found]


def nothing_is_buried() -> bool:
    return rows("SELECT count(*) AS n FROM dead_letters") == [{"n": 0}]


# --- the stream's server --------------------------------------------------------------------------

#: Runs a program that may not write files larger than so many bytes, as on a disk that is full.
_FULL_DISK = (
    "import os, resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    "size = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (size, size));"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


@contextmanager
def stream_server(
    folder: Path, port: int, *, before: Sequence[str] = (), more: str = "", wait: bool = True
) -> Iterator[Callable[[], bool]]:
    """A durable stream server with its data in `folder`; yields whether it is still running."""
    command = valkey.command(
        folder / "data", port, "secret", appendfsync="always", maxmemory="256mb"
    )
    with (folder / "data" / "valkey.conf").open("a") as config:
        config.write(more)
    with tethered([*before, *command], stop=signal.SIGTERM, log=folder / "log") as process:
        if wait:
            valkey.wait_ready(valkey.url(port, "secret"), 30)
        yield lambda: process.poll() is None


@pytest.fixture
def own_stream(
    fleet: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, int]]:
    """(folder, port) of a stream server that the test starts itself; STREAM_URL names it."""
    port = free_port()
    use(monkeypatch, "STREAM_URL", valkey.url(port, "secret"))
    yield tmp_path, port
    stream.client().connection_pool.disconnect()


def test_row_06_a_stream_that_reads_a_big_file_accepts_nothing_until_it_has(
    own_stream: tuple[Path, int], fleet: int
) -> None:
    folder, port = own_stream
    entries = 50_000
    with stream_server(folder, port) as runs:
        server = stream.client()
        for _ in range(entries // 1000):
            pipe = server.pipeline(transaction=False)
            for _ in range(1000):
                pipe.xadd("energy:{meter}", {"v": "1", "f": fleet, "n": 1, "b": "[]"})
            pipe.execute()
        os.kill(int(server.info("server")["process_id"]), signal.SIGKILL)
        while runs():
            time.sleep(0.01)
    slowly = "key-load-delay 40\n"  # microseconds for each command of the file
    refusals = 0
    with stream_server(folder, port, more=slowly, wait=False):
        deadline = time.monotonic() + 60
        while True:
            try:
                post_to_stream(METER, fleet, [meter_reading()])
                break
            except StreamUnavailable as error:
                refusals += "loading" in str(error).lower()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert refusals > 0
        assert stream.waiting(METER) == entries + 1
        stream.client().connection_pool.disconnect()


def test_row_10_a_full_disk_loses_nothing_that_was_accepted(
    own_stream: tuple[Path, int], fleet: int
) -> None:
    """Under `appendfsync always` the server ends rather than go on without its file."""
    folder, port = own_stream
    full = (sys.executable, "-c", _FULL_DISK, "100000")
    accepted = []
    with stream_server(folder, port, before=full) as runs:
        for minute in range(2_000):
            try:
                post_to_stream(METER, fleet, [meter_reading(timestamp=at(minutes=minute))])
            except StreamUnavailable:
                break
            accepted.append(at(minutes=minute))
        else:
            pytest.fail("the disk is not full")
        deadline = time.monotonic() + 10
        while runs():
            assert time.monotonic() < deadline, "it goes on without its file"
            time.sleep(0.01)
    assert len(accepted) > 100
    with stream_server(folder, port):  # there is room again
        post_to_stream(METER, fleet, [meter_reading(timestamp=at(100))])
        flush_all()
        assert set(history()) >= {*accepted, at(100)}
        assert len(history()) <= len(accepted) + 2  # the refused one may or may not be there
        stream.client().connection_pool.disconnect()


def test_row_13_a_stream_that_an_operator_emptied_goes_on_from_its_beginning(fleet: int) -> None:
    """What waited is lost, as documented; what comes after is not."""
    store(fleet, [(at(0), 1.0)])
    post_to_stream(METER, fleet, [meter_reading(timestamp=at(1))])
    stream.client().flushall()
    post_to_stream(METER, fleet, [meter_reading(timestamp=at(2))])
    flush_all()
    assert history() == [at(0), at(2)]


# --- PostgreSQL -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.DiskFull,
        psycopg.errors.TooManyConnections,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.SerializationFailure,
        psycopg.errors.QueryCanceled,
        psycopg.errors.ReadOnlySqlTransaction,
        psycopg.errors.InsufficientPrivilege,
    ],
)
def test_row_17_what_is_not_the_datas_fault_buries_nothing(
    fleet: int, monkeypatch: pytest.MonkeyPatch, error: type[psycopg.Error]
) -> None:
    """A full disk (53100) and its kin, raised where history is written."""
    post_to_stream(METER, fleet, [meter_reading(timestamp=at(n)) for n in range(3)])

    def refuse(*_: Any) -> None:
        raise error("no room")

    with monkeypatch.context() as trouble:
        trouble.setattr(writes, "_copy", refuse)
        for _ in range(3):
            with pytest.raises(error):
                flush.flush(METER, "test")
    assert history() == []
    assert nothing_is_buried()
    flush_all()
    assert history() == [at(0), at(1), at(2)]
    assert nothing_is_buried()


def test_row_18_without_a_free_connection_readings_wait(
    servers: dict[str, str], fleet: int
) -> None:
    post_to_stream(METER, fleet, [meter_reading()])
    (limit,) = rows(
        "SELECT setting::int AS connections FROM pg_settings WHERE name = 'max_connections'"
    )
    engine.dispose()

    def take_all(held: ExitStack) -> None:
        for _ in range(limit["connections"] + 1):
            held.enter_context(psycopg.connect(servers["DATABASE_URL"]))

    with ExitStack() as held:
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            take_all(held)
        with pytest.raises(AWAY):
            flush.flush(METER, "test")
    flush_all()
    assert history() == [at(12)]
    assert nothing_is_buried()


@pytest.fixture
def short_sleeps(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A transaction may be idle for 300 ms instead of 15 s."""
    engine.dispose()
    engine._engine_of.cache_clear()
    monkeypatch.setitem(engine._SESSION, "idle_in_transaction_session_timeout", "300ms")
    yield
    engine.dispose()
    engine._engine_of.cache_clear()


def test_row_20_a_worker_that_froze_in_its_transaction_holds_up_nobody(
    short_sleeps: None, fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take over its entries; PostgreSQL ends its transaction; its COMMIT is too late."""
    store(fleet, [(at(0), 99.0)])  # the meter is known
    (device,) = rows("SELECT key FROM meters")
    post_to_stream(METER, fleet, [meter_reading(timestamp=at(12))])
    assert len(stream.claim(METER, "zombie", 10)) == 1
    monkeypatch.setattr(stream, "CLAIM_IDLE_MS", 0)
    frozen = engine.engine().connect()
    row = Row(device["key"], int(at(12).timestamp()) * 1_000_000, 0, (100.5, 230.1))
    assert writes.store(frozen, METER, [row]).inserted == 1
    report = flush.flush(METER, "alive")  # waits for the zombie's row, then writes its own
    assert report["inserted"] == 1
    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
        driver(frozen).execute("SELECT 1")
    frozen.invalidate()
    frozen.close()
    assert history() == [at(0), at(12)]
    assert stream.waiting(METER) == 0


# --- the network ----------------------------------------------------------------------------------


def test_row_22_a_slow_and_torn_network_loses_nothing(
    servers: dict[str, str], fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes late and in slices, one piece in a hundred a reset, to the stream and PostgreSQL."""
    accepted: list[datetime] = []
    troubles = 0
    with proxy.before(servers["STREAM_URL"]) as one, proxy.before(servers["DATABASE_URL"]) as two:
        for poor in (one, two):
            poor.weather.latency_seconds = 0.0005
            poor.weather.slice_bytes = 400
            poor.weather.resets = 0.01
        with monkeypatch.context() as bad_network:
            use(bad_network, "STREAM_URL", one.url)
            use(bad_network, "DATABASE_URL", two.url)
            for minute in range(60):
                while True:
                    try:
                        post_to_stream(METER, fleet, [meter_reading(timestamp=at(minutes=minute))])
                        break
                    except StreamUnavailable:
                        troubles += 1
                accepted.append(at(minutes=minute))
                try:
                    flush.flush(METER, "test")
                except AWAY:
                    troubles += 1
            engine.dispose()
            stream.client().connection_pool.disconnect()
    settings.load.cache_clear()
    flush_all()
    assert troubles > 5
    assert history() == accepted
    assert nothing_is_buried()
    assert stream.waiting(METER) == 0


# --- time -----------------------------------------------------------------------------------------

SUMMER, WINTER = timezone(timedelta(hours=2)), timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("what", "end"),
    [
        ("clocks go forward", datetime(2026, 3, 29, 22, tzinfo=UTC)),
        ("clocks go back", datetime(2026, 10, 25, 23, tzinfo=UTC)),
        ("a leap day", datetime(2024, 3, 1, tzinfo=UTC)),
        ("the year ends", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_row_30_a_day_has_86400_seconds_whatever_the_clocks_on_the_wall_do(
    fleet: int, what: str, end: datetime
) -> None:
    """10 kWh an hour in, 9 out; each reading spelled in the offset of its place and season."""
    hours = range(-26, 1)
    spelled = [
        (end + timedelta(hours=h)).astimezone(SUMMER if h % 2 else WINTER).isoformat()
        for h in hours
    ]
    for kind, per_hour in ((METER, 10.0), (VEHICLE, 9.0)):
        samples = [(instant, per_hour * n) for n, instant in enumerate(spelled)]
        post_to_stream(kind, fleet, register(kind, samples))
    flush_all()
    roll_up(end)
    row = performance_of("vehicle-001")
    assert (row["window_to"] - row["window_from"]).total_seconds() == 86_400
    assert row["ac_kwh"] == pytest.approx(240.0), what
    assert row["dc_kwh"] == pytest.approx(216.0), what
    assert row["efficiency"] == pytest.approx(0.9)


# --- processes ------------------------------------------------------------------------------------


def _backend(found: Any) -> None:
    with transaction() as conn:
        found.put(int(driver(conn).info.backend_pid))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_row_50_a_forked_child_never_speaks_on_its_parents_connection(fleet: int) -> None:
    with transaction() as conn:
        parents = int(driver(conn).info.backend_pid)
    post_to_stream(METER, fleet, [meter_reading()])  # the parent's connection to the stream
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    children = [context.Process(target=_backend, args=(found,)) for _ in range(8)]
    for child in children:
        child.start()
    backends = [found.get(timeout=20) for _ in children]
    for child in children:
        child.join(20)
    assert len({parents, *backends}) == 9
    execute("SELECT 1")  # and the parent's are as they were
    assert stream.waiting(METER) == 1
