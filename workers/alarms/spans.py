"""A span: one uninterrupted time during which one rule saw its condition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

#: Severities by weight.
SEVERITIES = ("info", "warning", "critical")
#: Why a span ended.
RECOVERED, MANUAL, MAPPING_CHANGED = "recovered", "manual", "mapping_changed"
#: Evaluations kept as evidence with a span: those that opened it, and the newest.
MAX_EVIDENCE = 20


@dataclass(frozen=True, slots=True)
class Evidence:
    """One evaluation as a rule saw it: enough for a person to follow the judgement."""

    at: datetime
    value: float
    threshold: float
    breach: bool
    ac_kwh: float | None = None
    dc_kwh: float | None = None
    baseline: float | None = None
    z: float | None = None
    severity: str = "warning"
    avoidable_kwh: float = 0.0


@dataclass(frozen=True, slots=True)
class Span:
    """When a rule's condition was seen, on what evidence, and whether it ended."""

    rule: str
    opened_at: datetime
    since: datetime
    severity: str
    evidence: tuple[Evidence, ...]
    avoidable_kwh: float
    cleared_at: datetime | None = None
    cleared_by: str | None = None

    @property
    def newest(self) -> Evidence:
        """What its value, threshold and baseline are taken from."""
        return self.evidence[-1]


class Latch:
    """Opens after `opens_after` breaches in a row and clears after `clears_after` good ones.

    What is neither breach nor good (the dead band) breaks both rows and changes nothing.
    """

    def __init__(self, rule: str, opens_after: int, clears_after: int = 1) -> None:
        self.rule, self.opens_after, self.clears_after = rule, opens_after, clears_after
        self.spans: list[Span] = []
        self.is_open = False
        self.last_at: datetime | None = None
        self._breaches: list[Evidence] = []
        self._good = 0

    def step(
        self,
        seen: Evidence,
        *,
        good: bool,
        opens: bool | None = None,
        since: datetime | None = None,
    ) -> None:
        """Take one evaluation. `opens` and `since`: a rule that counts otherwise says so itself."""
        self.last_at = seen.at
        if self.is_open:
            self._go_on(seen, good)
            return
        self._breaches = [*self._breaches, seen][-MAX_EVIDENCE:] if seen.breach else []
        if opens if opens is not None else len(self._breaches) >= self.opens_after:
            self._open(since)

    def end(self, at: datetime, why: str) -> None:
        """Close whatever is open for a reason outside the evaluations, and start anew."""
        if self.is_open:
            self.spans[-1] = replace(self.spans[-1], cleared_at=at, cleared_by=why)
        self.is_open, self._breaches, self._good = False, [], 0

    def _open(self, since: datetime | None) -> None:
        seen = tuple(self._breaches)
        self.is_open, self._breaches, self._good = True, [], 0
        self.spans.append(
            Span(
                rule=self.rule,
                opened_at=seen[-1].at,
                since=since or seen[0].at,
                severity=max((e.severity for e in seen), key=SEVERITIES.index),
                evidence=seen,
                avoidable_kwh=sum(e.avoidable_kwh for e in seen),
            )
        )

    def _go_on(self, seen: Evidence, good: bool) -> None:
        span = self.spans[-1]
        opening, later = span.evidence[: self.opens_after], span.evidence[self.opens_after :]
        room = MAX_EVIDENCE - len(opening)
        severity = max(span.severity, seen.severity, key=SEVERITIES.index)
        self.spans[-1] = replace(
            span,
            evidence=opening + (*later, seen)[-room:],
            severity=severity if seen.breach else span.severity,
            avoidable_kwh=span.avoidable_kwh + seen.avoidable_kwh,
        )
        self._good = self._good + 1 if good else 0
        if self._good >= self.clears_after:
            self.end(seen.at, RECOVERED)
