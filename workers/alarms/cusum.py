"""A one-sided CUSUM: small shortfalls add up, luck is forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(slots=True)
class Cusum:
    """S = max(0, S - z - k). `since` is the first step of the rise that S is in."""

    k: float
    clip: float
    value: float = 0.0
    since: datetime | None = None

    def step(self, at: datetime, z: float) -> float:
        """Take one more residual, in standard deviations; returns S."""
        clipped = max(-self.clip, min(self.clip, z))
        self.value = max(0.0, self.value - clipped - self.k)
        if self.value == 0.0:
            self.since = None
        elif self.since is None:
            self.since = at
        return self.value

    def reset(self) -> None:
        """Start anew."""
        self.value, self.since = 0.0, None
