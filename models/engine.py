"""The one way to a connection: an engine per process, a transaction per unit of work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Connection, Engine, create_engine, event, make_url

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
        limit = timeout if timeout is not None else _patience.get() or ANSWER_SECONDS
        try:
            return super().wait(gen, interval=interval, timeout=limit)
        except psycopg.errors._WaitTimeout:
            if timeout is not None:  # who asks for a limit knows what to do about it
                raise
            self.close()  # the answer to a question that nobody waits for would come to the next
            message = f"PostgreSQL has not answered for {limit:g} s"
            raise psycopg.OperationalError(message) from None


def normalise_url(url: str) -> str:
    """A SQLAlchemy URL for psycopg 3, from whatever scheme platforms hand out."""
    for scheme in ("postgres://", "postgresql://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


@cache
def _engine_of(pid: int, url: str) -> Engine:  # pid: a forked child never shares its parent's
    options = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    made = create_engine(
        make_url(normalise_url(url)),
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=2,  # a busy pool answers 503 soon, it does not queue requests for ever
        pool_pre_ping=True,
        connect_args={
            "options": options,
            "connect_timeout": 3,
            "application_name": "energy",
            "keepalives_idle": 30,
            "tcp_user_timeout": 20_000,
        },
    )
    event.listen(made, "do_connect", _connect)
    return made


def _connect(_dialect: object, _record: object, args: Any, options: Any) -> _Bounded:
    return _Bounded.connect(*args, **options)


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


def driver(connection: Connection) -> psycopg.Connection[tuple[Any, ...]]:
    """The psycopg connection under SQLAlchemy's, in the same transaction: COPY, arrays, json."""
    found = connection.connection.driver_connection
    assert isinstance(found, psycopg.Connection)  # noqa: S101  (narrows the pool's type)
    return found


def dispose() -> None:
    """Close this process's idle connections (tests and worker shutdown)."""
    engine().dispose()
