"""Rows of the fault matrix (docs/reliability.md) that the door and the reads hold."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from models import engine
from models.kinds import METER
from tests.factories import at, flush_all, meter_reading, rows
from tests.web.calls import Api, accepted, refused, waiting
from web import auth

# --- 16: PostgreSQL is frozen ---------------------------------------------------------------------


@pytest.fixture
def frozen(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PostgreSQL, all its processes, gets no CPU; sessions that exist wait half a second."""
    monkeypatch.setattr(engine, "ANSWER_SECONDS", 0.5)
    (backend,) = rows("SELECT pg_backend_pid() AS pid")
    postmaster = psutil.Process(backend["pid"]).parent()
    assert postmaster is not None
    family = [postmaster.pid, *(child.pid for child in postmaster.children(recursive=True))]
    signal_all(family, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_all(family, signal.SIGCONT)
        engine.dispose()


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # a helper of the server that ended meanwhile
            continue


@pytest.fixture
def known(api: Api) -> Api:
    """A sender and reader whose key this process has seen, with a reading in history."""
    accepted(api.send(METER, meter_reading()))
    flush_all()
    assert api.get("/v1/meters").status_code == 200
    return api


def test_row_16_a_frozen_postgresql_holds_up_no_read_for_long(
    known: Api, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("frozen")
    for _ in range(2):  # on the connection that was open, and on one that is made
        began = time.monotonic()
        refused(known.get("/v1/meters/meter-001/status"), "DATABASE_UNAVAILABLE")
        assert time.monotonic() - began < 6
    began = time.monotonic()
    assert "DATABASE_UNAVAILABLE" in known.client.get("/readyz").json["unmet"]
    assert time.monotonic() - began < 6


def test_row_16_a_frozen_postgresql_holds_up_no_reading(
    known: Api, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request.getfixturevalue("frozen")
    began = time.monotonic()
    accepted(known.send(METER, meter_reading(timestamp=at(13))))
    assert time.monotonic() - began < 2
    monkeypatch.setattr(auth, "REMEMBER_SECONDS", 0)  # the key is due to be asked for again
    accepted(known.send(METER, meter_reading(timestamp=at(14))))
    assert time.monotonic() - began < 8
    assert waiting() == 2
