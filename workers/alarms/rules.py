"""The rules A1 to A7 and A9, as folds: each takes evaluations one by one and keeps its own spans.

A8 and A10 look at the present, not at evaluations: workers/alarms/live.py.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from statistics import median

from workers.alarms import model
from workers.alarms.cusum import Cusum
from workers.alarms.evaluation import Day, Episode, Evaluation
from workers.alarms.spans import Evidence, Latch, Span
from workers.alarms.thresholds import EPSILON, PT, Thresholds

LOW, DROP, SHIFT = "EFFICIENCY_LOW", "EFFICIENCY_DROP", "EFFICIENCY_SHIFT"
IDLE, EXCEEDS = "IDLE_DRAW", "DC_EXCEEDS_AC"
AC_ONLY, DC_ONLY = "AC_WITHOUT_DC", "DC_WITHOUT_AC"
STREAM, COUNTER, SKEW = "STREAM_STALE", "COUNTER_EVENT", "CLOCK_SKEW"
#: In the order A1 to A10.
RULES = (LOW, DROP, SHIFT, IDLE, EXCEEDS, AC_ONLY, DC_ONLY, STREAM, COUNTER, SKEW)
#: One incident: three views of the same loss.
EFFICIENCY_RULES = frozenset({LOW, DROP, SHIFT})
#: Judged from evaluations and days; the others from the present.
EVALUATED_RULES = tuple(rule for rule in RULES if rule not in {STREAM, SKEW})

_COUNTED_EVENTS = ("RESET", "REBASE", "JUMP", "GLITCH")


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a vehicle's own past says."""

    status: str
    evaluations: int
    efficiency_median: float | None
    eta_c: float | None
    p_aux_kw: float | None
    sigma_pts: float | None
    z: float | None
    cusum: float


@dataclass(slots=True)
class _Own:
    """The vehicle's own past: what is in it counts as healthy.

    An evaluation enters when enough newer ones stand before it, unless an alarm was open at it or
    it helped to open one: a fault must not become the new normal.
    """

    lag: int
    keep: int
    kept: deque[Evaluation] = field(default_factory=deque)
    #: How many have ever entered.
    entered: int = 0
    _waiting: deque[Evaluation] = field(default_factory=deque)

    def take(self, evaluation: Evaluation) -> None:
        self._waiting.append(evaluation)
        if len(self._waiting) > self.lag:
            self.kept.append(self._waiting.popleft())
            self.entered += 1
        if len(self.kept) > self.keep:
            self.kept.popleft()

    def forget_since(self, since: datetime) -> None:
        """What is waiting from `since` on belongs to an alarm."""
        self._waiting = deque(e for e in self._waiting if e.at < since)


