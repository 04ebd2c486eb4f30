"""Start a whole product of our own, and two floors beside it; stop and remove everything again."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

from psycopg import sql

import settings
from bench.copying import connect
from bench.crew import Crew, hired
from bench.load import BATCH_CONNECTIONS, Target
from bench.progress import say
from bench.readings import DEVICES, KINDS, Fleet
from bench.stage import Stage
from bench.usage import Usage
from models.kinds import KINDS as TABLES
from stack import launcher
from stack.launcher import Stack
from stack.ports import free_port
from stack.programs import app_programs
from stack.tether import tethered
from workers import logs, partitions, rollup

#: Processes that generate load; the connections are dealt out among them.
LOADERS = 2 if (os.cpu_count() or 1) <= 2 else 4
#: The measured readings begin this long ago. Those of the warm-up lie in the last day.
HISTORY = timedelta(days=6)
#: Warm-up: each device has a reading every so often, so that the analytics have a number to show.
_RECENT_SPACING, _RECENT_STEPS, _BATCH = timedelta(hours=4), 6, 500


@contextmanager
def staged(folder: Path | None) -> Iterator[Stage]:
    """A running product in a new folder inside `folder`, warmed up; all of it gone at the end."""
    with ExitStack() as cleanup:
        home = cleanup.enter_context(_temporary(folder)) / "home"
        stack = cleanup.enter_context(
            launcher.running(home, environment=_own_environment(), report=say)
        )
        say("the product is ready; now its floors and the load generator")
        _become_part_of(stack)
        bare = cleanup.enter_context(_served(stack, "bare"))
        without_queue = cleanup.enter_context(_served(stack, "without_queue"))
        crew = cleanup.enter_context(hired(LOADERS))
        for target in (bare, without_queue):
            target.wait_until_it_listens()
        usage = Usage(lambda: _roots(stack, crew))
        cleanup.enter_context(usage.watching())
        begin = datetime.now(UTC).replace(second=0, microsecond=0) - HISTORY
        web = Target(int(stack.api_url.rpartition(":")[2]), stack.api_key)
        stage = Stage(stack, crew, usage, web, bare, without_queue, Fleet(begin))
        _warm_up(stage)
        yield stage


def _become_part_of(stack: Stack) -> None:
    """Let this process use models and workers as the stack's own do; only trouble is logged."""
    os.environ.update(stack.environment)
    settings.load.cache_clear()
    logs.configure()
    logging.getLogger().setLevel(logging.WARNING)
    partitions.keep(datetime.now(UTC), 0)


@contextmanager
def _temporary(folder: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(
        prefix="energy-bench-", dir=folder, ignore_cleanup_errors=True
    ) as name:
        Path(name).chmod(0o711)  # nobody passes through it, see stack.unprivileged
        yield Path(name)


def _own_environment() -> dict[str, str]:
    """This process's, without the product's settings: its defaults and its own servers are used."""
    ours = {field.name.upper() for field in fields(settings.Settings)}
    return {name: value for name, value in os.environ.items() if name not in ours}


def _roots(stack: Stack, crew: Crew) -> dict[str, list[int]]:
    programs = {name: [pid] for name, pid in stack.supervisor.pids().items()}
    return programs | {"load generator": crew.pids}


@contextmanager
def _served(stack: Stack, application: str) -> Iterator[Target]:
    """One of bench/apps.py behind granian, configured exactly as the product is."""
    port = free_port()
    (web,) = (p for p in app_programs(port, port) if p.name == "web")
    metrics = stack.home.path / f"metrics-{application}"
    metrics.mkdir()
    with tethered(
        [*web.command[:-1], f"bench.apps:{application}"],
        stop=signal.SIGTERM,
        log=stack.home.logs / f"{application}.log",
        env={**stack.environment, "PROMETHEUS_MULTIPROC_DIR": str(metrics)},
    ):
        yield Target(port, stack.api_key)


def _warm_up(stage: Stage) -> None:
    """Let every device send a few readings, see them stored, have every vehicle summarised."""
    say(f"warming up: {DEVICES:,} meters and {DEVICES:,} vehicles register themselves")
    begin = datetime.now(UTC).replace(microsecond=0) - _RECENT_SPACING * _RECENT_STEPS
    recent = Fleet(begin, _RECENT_SPACING, begin - stage.fleet.begin)
    requests = len(KINDS) * DEVICES * _RECENT_STEPS // _BATCH
    stage.post(stage.web, requests, _BATCH, 0, connections=BATCH_CONNECTIONS, fleet=recent)
    stage.rows += requests * _BATCH
    stage.wait_until_stored()
    while not rollup.tick(datetime.now(UTC))["vehicles"]:
        time.sleep(0.2)  # beat's own tick is at work
    # What is measured begins before these: it shall be the latest of its device when it comes.
    with connect(stage.database_url) as conn:
        for kind in TABLES.values():
            conn.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(kind.latest.name)))
