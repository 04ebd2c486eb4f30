"""The one way to a connection: an engine per process, a transaction per unit of work."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

import msgspec
import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.types.json import set_json_loads
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import InvalidatePoolError

import settings

T = TypeVar("T")

#: What every session of the product asks of PostgreSQL (reliability: a commit that was confirmed is
#: on disk; nobody waits for ever; a frozen client does not block others).
_SESSION = {
    "timezone": "UTC",
    "synchronous_commit": "on",
    "statement_timeout": "20s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
    # One that is told something and does not read it would hold back VACUUM for ever.
    "tcp_user_timeout": "20s",
}

#: Longest wait for an answer, longer than statement_timeout: a server that is alive has given up on
#: the statement by then. A frozen one (stopped, a hung disk) never would, and TCP does not notice.
ANSWER_SECONDS = 25.0

#: Connections kept per process: the web's threads share them, a worker child needs one.
POOL_SIZE = 8


_patience: ContextVar[float | None] = ContextVar("patience", default=None)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Wait at most so long for each answer of PostgreSQL inside."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


class _Bounded(psycopg.Connection[tuple[Any, ...]]):
    """A connection that gives up on a server which does not answer: OperationalError."""

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        limit = _limit_seconds(timeout)
        try:
            return super().wait(gen, interval=interval, timeout=limit)
        except psycopg.errors._WaitTimeout:
            if timeout is not None:  # who asks for a limit knows what to do about it
                raise
            self.close()  # the answer to a question that nobody waits for would come to the next
            raise _unanswered(limit) from None


class _BoundedAsync(psycopg.AsyncConnection[tuple[Any, ...]]):
    """The same on an event loop."""

    async def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        limit = _limit_seconds(timeout)
        try:
            return await super().wait(gen, interval=interval, timeout=limit)
        except psycopg.errors._WaitTimeout:
            if timeout is not None:
                raise
            await self.close()
            raise _unanswered(limit) from None


def _limit_seconds(asked_for: float | None) -> float:
    return asked_for if asked_for is not None else _patience.get() or ANSWER_SECONDS


def _unanswered(seconds: float) -> psycopg.OperationalError:
    return psycopg.OperationalError(f"PostgreSQL has not answered for {seconds:g} s")


def normalise_url(url: str) -> str:
    """A SQLAlchemy URL for psycopg 3, from whatever scheme platforms hand out."""
    for scheme in ("postgres://", "postgresql://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def _connect_args(**more: str) -> dict[str, Any]:
    session = _SESSION | more
    return {
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        "connect_timeout": 3,
        "application_name": "energy",
        "keepalives_idle": 30,
        "tcp_user_timeout": 20_000,
    }


@cache
def _engine_of(pid: int, url: str) -> Engine:  # pid: a forked child never shares its parent's
    made = create_engine(
        make_url(normalise_url(url)),
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=2,  # a busy pool answers 503 soon, it does not queue requests for ever
        connect_args=_connect_args(),
    )
    event.listen(made, "do_connect", _connect)
    event.listen(made, "checkout", _still_open)
    return made


def _connect(_dialect: object, _record: object, args: Any, options: Any) -> _Bounded:
    connection = _Bounded.connect(*args, **options)
    set_json_loads(msgspec.json.decode, connection)  # half the time of Python's own
    return connection


def _still_open(connection: psycopg.Connection[Any], _record: object, _proxy: object) -> None:
    """An idle connection on which something arrived was closed by the server: all are made anew."""
    if _is_hung_up(connection):
        raise InvalidatePoolError("the server has closed this connection")


def _is_hung_up(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether the server has closed an idle connection: something arrived on it.

    In place of a pre-ping: no round trip. A server that died without a word is noticed by the wait.
    """
    idle = select.poll()
    idle.register(connection.fileno(), select.POLLIN)
    return bool(idle.poll(0))


def engine() -> Engine:
    """This process's engine. Opens nothing until the first connection is asked for."""
    return _engine_of(os.getpid(), settings.load().database_url)


@contextmanager
def transaction() -> Iterator[Connection]:
    """A connection inside a transaction: committed at the end, rolled back by an exception."""
    with engine().begin() as connection:
        yield connection


@contextmanager
def reading() -> Iterator[Connection]:
    """A connection for lookups: each statement for itself, no BEGIN and COMMIT around it."""
    with engine().connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


class Hotline:
    """A connection of an event loop that stays open for one kind of lookup, one at a time.

    What a pool does around a statement takes as long as a statement that finds one row.
    """

    def __init__(self) -> None:
        self._line: tuple[object, Engine, psycopg.AsyncConnection[Any]] | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """The connection; after any error a new one is made the next time."""
        connection = await self._kept() or await self._made()
        try:
            yield connection
        except BaseException:
            await self.close()
            raise

    def has_arrived(self) -> bool:
        """Whether something may wait to be read: there is no connection, or an answer is due."""
        if self._line is None or self._line[2].closed:
            return True
        idle = self._line[2].pgconn.transaction_status == TransactionStatus.IDLE
        return not idle or _is_hung_up(self._line[2])

    async def close(self) -> None:
        """Hang up."""
        line, self._line = self._line, None
        if line is not None:
            await line[2].close()

    async def _kept(self) -> psycopg.AsyncConnection[Any] | None:
        if self._line is None:
            return None
        loop, made_for, connection = self._line
        if (loop, made_for) == (asyncio.get_running_loop(), engine()):
            if not connection.closed and not _is_hung_up(connection):
                return connection
            await self.close()
        self._line = None  # another loop's is left to that
        return None

    async def _made(self) -> psycopg.AsyncConnection[Any]:
        args, options = engine().dialect.create_connect_args(engine().url)
        # A statement that finds a row is planned in twice the time that it takes.
        generic = _connect_args(plan_cache_mode="force_generic_plan")
        connection = await _BoundedAsync.connect(*args, **{**options, **generic}, autocommit=True)
        set_json_loads(msgspec.json.decode, connection)
        self._line = (asyncio.get_running_loop(), engine(), connection)
        return connection


def driver(connection: Connection) -> psycopg.Connection[tuple[Any, ...]]:
    """The psycopg connection under SQLAlchemy's, in the same transaction: COPY, arrays, json."""
    found = connection.connection.driver_connection
    assert isinstance(found, psycopg.Connection)  # noqa: S101  (narrows the pool's type)
    return found


def dispose() -> None:
    """Close this process's idle connections (tests and worker shutdown)."""
    engine().dispose()