class Efficiency:
    """A1, A2 and A3 over qualified evaluations: they share the vehicle's own past."""

    def __init__(self, limits: Thresholds) -> None:
        self.limits = limits
        self.low = Latch(LOW, limits.low_evaluations, limits.low_clear_evaluations)
        self.drop = Latch(DROP, limits.drop_evaluations)
        self.shift = Latch(SHIFT, 1, limits.shift_clear_evaluations)
        self.forget()

    def forget(self) -> None:
        """Another meter: nothing learnt before holds."""
        t = self.limits
        #: By floor: sessions at 2.3 kW and at 11 kW are 9 pt apart in a healthy vehicle.
        self._recent: dict[float, _Own] = {}
        self._floor = t.floor
        self._long = _Own(t.fit_lag, t.fit_max)
        self._model: model.Model | None = None
        self._fitted_at = 0
        self._z: float | None = None
        self._cusum = Cusum(t.cusum_k, t.z_clip)

    @property
    def latches(self) -> tuple[Latch, ...]:
        """Its rules' spans."""
        return self.low, self.drop, self.shift

    def step(self, e: Evaluation) -> None:
        """Judge one evaluation, then learn from it unless an alarm is open."""
        floor = self._floor = self.limits.floor_at(e.power_kw)
        baseline = self._median()
        seen = self._seen(e, baseline, floor)
        self._low(e, seen, floor)
        self._drop(e, seen, baseline)
        self._shift(e, seen)
        opened = [latch.spans[-1].since for latch in self.latches if latch.is_open]
        if opened:
            for own in (*self._recent.values(), self._long):
                own.forget_since(min(opened))
        else:
            self._recent_at(floor).take(e)
            self._long.take(e)
            self._refit()

    def baseline(self) -> Baseline:
        """What is known of the vehicle after the last evaluation."""
        fitted = self._model
        return Baseline(
            status="ready" if fitted else "learning",
            evaluations=self._long.entered,
            efficiency_median=self._median(),
            eta_c=fitted.eta_c if fitted else None,
            p_aux_kw=fitted.p_aux_kw if fitted else None,
            sigma_pts=fitted.sigma_pts if fitted else None,
            z=self._z,
            cusum=self._cusum.value,
        )

    def _median(self) -> float | None:
        """The usual efficiency at the power of the last evaluation."""
        kept = self._recent_at(self._floor).kept
        return median(e.efficiency for e in kept) if len(kept) >= self.limits.baseline_min else None

    def _recent_at(self, floor: float) -> _Own:
        t = self.limits
        return self._recent.setdefault(floor, _Own(t.baseline_lag - 1, t.baseline_evaluations))

    def _seen(self, e: Evaluation, baseline: float | None, floor: float) -> Evidence:
        """What A1 sees; the others replace value, threshold and breach."""
        critical = self.limits.critical_pts * PT
        dropped = baseline is not None and e.efficiency <= baseline - critical + EPSILON
        severe = dropped or e.efficiency < floor - critical - EPSILON
        healthy = baseline if baseline is not None else model.class_efficiency(e.power_kw)
        avoidable = max(0.0, e.ac_kwh - e.dc_kwh / healthy) if healthy else 0.0
        return Evidence(
            at=e.at,
            value=e.efficiency,
            threshold=floor,
            breach=e.high < floor - EPSILON,
            ac_kwh=e.ac_kwh,
            dc_kwh=e.dc_kwh,
            baseline=baseline,
            severity="critical" if severe else "warning",
            avoidable_kwh=avoidable,
        )

    def _low(self, e: Evaluation, seen: Evidence, floor: float) -> None:
        clears_at = floor + self.limits.deadband_pts * PT
        self.low.step(seen, good=e.efficiency >= clears_at - EPSILON)

    def _drop(self, e: Evaluation, seen: Evidence, baseline: float | None) -> None:
        if baseline is None:
            return
        t = self.limits
        limit = baseline - t.drop_pts * PT
        self.drop.step(
            _changed(seen, threshold=limit, breach=e.efficiency <= limit + EPSILON),
            good=e.efficiency >= baseline - t.drop_clear_pts * PT - EPSILON,
        )

    def _shift(self, e: Evaluation, seen: Evidence) -> None:
        if self._model is None:
            return
        t = self.limits
        z = self._model.residual_pts(e) / self._model.sigma_pts
        self._z = max(-t.z_clip, min(t.z_clip, z))
        was_open = self.shift.is_open
        total = self._cusum.step(e.at, z)
        breach = total > t.cusum_h + EPSILON
        self.shift.step(
            _changed(seen, threshold=t.cusum_h, breach=breach, value=total, z=self._z),
            good=self._z > t.shift_clear_z,
            since=self._cusum.since,
        )
        if was_open and not self.shift.is_open:
            self._cusum.reset()

    def _refit(self) -> None:
        """Every few evaluations; an open alarm freezes the model, since nothing enters then."""
        t, entered = self.limits, self._long.entered
        due = self._model is None or entered - self._fitted_at >= t.refit_every
        if entered >= t.fit_min and due:
            self._model = model.fit(self._long.kept, t.sigma_floor_pts, self._model)
            self._fitted_at = entered

    def end(self, rule: str, at: datetime, why: str) -> None:
        """Close one rule's span; a CUSUM that goes on would re-open it on old evidence."""
        for latch in self.latches:
            if latch.rule == rule:
                latch.end(at, why)
        if rule == SHIFT:
            self._cusum.reset()


def _changed(
    seen: Evidence,
    *,
    threshold: float,
    breach: bool,
    value: float | None = None,
    z: float | None = None,
) -> Evidence:
    return Evidence(
        at=seen.at,
        value=seen.value if value is None else value,
        threshold=threshold,
        breach=breach,
        ac_kwh=seen.ac_kwh,
        dc_kwh=seen.dc_kwh,
        baseline=seen.baseline,
        z=z,
        severity=seen.severity,
        avoidable_kwh=seen.avoidable_kwh,
    )


