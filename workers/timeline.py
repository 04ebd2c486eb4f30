"""One register around a window, unrolled: as if it had never restarted, dipped or been replaced.

The unrolled value of a sample is what the register shows plus what was corrected up to there, so
energy between any two instants is one difference. Between samples the line is straight.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from math import inf

from models.clock import SECOND_US, to_us
from models.hours import BORDER_SECONDS, Hour
from models.ratings import RESOLUTION_KWH
from models.windows import Bracket, Window
from workers.energy import Piece, Sample, Span

BORDER_US = BORDER_SECONDS * SECOND_US
#: Before and after all time, µs.
_NEVER = -(2**62)
_COUNTED = 2  # samples without which there is no step


class Timeline:
    """A register as one look at the database found it.

    `span` is the window that was looked at; any narrower one can be cut out of it, given the
    samples around the new ends.
    """

    def __init__(self, device_key: int, span: Span, seen: Window) -> None:
        """`seen` is what models/windows.py found in and around `span`."""
        self.device_key, self.span, self.hours = device_key, span, seen.hours
        self.limits, self.shown = seen.limits, seen.shown
        self.around = {span.from_us - 1: seen.begin, span.to_us: seen.end}
        self._corrected_at = [to_us(s.at) for s in seen.shown]
        self._corrected = [0.0, *accumulate(s.correction_kwh for s in seen.shown)]

    @cached_property
    def samples(self) -> int:
        """How many samples lie in the span; dropped ones are not counted."""
        return sum(hour.samples for hour in self.hours)

    @property
    def events(self) -> Counter[str]:
        """How often the register did something else than rise, by event."""
        return Counter(s.event for s in self.shown if s.event is not None)

    @property
    def dropped(self) -> int:
        """How many samples count for nothing."""
        return sum(s.dropped for s in self.shown)

    @property
    def uncertain_kwh(self) -> float:
        """Energy that may have flowed unseen."""
        return sum(s.uncertain_kwh for s in self.shown)

    @cached_property
    def spacing_us(self) -> float | None:
        """The usual distance of two samples; None with fewer than two.

        Taken inside hours, so that one long gap does not blur it; a register sampled once an hour
        or less has only the whole window to go by.
        """
        pairs = self.samples - len(self.hours)
        if pairs > 0:
            inside = sum(h.last_us - h.first_us for h in self.hours)
            return inside / pairs
        if self.samples < _COUNTED:
            return None
        return (self.hours[-1].last_us - self.hours[0].first_us) / (self.samples - 1)

    def unrolled_kwh(self, sample: Sample) -> float:
        """The sample's value, comparable with any other's of this timeline."""
        return sample.kwh + self._corrected[bisect_right(self._corrected_at, sample.at_us)]

    def piece(self, span: Span) -> Piece:
        """The part of the register in `span`, whose ends must have been looked at (`around`)."""
        begin, end = self.around[span.from_us - 1], self.around[span.to_us]
        first, last = _after(begin), _before(end)
        if first is None or last is None or first.at_us > span.to_us:
            first = last = None
        inside = self.unrolled_kwh(last) - self.unrolled_kwh(first) if first and last else 0.0
        gap, resolution = self.limits
        return Piece(
            span.from_us,
            span.to_us,
            before=_before(begin),
            after=_after(end),
            first=first,
            last=last,
            energy_kwh=inside,
            samples=self.samples if span == self.span else int(first is not None),
            entry_kwh=(begin.step_kwh or 0.0) if first else 0.0,
            exit_kwh=end.step_kwh or 0.0,
            spacing_us=self.spacing_us,
            set_gap_us=None if gap is None else gap * SECOND_US,
            resolution_kwh=RESOLUTION_KWH if resolution is None else resolution,
        )

    def gaps(self, longest_us: float) -> Iterator[Span]:
        """Where no two neighbouring samples are at most `longest_us` apart, within the span.

        Only steps of more than five minutes are known, so `longest_us` counts from there.
        """
        for a_us, b_us in self._long_steps():
            if b_us - a_us > max(longest_us, BORDER_US):
                yield Span(max(a_us, self.span.from_us), min(b_us, self.span.to_us))

    def _long_steps(self) -> Iterator[tuple[int, int]]:
        begin = _before(self.around[self.span.from_us - 1])
        previous = begin.at_us if begin else _NEVER
        for hour in self.hours:
            yield previous, hour.first_us
            if hour.gaps_from:
                yield from zip(map(to_us, hour.gaps_from), map(to_us, hour.gaps_to), strict=True)
            previous = hour.last_us
        end = _after(self.around[self.span.to_us])
        yield previous, end.at_us if end else -_NEVER

    @property
    def max_gap_us(self) -> int | None:
        """The longest step between two samples in the span; None with fewer than two."""
        steps = [h.max_gap_seconds * SECOND_US for h in self.hours]
        seams = zip(self.hours, self.hours[1:], strict=False)
        steps += [b.first_us - a.last_us for a, b in seams]
        return round(max(steps)) if self.samples >= _COUNTED else None

    def moving(self, least_kwh: float) -> Iterator[Span]:
        """The hours, and the steps between them, in which more than `least_kwh` flowed."""
        knots = [(to_us_, kwh) for hour in self.hours for to_us_, kwh in self._ends_of(hour)]
        begin, end = (self.around[at] for at in (self.span.from_us - 1, self.span.to_us))
        before, after = _before(begin), _after(end)
        if before is not None:
            knots.insert(0, (before.at_us, self.unrolled_kwh(before)))
        if after is not None and end.step_kwh is not None and knots:
            knots.append((after.at_us, knots[-1][1] + end.step_kwh))
        for (a_us, a_kwh), (b_us, b_kwh) in pairwise(knots):
            if b_kwh - a_kwh > least_kwh:
                yield Span(a_us, b_us)

    def _ends_of(self, hour: Hour) -> tuple[tuple[int, float], tuple[int, float]]:
        base_kwh = self.unrolled_kwh(Sample(hour.first_us, hour.first_kwh))
        return (hour.first_us, base_kwh), (hour.last_us, base_kwh + hour.energy_kwh)

    def kwh_at(self, instants: Sequence[int]) -> list[float]:
        """The unrolled value at each of these ascending instants, which the line must cover.

        Exact at five-minute borders, at samples that were looked at, and between those.
        """
        knots = self._knots()
        known = dict(knots)  # nearly all instants are borders, and borders are knots
        return [
            known[instant] if instant in known else _interpolated(knots, instant)
            for instant in instants
        ]

    def _knots(self) -> list[tuple[int, float]]:
        knots: list[tuple[int, float]] = []
        for hour in self.hours:
            knots += self._knots_of(hour)
        for bracket in self.around.values():
            for sample in filter(None, (_before(bracket), _after(bracket))):
                insort(knots, (sample.at_us, self.unrolled_kwh(sample)))
        # The step that leaves the span may be judged: its energy is the bracket's, not corrected.
        end = self.around[self.span.to_us]
        last, after = _before(end), _after(end)
        if last and after and end.step_kwh is not None:
            knots[-1] = (after.at_us, self.unrolled_kwh(last) + end.step_kwh)
        return knots

    def _knots_of(self, hour: Hour) -> list[tuple[int, float]]:
        first, last = self._ends_of(hour)
        if not hour.line_kwh:
            return [first, last]
        borders = range((first[0] // BORDER_US + 1) * BORDER_US, last[0] + 1, BORDER_US)
        reached = [first[1] + kwh for kwh in hour.line_kwh]
        return [first, *zip(borders, reached, strict=True), last]


def _interpolated(knots: Sequence[tuple[int, float]], instant: int) -> float:
    place = min(max(bisect_right(knots, (instant, inf)), 1), len(knots) - 1)
    (a_us, a_kwh), (b_us, b_kwh) = knots[place - 1], knots[place]
    share = (instant - a_us) / (b_us - a_us) if b_us > a_us else 0.0
    return a_kwh + share * (b_kwh - a_kwh)


def _before(bracket: Bracket) -> Sample | None:
    if bracket.before_at is None or bracket.before_kwh is None:
        return None
    return Sample(to_us(bracket.before_at), bracket.before_kwh)


def _after(bracket: Bracket) -> Sample | None:
    if bracket.after_at is None or bracket.after_kwh is None:
        return None
    return Sample(to_us(bracket.after_at), bracket.after_kwh)
