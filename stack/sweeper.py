"""Clear away the children of a process that was killed, so that its successor stands alone.

The web server's children outlive a kill -9 of their parent: they keep the port open and go on
answering beside the new ones, for ever. This is an event listener of supervisor: each program is
the leader of a process group, and what is left of that group when its leader has exited is ended.
Standard library only, see http://supervisord.org/events.html for the protocol.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

#: Seconds for requests that are being answered.
GRACE_SECONDS = 5.0


def sweep(group: int) -> None:
    """End all that is left of the process group: politely, then not."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)


def words(line: str) -> dict[str, str]:
    """The pairs of "key:value key:value"."""
    return dict(word.split(":", 1) for word in line.split())


def listen() -> None:
    """Read one event after the other until supervisor closes the pipe."""
    while True:
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        header = sys.stdin.readline()
        if not header:
            return
        event = words(sys.stdin.read(int(words(header)["len"])))
        sweep(int(event["pid"]))
        sys.stdout.write("RESULT 2\nOK")
        sys.stdout.flush()


if __name__ == "__main__":
    listen()