class Exceeds:
    """A5: more out than in. Every episode of some energy counts, whatever its confidence."""

    def __init__(self, limits: Thresholds) -> None:
        self.limits = limits
        self.latch = Latch(EXCEEDS, 1)

    def step(self, episode: Episode) -> None:
        """Judge one episode."""
        ac, dc, t = episode.ac_kwh, episode.dc_kwh, self.limits
        if ac is None or dc is None or ac <= 0 or ac + dc < t.ratio_min_kwh - EPSILON:
            return
        ratio = dc / ac
        breach = ratio > t.max_ratio + EPSILON
        self.latch.step(
            Evidence(episode.ended_at, ratio, t.max_ratio, breach, ac_kwh=ac, dc_kwh=dc),
            good=not breach,
        )


class Daily:
    """A4, A6, A7 and A9 over finished days."""

    def __init__(self, limits: Thresholds) -> None:
        self.limits = limits
        self.idle = Latch(IDLE, limits.idle_days)
        self.ac_only = Latch(AC_ONLY, 1)
        self.dc_only = Latch(DC_ONLY, 1)
        self.counter = Latch(COUNTER, 1)
        self._dc_only_days: list[date] = []

    @property
    def latches(self) -> tuple[Latch, ...]:
        """Its rules' spans."""
        return self.idle, self.ac_only, self.dc_only, self.counter

    def step(self, day: Day) -> None:
        """Judge one day."""
        self._idle(day)
        self._one_sided(day)
        self._counter(day)

    def forget(self) -> None:
        """Another meter."""
        self._dc_only_days = []

    def _idle(self, day: Day) -> None:
        t = self.limits
        if day.idle_ac_kwh is None or day.idle_hours < t.idle_min_hours - EPSILON:
            return
        watts = 1000 * day.idle_ac_kwh / day.idle_hours
        self.idle.step(
            Evidence(
                day.ended_at,
                watts,
                t.idle_watts,
                watts > t.idle_watts + EPSILON,
                ac_kwh=day.idle_ac_kwh,
                severity="critical" if watts > t.idle_critical_watts + EPSILON else "warning",
                avoidable_kwh=day.idle_ac_kwh,
            ),
            good=watts < t.idle_clear_watts - EPSILON,
        )

    def _one_sided(self, day: Day) -> None:
        if day.ac_kwh is None or day.dc_kwh is None:
            return  # a side that sent nothing is STREAM_STALE, not a foreign load
        ac, dc, t = day.ac_kwh, day.dc_kwh, self.limits
        other = t.one_sided_other_kwh + EPSILON
        breach = ac >= t.one_sided_kwh - EPSILON and dc <= other
        self.ac_only.step(
            Evidence(day.ended_at, ac, t.one_sided_kwh, breach, ac_kwh=ac, dc_kwh=dc),
            good=not breach and dc > other,  # an idle day proves nothing
        )
        breach = dc >= t.one_sided_kwh - EPSILON and ac <= other
        horizon = day.day - timedelta(days=t.dc_without_ac_within_days)
        self._dc_only_days = [d for d in self._dc_only_days if d > horizon]
        if breach:
            self._dc_only_days.append(day.day)
        seen = Evidence(
            day.ended_at, dc, t.one_sided_kwh, breach, ac_kwh=ac, dc_kwh=dc, severity="info"
        )
        opens = breach and len(self._dc_only_days) >= t.dc_without_ac_days
        self.dc_only.step(seen, good=not self._dc_only_days, opens=opens)

    def _counter(self, day: Day) -> None:
        count = sum(day.events.get(name, 0) for name in _COUNTED_EVENTS)
        if not count and day.ac_kwh is None and day.dc_kwh is None:
            return
        limit = self.limits.counter_events_per_day
        self.counter.step(
            Evidence(
                day.ended_at,
                count,
                limit,
                count > 0,
                severity="warning" if count > limit else "info",
            ),
            good=count == 0,
        )


def spans_of(latches: tuple[Latch, ...]) -> list[Span]:
    """All spans, oldest first."""
    found = [span for latch in latches for span in latch.spans]
    return sorted(found, key=lambda span: (span.opened_at, RULES.index(span.rule)))
