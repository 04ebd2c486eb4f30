"""An open loop: requests leave at planned instants, whether or not earlier ones are answered.

Latency counts from the planned instant. A server that stalls is told so by every request that was
planned meanwhile, also by those which had to wait for a free connection (no coordinated omission).
What is due, and what has come, is looked at once a millisecond: a wake for each would cost the
generator more than the requests, on cores that it shares with the server. So a latency is told too
long by a millisecond or two, and never too short. Standard library only.
"""

from __future__ import annotations

import math
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from selectors import EVENT_READ, DefaultSelector
from typing import NamedTuple

from bench import Broken

#: Between two looks.
LOOK_SECONDS = 0.001
#: Longest wait for an answer.
PATIENCE_SECONDS = 30.0


class Answer(NamedTuple):
    """Seconds from the planned instant until a request was sent, and until it was answered."""

    sent: float
    answered: float


Answers = list[Answer]


def pace(
    connections: Sequence[socket.socket],
    requests: Iterable[bytes],
    interval: float,
    offset: float,
    receive: Callable[[socket.socket], object],
) -> Answers:
    """Send a request every `interval` seconds over whichever connection is free; close them all."""
    found: Answers = []
    waiting = iter(requests)
    request, due = next(waiting, None), time.monotonic() + offset
    free = deque(connections)
    planned: dict[socket.socket, tuple[float, float]] = {}  # when it was due, when it was sent
    with ExitStack() as cleanup, DefaultSelector() as selector:
        for connection in connections:
            selector.register(cleanup.enter_context(connection), EVENT_READ, connection)
        while request is not None or planned:
            for key, _ in selector.select(0) if planned else ():
                receive(key.data)
                was_due, sent = planned.pop(key.data)
                found.append(Answer(sent - was_due, time.monotonic() - was_due))
                free.append(key.data)
            while request is not None and free and due <= (now := time.monotonic()):
                connection = free.popleft()
                planned[connection] = due, now
                connection.sendall(request)
                request, due = next(waiting, None), due + interval
            _, oldest = next(iter(planned.values()), (0.0, math.inf))
            if time.monotonic() - oldest > PATIENCE_SECONDS:
                raise Broken(f"no answer to a paced request for {PATIENCE_SECONDS:.0f} s")
            time.sleep(LOOK_SECONDS)
    return found
