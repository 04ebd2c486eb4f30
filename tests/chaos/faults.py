"""What is done to the stack's processes. A fault returns when it has ended (or, a kill, happened).

A name is `<program>-<how>`; `FAULTS="stream-*,web-kill"` chooses. Only processes of the stack that
was started here are touched, by their pid.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch

import psutil  # type: ignore[import-untyped]

from stack.home import ROOT
from stack.launcher import Stack

P_LONG = 0.3
#: How often two faults meet.
P_TOGETHER = 0.3


@dataclass(frozen=True, slots=True)
class Scene:
    """Where faults happen: the stack, the dice, and whether long freezes are in order."""

    stack: Stack
    rng: random.Random
    #: Longest freeze in seconds. Beyond 30 s others adopt what the frozen worker holds; beyond
    #: 15 s PostgreSQL ends its transaction.
    longest_freeze: float

    def tree(self, name: str) -> list[psutil.Process]:
        """A program's process and all below it."""
        parent = psutil.Process(self.stack.pid(name))
        return [parent, *parent.children(recursive=True)]

    def child(self, name: str) -> psutil.Process:
        """One of the processes that do a program's work."""
        children = [process for process in self.tree(name)[1:] if _works(process)]
        return self.rng.choice(children) if children else self.tree(name)[0]

    def pause(self) -> float:
        """How long to freeze, seconds: mostly short, every third time or so as long as may be."""
        if self.rng.random() < P_LONG:
            return self.rng.uniform(0.75, 1) * self.longest_freeze
        return self.rng.uniform(0.3, min(4, self.longest_freeze))


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to a program."""

    name: str
    program: str
    strike: Callable[[Scene], None]


def _kill(name: str, how: signal.Signals = signal.SIGKILL) -> Callable[[Scene], None]:
    return lambda scene: os.kill(scene.stack.pid(name), how)


def _kill_child(name: str) -> Callable[[Scene], None]:
    return lambda scene: scene.child(name).kill()


def _freeze(name: str) -> Callable[[Scene], None]:
    """All of a program's processes stand still for a while."""

    def freeze(scene: Scene) -> None:
        frozen = scene.tree(name)
        try:
            for process in frozen:
                _signal(process, signal.SIGSTOP)
            time.sleep(scene.pause())
        finally:
            for process in frozen:
                _signal(process, signal.SIGCONT)

    return freeze


def _freeze_child(name: str) -> Callable[[Scene], None]:
    """One of several stands still while the others go on: a zombie when it wakes."""

    def freeze(scene: Scene) -> None:
        process = scene.child(name)
        try:
            _signal(process, signal.SIGSTOP)
            time.sleep(scene.pause())
        finally:
            _signal(process, signal.SIGCONT)

    return freeze


def _restart(name: str) -> Callable[[Scene], None]:
    """SIGTERM, as a deployment does it; away for a while; started again."""

    def restart(scene: Scene) -> None:
        scene.stack.supervisor.stop(name)
        time.sleep(scene.rng.uniform(0, 2))
        scene.stack.supervisor.start(name)

    return restart


def _outage(name: str, how: signal.Signals) -> Callable[[Scene], None]:
    """Killed, and away for up to five seconds before it is started again."""

    def outage(scene: Scene) -> None:
        process, supervisor = psutil.Process(scene.stack.pid(name)), scene.stack.supervisor
        # Told to stop while it cannot hear it, then killed: so the supervisor does not start it
        # again at once, and it had no time to put its things in order.
        process.suspend()
        stopping = threading.Thread(target=supervisor.stop, args=(name,))
        stopping.start()
        time.sleep(0.3)
        _signal(process, how)
        _signal(process, signal.SIGCONT)
        stopping.join()
        time.sleep(scene.rng.uniform(1, 5))
        supervisor.start(name)

    return outage


def _second_beat(scene: Scene) -> None:
    """Two beats for a while: every tick comes twice."""
    command = [sys.executable, "-m", "celery", "-A", "workers", "beat"]
    environment = dict(scene.stack.environment)
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as beat:
        time.sleep(scene.rng.uniform(3, 6))
        beat.kill()


