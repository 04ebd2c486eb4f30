"""Run programs under supervisor: start them in order, restart what dies, stop in reverse order."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from stack import orphans, supervisor_config
from stack.errors import StackError
from stack.home import Home
from stack.ports import LOOPBACK
from stack.programs import Program
from stack.tether import tethered

#: A program that died this often before the stack was ready will not come up by itself.
HOPELESS = 3

#: Lines of a log that are shown with an error.
LAST_LINES = 25

#: Seconds until supervisord itself must answer.
_ANSWER_SECONDS = 15.0


@dataclass(slots=True)
class Supervisor:
    """A running supervisord and the programs that it knows, by their short names."""

    home: Home
    groups: Mapping[str, str]
    url: str
    is_alive: Callable[[], bool]
    _failures: Counter[str] = field(default_factory=Counter)
    _states: dict[str, str] = field(default_factory=dict)

    def start_group(self, group: str) -> None:
        """Start all programs of `group` at once, without waiting for them."""
        call(self.url, "startProcessGroup", group, False)

    def start(self, name: str) -> None:
        """Start one program that was stopped; return when it has run for a second."""
        call(self.url, "startProcess", f"{self.groups[name]}:{name}")

    def stop(self, name: str) -> None:
        """Stop one program and wait until it is gone; it stays stopped."""
        call(self.url, "stopProcess", f"{self.groups[name]}:{name}")

    def processes(self) -> list[dict[str, Any]]:
        """What supervisor tells of each program: name, statename, pid, start and more."""
        found = call(self.url, "getAllProcessInfo")
        return [process for process in found if process["name"] in self.groups]

    def pids(self) -> dict[str, int]:
        """The process of each program that runs; what a chaos test kills."""
        return {process["name"]: process["pid"] for process in self.processes() if process["pid"]}

    def pid(self, name: str) -> int:
        """The process of the program `name`. Raises KeyError when it does not run."""
        return self.pids()[name]

    def require_life(self) -> None:
        """Raise a StackError when supervisord itself is gone."""
        if not self.is_alive():
            message = "The supervisor has ended; what it had started is stopped."
            raise StackError(with_log(self.home, message, "supervisord"))

    def require_health(self) -> None:
        """Raise a StackError with the end of the guilty log when a program does not come up.

        To be called again and again while something is waited for.
        """
        self.require_life()
        for process in self.processes():
            name, state = process["name"], process["statename"]
            if state == "BACKOFF" and self._states.get(name) != state:
                self._failures[name] += 1
            self._states[name] = state
            if state == "FATAL" or self._failures[name] >= HOPELESS:
                raise StackError(with_log(self.home, f"{name} does not start.", name))

    def is_healthy(self) -> bool:
        """Whether `require_health` has nothing to say."""
        try:
            self.require_health()
        except StackError:
            return False
        return True


def call(url: str, method: str, *arguments: object) -> Any:
    """One XML-RPC call. Raises StackError when the supervisor does not answer or refuses."""
    try:
        with ServerProxy(url) as server:
            return getattr(server.supervisor, method)(*arguments)
    except (OSError, HTTPException, Fault) as error:
        raise StackError(f"The supervisor did not do {method}{arguments}: {error}") from error


def url_of(home: Home, port: int) -> str:
    """Where the supervisor of `home` listens; the password is in it."""
    account = f"{supervisor_config.USER}:{home.secret('supervisor')}"
    return f"http://{account}@{LOOPBACK}:{port}/RPC2"


def with_log(home: Home, message: str, name: str) -> str:
    """The message, followed by the last lines of the log of the program `name`."""
    log = home.logs / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join((message, f"The end of {log}:", *lines[-LAST_LINES:])) if lines else message


@contextmanager
def supervised(
    home: Home, programs: Sequence[Program], port: int, environment: Mapping[str, str]
) -> Iterator[Supervisor]:
    """Start supervisord on `port` and with it every group but "app"; at the end nothing is left."""
    config = supervisor_config.write(home, programs, port)
    try:
        with tethered(
            [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)],
            stop=signal.SIGTERM,
            log=home.logs / "supervisord.log",
            grace_seconds=30 + sum(program.stop_seconds for program in programs),
            env={**environment, orphans.MARK: str(home.path)},
        ) as process:
            groups = {program.name: program.group for program in programs}
            supervisor = Supervisor(
                home, groups, url_of(home, port), lambda: process.poll() is None
            )
            _wait_until_it_answers(supervisor)
            yield supervisor
    finally:
        orphans.stop(home)  # of a supervisor that was killed, or of a program that left children


def _wait_until_it_answers(supervisor: Supervisor) -> None:
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            supervisor.processes()
            return
        except StackError as error:
            if not supervisor.is_alive() or time.monotonic() > deadline:
                raise StackError(with_log(supervisor.home, str(error), "supervisord")) from error
        time.sleep(0.05)
