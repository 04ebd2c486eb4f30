"""All rules over one vehicle's stored past: the same answer, however often it is asked.

Nothing is carried over from an earlier run. A late reading, a crash or a second watcher can
therefore change nothing but what the evidence itself says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from workers.alarms import rules
from workers.alarms.evaluation import Day, Episode, Evaluation, in_order, qualified
from workers.alarms.rules import Baseline, Daily, Efficiency, Exceeds
from workers.alarms.spans import MANUAL, MAPPING_CHANGED, Latch, Span
from workers.alarms.thresholds import DEFAULTS, Thresholds

#: A condition that comes back this soon is the same alarm.
REOPEN_WITHIN = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules say about one vehicle."""

    spans: tuple[Span, ...]
    baseline: Baseline
    evaluations: tuple[Evaluation, ...]
    #: When each rule last had something to judge.
    last_at: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chain:
    """Spans of one rule that are one alarm, since each came back soon after the one before."""

    spans: tuple[Span, ...]

    @property
    def rule(self) -> str:
        """Its rule."""
        return self.spans[0].rule

    @property
    def newest(self) -> Span:
        """The span its facts are taken from."""
        return self.spans[-1]


def judge(
    episodes: Iterable[Episode],
    days: Iterable[Day] = (),
    limits: Thresholds = DEFAULTS,
    resolved: Mapping[str, Sequence[datetime]] | None = None,
) -> Judgement:
    """Fold all rules over one vehicle's past.

    `resolved`: when an operator resolved an alarm by hand, by rule; the rule starts anew there.
    """
    known = in_order(episodes)
    evaluations = qualified(known, limits)
    efficiency, exceeds, daily = Efficiency(limits), Exceeds(limits), Daily(limits)
    latches = (*efficiency.latches, exceeds.latch, *daily.latches)
    for at, _, what in _timeline(known, evaluations, days, resolved or {}):
        if isinstance(what, Evaluation):
            efficiency.step(what)
        elif isinstance(what, Episode):
            exceeds.step(what)
        elif isinstance(what, Day):
            daily.step(what)
        elif what == MAPPING_CHANGED:
            for latch in latches:
                latch.end(at, MAPPING_CHANGED)
            efficiency.forget()
            daily.forget()
        else:
            _end(latches, efficiency, what, at)
    return Judgement(
        tuple(rules.spans_of(latches)),
        efficiency.baseline(),
        tuple(evaluations),
        {latch.rule: latch.last_at for latch in latches if latch.last_at is not None},
    )


def _end(latches: Sequence[Latch], efficiency: Efficiency, rule: str, at: datetime) -> None:
    efficiency.end(rule, at, MANUAL)
    for latch in latches:
        if latch.rule == rule:
            latch.end(at, MANUAL)


def _timeline(
    episodes: Sequence[Episode],
    evaluations: Sequence[Evaluation],
    days: Iterable[Day],
    resolved: Mapping[str, Sequence[datetime]],
) -> list[tuple[datetime, int, Episode | Evaluation | Day | str]]:
    """Everything that happened, in order. At one instant: a change of meter, evidence, a person."""
    events: list[tuple[datetime, int, Episode | Evaluation | Day | str]] = []
    events += [(at, 0, MAPPING_CHANGED) for at in _meter_changes(episodes)]
    events += [(episode.ended_at, 1, episode) for episode in episodes]
    events += [(evaluation.at, 2, evaluation) for evaluation in evaluations]
    by_day = {day.day: day for day in days}
    events += [(day.ended_at, 3, day) for day in by_day.values()]
    events += [(at, 4, rule) for rule, instants in resolved.items() for at in instants]
    return sorted(events, key=lambda event: event[:2])


def _meter_changes(episodes: Sequence[Episode]) -> list[datetime]:
    """Where an episode was charged through another meter than the one before."""
    known = [episode for episode in episodes if episode.meter_id is not None]
    pairs = pairwise(known)
    return [later.started_at for one, later in pairs if one.meter_id != later.meter_id]


def chains(spans: Iterable[Span]) -> list[Chain]:
    """Spans of a rule as alarms: within seven days of its end a condition is the same alarm.

    A change of meter ends an alarm for good: what comes after it is about another pair.
    """
    found: dict[str, list[list[Span]]] = {}
    for span in spans:
        alarms = found.setdefault(span.rule, [])
        before = alarms[-1][-1] if alarms else None
        if before is not None and _same_alarm(before, span):
            alarms[-1].append(span)
        else:
            alarms.append([span])
    return [Chain(tuple(alarm)) for alarms in found.values() for alarm in alarms]


def _same_alarm(before: Span, span: Span) -> bool:
    if before.cleared_at is None or before.cleared_by == MAPPING_CHANGED:
        return False
    return span.opened_at - before.cleared_at <= REOPEN_WITHIN