def _restart_everything(scene: Scene) -> None:
    """SIGTERM to all of the product's own programs at once, as a deployment does it."""
    supervisor = scene.stack.supervisor
    names = [name for name, group in supervisor.groups.items() if group == "app"]

    def renew(name: str) -> None:
        supervisor.stop(name)
        supervisor.start(name)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(renew, names))


def _works(process: psutil.Process) -> bool:
    """Whether it does a program's work: it lives, and is no helper of Python's."""
    try:
        return "tracker" not in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie, too: killed before, and not yet buried by its parent
        return False


def _signal(process: psutil.Process, how: signal.Signals) -> None:
    try:
        process.send_signal(how)
    except psutil.NoSuchProcess:
        return  # it has died meanwhile, which is a fault as well


def _all() -> list[Fault]:
    found = []
    for program, name in (("web", "web"), ("worker-flush", "flush"), ("worker-rollup", "rollup")):
        found += [
            Fault(f"{name}-kill", program, _kill(program)),
            Fault(f"{name}-child-kill", program, _kill_child(program)),
            Fault(f"{name}-child-freeze", program, _freeze_child(program)),
            Fault(f"{name}-freeze", program, _freeze(program)),
            Fault(f"{name}-restart", program, _restart(program)),
        ]
    for program in ("beat", "stream", "broker"):
        found += [
            Fault(f"{program}-kill", program, _kill(program)),
            Fault(f"{program}-freeze", program, _freeze(program)),
            Fault(f"{program}-restart", program, _restart(program)),
        ]
    found += [
        Fault("beat-double", "beat", _second_beat),
        Fault("stream-outage", "stream", _outage("stream", signal.SIGKILL)),
        Fault("broker-outage", "broker", _outage("broker", signal.SIGKILL)),
        Fault("everything-restart", "web", _restart_everything),
    ]
    # SIGQUIT is PostgreSQL's immediate stop: no checkpoint, recovery from the log at the next
    # start. A backend that is killed makes the server do the same by itself.
    return [
        *found,
        Fault("postgres-immediate", "postgres", _kill("postgres", signal.SIGQUIT)),
        Fault("postgres-outage", "postgres", _outage("postgres", signal.SIGQUIT)),
        Fault("postgres-backend-kill", "postgres", _kill_backend),
        Fault("postgres-freeze", "postgres", _freeze("postgres")),
        Fault("postgres-restart", "postgres", _restart("postgres")),
    ]


def _kill_backend(scene: Scene) -> None:
    backends = [p for p in scene.tree("postgres") if " energy energy " in " ".join(p.cmdline())]
    (scene.rng.choice(backends) if backends else scene.child("postgres")).kill()


FAULTS: dict[str, Fault] = {fault.name: fault for fault in _all()}


def chosen(patterns: str) -> list[Fault]:
    """The faults that any of the comma-separated patterns names. Raises ValueError for none."""
    wanted = [p.strip() for p in patterns.split(",") if p.strip()]
    found = [f for f in FAULTS.values() if any(fnmatch(f.name, p) for p in wanted)]
    if not found:
        raise ValueError(f"No fault is called {patterns!r}. There are: {', '.join(FAULTS)}")
    return found


class Order:
    """Which fault comes when: each once in a shuffled order, then again; the same for a seed."""

    def __init__(self, faults: list[Fault], seed: int) -> None:
        self.rng = random.Random(f"faults {seed}")
        self.faults = faults
        self.left: list[Fault] = []

    def next(self) -> tuple[Fault, ...]:
        """One fault, or now and then two at once on different programs."""
        first = self._draw()
        others = [f for f in self.left if f.program != first.program]
        if others and self.rng.random() < P_TOGETHER:
            second = self.rng.choice(others)
            self.left.remove(second)
            return (first, second)
        return (first,)

    def _draw(self) -> Fault:
        if not self.left:
            self.left = self.rng.sample(self.faults, len(self.faults))
        return self.left.pop()
