"""How a device's readings travel: at once, late, twice, in shuffled order, or no more at all.

A courier is handed readings as they are taken and gives back what arrives now. The clock is in
seconds since the fleet's epoch.
"""

from __future__ import annotations

import random
import re
from collections import deque
from itertools import chain
from typing import Protocol

#: Delay of the late courier, seconds.
LATE_S = 1800
#: The duplicating courier repeats every so manieth reading.
DUPLICATE_EVERY = 10


class Courier(Protocol):
    """Carries the readings of one device."""

    def carry(self, lines: list[str], now: int) -> list[str]:
        """Takes what was read by `now`; returns what arrives."""

    def rest(self) -> list[str]:
        """What is still under way when the window ends."""


class Prompt:
    """Everything arrives at once."""

    def carry(self, lines: list[str], now: int) -> list[str]:
        """Returns `lines`."""
        return lines

    def rest(self) -> list[str]:
        """Nothing is kept."""
        return []


class Falling(Prompt):
    """Everything arrives, until the device falls silent for good."""

    def __init__(self, silent_from: int) -> None:
        """`silent_from`: second since the epoch."""
        self.silent_from = silent_from
        self.spoke = False

    def carry(self, lines: list[str], now: int) -> list[str]:
        """Returns `lines`, and once it is silent nothing. It speaks at least once: it exists."""
        if self.spoke and now > self.silent_from:
            return []
        self.spoke = self.spoke or bool(lines)
        return lines


class Twice(Prompt):
    """Every tenth reading arrives twice, the second time at the end of the batch."""

    def __init__(self) -> None:
        self.count = 0

    def carry(self, lines: list[str], now: int) -> list[str]:
        """Returns `lines` and the repeated ones."""
        first = -self.count % DUPLICATE_EVERY
        self.count += len(lines)
        return lines + lines[first::DUPLICATE_EVERY]


class Late:
    """Everything arrives half an hour late."""

    def __init__(self) -> None:
        self.under_way: deque[tuple[int, list[str]]] = deque()

    def carry(self, lines: list[str], now: int) -> list[str]:
        """Returns what was taken half an hour ago."""
        self.under_way.append((now + LATE_S, lines))
        due: list[str] = []
        while self.under_way[0][0] <= now:
            due += self.under_way.popleft()[1]
        return due

    def rest(self) -> list[str]:
        """The last half hour."""
        return list(chain.from_iterable(lines for _, lines in self.under_way))


class OfflineGap:
    """Offline in [begin, end): what was read then arrives afterwards, shuffled."""

    def __init__(self, begin: int, end: int, rng: random.Random) -> None:
        self.begin, self.end, self.rng = begin, end, rng
        self.buffer: list[str] = []

    def carry(self, lines: list[str], now: int) -> list[str]:
        """Returns nothing while offline, then the new readings and after them the buffer."""
        if self.begin < now <= self.end:
            self.buffer += lines
            return []
        return lines + self.rest()

    def rest(self) -> list[str]:
        """What is buffered, shuffled."""
        buffered, self.buffer = self.buffer, []
        self.rng.shuffle(buffered)
        return buffered


class Glitch(Prompt):
    """The first reading after each of some moments shows an energy of 0."""

    ENERGY = re.compile(r'(?<="kwhConsumedAc":)[0-9.]+')

    def __init__(self, moments: list[int]) -> None:
        """`moments`: rising, seconds since the epoch."""
        self.moments = moments

    def carry(self, lines: list[str], now: int) -> list[str]:
        """Returns `lines`, the last one with its energy blanked out if a moment has passed."""
        if not (self.moments and lines and self.moments[0] <= now):
            return lines
        self.moments = self.moments[1:]
        return [*lines[:-1], self.ENERGY.sub("0", lines[-1])]
