"""Failpoints: every call that this process makes to PostgreSQL and Redis, named and counted.

Nothing of this is in the product: a test lays the failpoints around the drivers' own calls, so they
cost nothing when there is no test. What happens at a failpoint is a `Blow`:

- *fail*: the call raises what a lost connection raises, before it was made or after it took effect;
- *kill*: the process is gone in that moment (os._exit), as at a kill -9.

A pipeline has a third moment, `within`: its first command was made and the others were not.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

import psycopg
import pytest
import redis

#: Exit code of a process that ended at a failpoint.
KILLED = 137

Blow = Callable[[type[Exception]], None]


class When(StrEnum):
    """The moment of a blow."""

    BEFORE = "before"
    WITHIN = "within"
    AFTER = "after"


def fail(error: type[Exception]) -> None:
    """The call does not come back as it should."""
    raise error("failed on purpose")


def kill(_: type[Exception]) -> None:
    """The process does not come back at all."""
    os._exit(KILLED)


class Failpoints:
    """Lies in wait at the `at`-th call; `trail` names all calls up to now."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, when: When, blow: Blow) -> None:
        self.at, self.when, self.blow = at, when, blow
        self.trail: list[str] = []
        for owner, name, error in (
            (psycopg.Cursor, "execute", psycopg.OperationalError),
            (psycopg.Cursor, "copy", psycopg.OperationalError),
            (psycopg.Copy, "write", psycopg.OperationalError),
            (psycopg.Connection, "commit", psycopg.OperationalError),
            (redis.Redis, "execute_command", redis.ConnectionError),
            (redis.client.Pipeline, "execute", redis.ConnectionError),
        ):
            patch.setattr(owner, name, self._guarded(getattr(owner, name), error))

    @property
    def struck(self) -> bool:
        """Whether the call to strike at was reached."""
        return len(self.trail) >= self.at

    def _guarded(self, call: Callable[..., Any], error: type[Exception]) -> Callable[..., Any]:
        def guarded(self_: Any, *args: Any, **kwargs: Any) -> Any:
            self.trail.append(_name(call.__name__, self_, args))
            if len(self.trail) != self.at:
                return call(self_, *args, **kwargs)
            try:
                self._partly(call, self_, args, kwargs)
            finally:  # a call may also refuse by itself: BUSYGROUP is an answer like any other
                self.blow(error)
            raise AssertionError("a blow does not come back")

        return guarded

    def _partly(
        self, call: Callable[..., Any], owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self.when is When.AFTER:
            call(owner, *args, **kwargs)
        elif self.when is When.WITHIN and isinstance(owner, redis.client.Pipeline):
            del owner.command_stack[1:]
            call(owner, *args, **kwargs)
        elif self.when is When.WITHIN and isinstance(owner, psycopg.Copy):
            call(owner, args[0][: len(args[0]) // 2])


def _name(method: str, owner: Any, args: tuple[Any, ...]) -> str:
    """`XREADGROUP`, `XDEL+XACK`, `COPY`, `COMMIT`, or the beginning of a statement."""
    if isinstance(owner, redis.client.Pipeline):
        return "+".join(str(command[0][0]) for command in owner.command_stack)
    if method in ("execute", "execute_command"):
        asked = args[0] if isinstance(args[0], str) else str(getattr(args[0], "as_string", str)())
        return " ".join(asked.split())[:60]
    return method.upper()


# --- death in a process of its own ----------------------------------------------------------------


def _doomed(work: str, arguments: tuple[Any, ...], at: int, when: When) -> None:
    """What the child does: lay the failpoint, work, and end cleanly if it was never reached."""
    with pytest.MonkeyPatch.context() as patch:
        Failpoints(patch, at, when, kill)
        _WORKS[work](*arguments)
    os._exit(0)


def _flush(environment: Mapping[str, str], kind: str, consumer: str) -> None:
    from models.kinds import KINDS  # noqa: PLC0415  (in the child, after its environment is set)
    from workers import flush  # noqa: PLC0415

    os.environ.update(environment)
    flush.flush(KINDS[kind], consumer)


def _tick(environment: Mapping[str, str], now: datetime) -> None:
    from workers import rollup  # noqa: PLC0415

    os.environ.update(environment)
    rollup.tick(now)


_WORKS: dict[str, Callable[..., None]] = {"flush": _flush, "tick": _tick}


def survives(work: str, *arguments: Any, at: int, when: When) -> bool:
    """Do "flush" or "tick" in a process that is killed at its `at`-th call; False when it was.

    The children are forked from a process of their own that has no threads and no connections.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.failpoints", "workers.flush", "workers.rollup"])
    child = context.Process(target=partial(_doomed, work, arguments, at, when))
    child.start()
    child.join(60)
    assert child.exitcode in (0, KILLED), f"{work}, call {at}: exit code {child.exitcode}"
    return child.exitcode == 0
