"""Rows of docs/reliability.md that need the whole product, or minutes. `make chaos ROWS=1` runs
them, `make test` does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kombu.pools
import pytest

from models.kinds import METER
from stack.home import ROOT
from stack.tether import tethered
from tests import proxy
from tests.factories import at, meter_reading, post_to_stream, rows
from workers import doorbell
from workers.celery import app

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


def holds(faults: str, seconds: int, *, freeze: int = 4) -> bool:
    """Whether the ledger holds after `seconds` of these faults."""
    asked = ["--seconds", str(seconds), "--seed", "52", "--faults", faults]
    command = [sys.executable, "-m", "tests.chaos", *asked, "--freeze", str(freeze)]
    return subprocess.run(command, check=False, cwd=ROOT).returncode == 0


def test_row_01_web_processes_killed_under_load() -> None:
    assert holds("web-kill,web-child-kill", 25)


def test_row_03_flush_workers_killed_with_all_their_children() -> None:
    """Thirty times, and more."""
    assert holds("flush-kill,flush-child-kill", 100)


def test_row_04_beat_killed_and_two_beats() -> None:
    assert holds("beat-kill,beat-double", 40)


def test_row_05_the_stream_killed_and_away_under_load() -> None:
    assert holds("stream-kill,stream-outage", 40)


def test_row_07_the_stream_frozen_for_up_to_forty_seconds() -> None:
    assert holds("stream-freeze", 120, freeze=40)


def test_row_08_the_broker_killed_and_away_under_load() -> None:
    assert holds("broker-kill,broker-outage", 60)


def test_row_14_postgresql_stopped_at_once_ten_times() -> None:
    assert holds("postgres-immediate,postgres-outage", 80)


def test_row_16_postgresql_frozen_for_up_to_forty_seconds() -> None:
    assert holds("postgres-freeze", 120, freeze=40)


def test_row_20_flush_workers_frozen_longer_than_others_wait_for_them() -> None:
    assert holds("flush-child-freeze,flush-freeze", 120, freeze=40)


def test_row_28_the_rollup_killed_under_load() -> None:
    assert holds("rollup-kill,rollup-child-kill", 30)


def test_row_49_everything_told_to_stop_under_load() -> None:
    assert holds("everything-restart", 60)


def worker_command() -> list[str]:
    options = ("--queues=flush", "--concurrency=1", "--without-gossip", "--without-mingle")
    return [sys.executable, "-m", "celery", "-A", "workers", "worker", *options]


def stored() -> int:
    return len(rows("SELECT * FROM meter_telemetry_history"))


def test_row_11_a_worker_notices_a_half_open_connection_to_its_broker(
    servers: dict[str, str], fleet: int, tmp_path: Path
) -> None:
    """Nothing comes through any more on the connections it has, and nobody says so."""
    kombu.pools.reset()
    app._after_fork()
    with proxy.before(servers["CELERY_BROKER_URL"]) as network:
        environment = {**os.environ, **servers, "CELERY_BROKER_URL": network.url}
        with tethered(worker_command(), stop=signal.SIGTERM, log=tmp_path / "log", env=environment):
            ring_until(fleet, 30, more_than=0)
            network.weather.blackhole_before = time.monotonic()
            took = ring_until(fleet, 60, more_than=stored())
    assert took < 40


def ring_until(fleet: int, seconds: float, *, more_than: int) -> float:
    """Post and ring each second until the worker has stored something; how long that took."""
    began = time.monotonic()
    while stored() <= more_than:
        waited = time.monotonic() - began
        assert waited < seconds, "the worker is deaf"
        post_to_stream(METER, fleet, [meter_reading(timestamp=at(seconds=time.time() % 10_000))])
        doorbell.ring(METER)
        time.sleep(1)
    return time.monotonic() - began
