"""python -m stack run | status | clean: the commands behind the Makefile's targets."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil  # type: ignore[import-untyped]
from rich.console import Console

from stack import orphans, screen
from stack.errors import StackError
from stack.home import Home, default_path
from stack.launcher import Stack, running
from stack.ports import from_environment
from stack.supervision import Supervisor, call, url_of

console = Console()

#: Ctrl-C, a polite kill, a closed terminal.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 1 after one clear message."""
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "run": run,
        "status": status,
        "clean": clean,
    }
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    parser.add_argument("command", choices=commands)
    parser.add_argument("--home", type=Path, default=default_path(), help="instead of .local/")
    parser.add_argument("--yes", action="store_true", help="clean: do not ask")
    chosen = parser.parse_args(arguments)
    try:
        return commands[chosen.command](chosen)
    except StackError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1


def run(chosen: argparse.Namespace) -> int:
    """Everything, until Ctrl-C, SIGTERM or the end of the terminal."""
    on_terminal = sys.stdout.isatty()
    for number in ENDINGS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as by nohup
            signal.signal(number, _interrupt)
    try:
        with running(
            chosen.home,
            api_port=from_environment("API_PORT", 3000),
            flower_port=from_environment("FLOWER_PORT", 5555),
            report=lambda line: console.print(line, style="dim", highlight=False),
        ) as stack:
            # The start of this process, so that preparing the virtual environment counts as well.
            screen.show(console, stack, time.time() - psutil.Process().create_time())
            _watch(stack, on_terminal)
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be gone
            print("Everything has stopped.", flush=True)
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Leave by the way of Ctrl-C, once: what follows must be free to stop everything in order."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _watch(stack: Stack, on_terminal: bool) -> NoReturn:
    """Tell of each process that was started anew; raise StackError when the supervisor is gone."""
    supervisor: Supervisor = stack.supervisor
    before = supervisor.pids()
    while True:
        time.sleep(1)
        if on_terminal and not sys.stdout.isatty():
            # Only a session's leader hears that its terminal is closed, and a make in that place
            # tells nobody.
            signal.raise_signal(signal.SIGHUP)
        supervisor.require_life()
        now = supervisor.pids()
        for name in now:
            if name in before and now[name] != before[name]:
                print(f"{name} had ended and runs again, see {stack.home.logs / name}.log")
        before |= now


def status(chosen: argparse.Namespace) -> int:
    """Which processes are up; 1 unless all are."""
    home = Home.at(chosen.home)
    ports = json.loads(home.ports.read_text()) if home.ports.exists() else {}
    try:
        processes = call(url_of(home, ports["supervisor"]), "getAllProcessInfo")
    except (KeyError, StackError):
        print(f"Nothing runs in {home.path}. Start with `make run`.")
        return 1
    console.print(screen.process_table(processes))
    return 0 if all(process["statename"] == "RUNNING" for process in processes) else 1


def clean(chosen: argparse.Namespace) -> int:
    """Delete the home with all data, keys and logs, after asking."""
    home = Home.at(chosen.home)
    if not home.path.exists():
        print(f"{home.path} is not there; nothing to do.")
        return 0
    with home.lock():
        print(f"This deletes {home.path}: the database, accepted readings, keys and logs.")
        if not chosen.yes and not _confirmed():
            print("Nothing was deleted.")
            return 1
        orphans.stop(home)
        remaining = home.delete()
    if remaining:
        print(f"Not ours, so left in {home.path}: {', '.join(remaining)}")
    return 0


def _confirmed() -> bool:
    try:
        return input("Type yes to go on: ").strip() == "yes"
    except EOFError:  # nobody is there to answer
        return False


if __name__ == "__main__":
    sys.exit(main())
