"""Start the whole product, and stop all of it again. `make run` and the end-to-end tests are this.

with running(Path("/tmp/home")) as stack:
    requests to stack.api_url with stack.api_key; os.kill(stack.pid("web"), signal.SIGKILL)
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stack import credentials, orphans, plan, postgres, probe, valkey
from stack.errors import StackError
from stack.home import ROOT, Home
from stack.plan import Plan
from stack.ports import LOOPBACK, free_port, require_free
from stack.supervision import Supervisor, supervised, with_log

#: Seconds for a data server: after a crash PostgreSQL replays up to two gigabytes of WAL.
DATA_SECONDS = 120.0

#: Seconds for a server that somebody else runs: it is there or it is not.
GIVEN_SECONDS = 15.0

#: Seconds for the application once its data servers answer.
APP_SECONDS = 120.0

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stack:
    """A running product."""

    home: Home
    api_url: str
    api_key: str
    flower_url: str
    #: DATABASE_URL, STREAM_URL, CELERY_BROKER_URL, FLOWER_BASIC_AUTH and what else there is.
    environment: Mapping[str, str]
    supervisor: Supervisor

    def pid(self, name: str) -> int:
        """The process of "web", "worker-flush", "worker-rollup", "worker-webhooks", "beat",
        "flower", "postgres", "stream" or "broker". Raises KeyError when it does not run.
        """
        return self.supervisor.pid(name)


def _silent(_: str) -> None:
    """Report to nobody."""


@contextmanager
def running(
    home_path: Path | str,
    *,
    api_port: int | None = None,
    flower_port: int | None = None,
    environment: Mapping[str, str] | None = None,
    report: Report = _silent,
) -> Iterator[Stack]:
    """The product with its data under `home_path`; ready when yielded, gone when the block ends.

    Without port numbers free ones are taken. `environment` (default: this process's) reaches all
    programs; a data server whose URL it holds is used instead of being started.
    Raises StackError, with nothing left running, when a part does not start.
    """
    home = Home.at(home_path)
    with home.lock():
        home.prepare()
        for pid in orphans.stop(home):
            report(f"stopped process {pid}, left over from a start that was killed")
        api, flower = api_port or free_port(), flower_port or free_port()
        require_free(api, "the API", "API_PORT")
        require_free(flower, "Flower", "FLOWER_PORT")
        start = plan.make(home, api, flower, os.environ if environment is None else environment)
        with supervised(
            home, start.programs, start.supervisor_port, start.environment
        ) as supervisor:
            yield Stack(
                home=home,
                api_url=f"http://{LOOPBACK}:{api}",
                api_key=_bring_up(start, supervisor, api, report),
                flower_url=f"http://{LOOPBACK}:{flower}",
                environment=start.environment,
                supervisor=supervisor,
            )


def _bring_up(start: Plan, supervisor: Supervisor, port: int, report: Report) -> str:
    """Each step once the one before is done; returns a key that the API accepts."""
    _wait_for_data(start, supervisor)
    report("data servers answer")
    _tool(start, "alembic", "upgrade", "head")
    report("database schema is current")
    supervisor.start_group("app")
    key = credentials.read_key(supervisor.home) or _create_key(start)  # while that starts
    try:
        probe.wait_ready(port, APP_SECONDS, supervisor.require_health, report)
    except TimeoutError as error:
        raise StackError(with_log(supervisor.home, str(error), "web")) from error
    if not probe.is_known(port, key):  # the database is another one than last time
        key = _create_key(start)
    credentials.write(supervisor.home, f"http://{LOOPBACK}:{port}", key)
    return key


def _wait_for_data(start: Plan, supervisor: Supervisor) -> None:
    waits = {
        "postgres": ("DATABASE_URL", postgres.wait_ready),
        "stream": ("STREAM_URL", valkey.wait_ready),
        "broker": ("CELERY_BROKER_URL", valkey.wait_ready),
    }
    for name, (variable, wait_ready) in waits.items():
        url = start.environment[variable]
        if start.starts(name):
            try:
                wait_ready(url, DATA_SECONDS, supervisor.is_healthy)
            except StackError as error:
                raise StackError(with_log(supervisor.home, str(error), name)) from error
        elif url.startswith(("postgres", "redis", "valkey", "unix")):  # else it is Celery's affair
            try:
                wait_ready(url, GIVEN_SECONDS)
            except StackError as error:
                raise StackError(f"{variable} is set, but: {error}") from error


def _create_key(start: Plan) -> str:
    printed = _tool(
        start,
        *("flask", "--app", "web", "keys", "create", "--quiet"),
        *("--fleet", "demo", "--name", "make run", "--scopes", "ingest,read,admin"),
    )
    return printed.strip()


def _tool(start: Plan, module: str, *arguments: str) -> str:
    """What one of the product's own commands prints. Raises StackError when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=False,
        cwd=ROOT,
        env=dict(start.environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        command = shlex.join((module, *arguments))
        raise StackError(f"{command} failed:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout
