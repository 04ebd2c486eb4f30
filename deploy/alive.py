"""The health check of worker and beat: is Celery at work here? Exit 0 means yes.

`celery inspect ping` starts a second Celery each time (one to two seconds of CPU) and asks through
a pub/sub connection that can be dead while the work goes on. /proc tells two facts for nothing:
the loop of the main process turns, and a connection to the broker is established.

Not seen from here: a task that hangs (Celery's time limit ends it) and readings that wait too long
(the web's readiness and metrics tell).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

#: An idle worker wakes at least every second to read its queue, beat to look at its schedule.
PATIENCE_SECONDS = 8.0
PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}
_ESTABLISHED = "01"


def main_process(proc: Path) -> Path | None:
    """The oldest process called celery: the children of its pool have higher numbers."""
    numbers = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
    for folder in (proc / str(number) for number in numbers):
        try:
            if (folder / "comm").read_text().strip() == "celery":
                return folder
        except OSError:  # it ended while we looked
            continue
    return None


def sleeps(process: Path) -> int:
    """How often the process has waited for something. Stopped, stuck or spinning: no more."""
    for line in (process / "status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    return 0


def connected(proc: Path, port: int) -> bool:
    """Whether a TCP connection to `port` is established from this container."""
    for table in ("tcp", "tcp6"):
        try:
            rows = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:  # no IPv6 here
            continue
        for _slot, _local, remote, state, *_ in map(str.split, rows):
            if state == _ESTABLISHED and int(remote.rsplit(":", 1)[1], 16) == port:
                return True
    return False


def turns(process: Path, patience: float) -> bool:
    """Whether the process's loop turns at least once within `patience` seconds."""
    before, deadline = sleeps(process), time.monotonic() + patience
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if sleeps(process) > before:
            return True
    return False


def trouble(proc: Path, broker_url: str, patience: float = PATIENCE_SECONDS) -> str | None:
    """What is wrong, or None."""
    broker = urlsplit(broker_url)
    port = broker.port or PORTS.get(broker.scheme, 0)
    process = main_process(proc)
    if process is None:
        return "no process called celery"
    if not connected(proc, port):
        return f"no connection to the broker's port {port}"
    try:
        return None if turns(process, patience) else f"not a turn of the loop in {patience:g} s"
    except OSError:
        return "celery ended while it was looked at"


if __name__ == "__main__":
    sys.exit(trouble(Path("/proc"), os.environ["CELERY_BROKER_URL"]))
