"""What a register really did: each raw sample judged, one after the other, by one law.

Cheap counters reset, roll over, dip, glitch to zero for a sample, spike, and are replaced. Most of
these are told apart only with the next sample in hand, so a sample is judged with one sample
of look-ahead, and judged again when that arrives. (Prometheus, Timescale and Home Assistant
look back only, and book 40,484 kWh for a single transient zero.)

The judgement is a fold: from the state after the last accepted sample and the samples that follow
comes the next state. Folding a register in one go or from any state in its middle gives the same
points, which is what lets a late reading be judged without walking the whole register again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from models.ratings import Rating
from workers.energy import Piece, Sample


class Event(StrEnum):
    """What a sample shows other than energy flowing. The first two are dropped."""

    GLITCH = "GLITCH"  # one sample too low, then back: dropped
    SPIKE = "SPIKE"  # one sample too high, then back: dropped
    JUMP = "JUMP"  # more than the rating admits, and it stays: counted as nothing
    DIP = "DIP"  # a small fall: an estimate was corrected, energy does not flow back
    ROLLOVER = "ROLLOVER"  # past the last digit, on from zero
    RESET = "RESET"  # restarted at zero
    REBASE = "REBASE"  # another register: replaced meter


#: A fall to no less than this share of the highest value may be a dip.
DIP_SHARE = 0.9
#: Only a register beyond this share of its range can roll over.
ROLLOVER_SHARE = 0.9


class State(NamedTuple):
    """Where the fold stands: the last accepted sample, and the highest value before a dip."""

    at_us: int
    kwh: float
    high_kwh: float


class Point(NamedTuple):
    """A judged sample: the energy of the step that ends in it, and what it showed."""

    sample: Sample
    energy_kwh: float
    event: Event | None = None
    #: The step is not simply this sample minus the one before.
    special: bool = False
    #: Energy that may have flowed unseen (resets, replaced meters).
    uncertain_kwh: float = 0.0
    #: No later sample can change this judgement.
    final: bool = True

    @property
    def dropped(self) -> bool:
        """Whether the sample counts for nothing, not even as the one before."""
        return self.event in (Event.GLITCH, Event.SPIKE)


def walk(
    state: State | None, samples: Sequence[Sample], rating: Rating
) -> Iterator[tuple[State, Point]]:
    """(state after, point) for each of `samples`, which are sorted and lie after the state."""
    for index, sample in enumerate(samples):
        if state is None:
            state = State(sample.at_us, sample.kwh, sample.kwh)
            yield state, Point(sample, 0.0)
            continue
        rise = sample.kwh - state.high_kwh
        if 0 <= rise <= rating.limit_kwh(sample.at_us - state.at_us):  # the normal case
            recovered = state.high_kwh != state.kwh
            state = State(sample.at_us, sample.kwh, sample.kwh)
            yield state, Point(sample, rise, special=recovered)
            continue
        following = samples[index + 1] if index + 1 < len(samples) else None
        point = judge(state, sample, following, rating)
        if not point.dropped:
            dipping = point.event in (Event.DIP, None)
            state = State(sample.at_us, sample.kwh, state.high_kwh if dipping else sample.kwh)
        yield state, point


def judge(state: State, sample: Sample, following: Sample | None, rating: Rating) -> Point:
    """The verdict on a sample that is not a plain rise.

    At the live edge (`following` is None) a verdict that the next sample may overturn is not final.
    It is the cautious one: what cannot have flowed is not counted meanwhile.
    """
    span_us, final = sample.at_us - state.at_us, following is not None
    fallen = _small_fall(state, sample, span_us, rating) if sample.kwh < state.high_kwh else None
    if fallen is not None:
        return fallen
    if following is not None and _returns(state, sample, following, rating):
        return Point(sample, 0.0, Event.GLITCH if sample.kwh < state.kwh else Event.SPIKE, True)
    if sample.kwh > state.high_kwh:
        return Point(sample, 0.0, Event.JUMP, True, 0.0, final)
    if sample.kwh <= rating.limit_kwh(span_us):
        unseen_kwh = max(0.0, rating.unseen_kwh(span_us) - sample.kwh)
        return Point(sample, sample.kwh, Event.RESET, True, unseen_kwh, final)
    return Point(sample, 0.0, Event.REBASE, True, rating.unseen_kwh(span_us), final)


def _small_fall(state: State, sample: Sample, span_us: int, rating: Rating) -> Point | None:
    """Falls that need no look-ahead: small ones, and over the register's last digit."""
    high = state.high_kwh
    if sample.kwh >= DIP_SHARE * high and high - sample.kwh <= rating.dip_tolerance_kwh:
        return Point(sample, 0.0, Event.DIP if sample.kwh < state.kwh else None, True)
    top = rating.rollover_kwh
    if top is not None and high > ROLLOVER_SHARE * top:
        over = top - high + sample.kwh
        if 0 <= over <= rating.limit_kwh(span_us):
            return Point(sample, over, Event.ROLLOVER, True)
    return None


def _returns(state: State, sample: Sample, following: Sample, rating: Rating) -> bool:
    """Whether the sample after this one goes on where the one before it was."""
    if sample.kwh > state.kwh and following.kwh >= sample.kwh:
        return False
    back_kwh = following.kwh - state.kwh
    limit_kwh = rating.limit_kwh(following.at_us - state.at_us)
    return -rating.resolution_kwh <= back_kwh <= limit_kwh


def piece_of(points: Sequence[Point], from_us: int, to_us: int) -> Piece:
    """The piece of a register given all its points (the slow, obvious way; tests compare)."""
    kept = [point for point in points if not point.dropped]
    inside = [p for p in kept if from_us <= p.sample.at_us <= to_us]
    before = [p for p in kept if p.sample.at_us < from_us]
    after = [p for p in kept if p.sample.at_us > to_us]
    seconds = inside[-1].sample.at_us - inside[0].sample.at_us if inside else 0
    return Piece(
        from_us,
        to_us,
        before=before[-1].sample if before else None,
        after=after[0].sample if after else None,
        first=inside[0].sample if inside else None,
        last=inside[-1].sample if inside else None,
        energy_kwh=sum(p.energy_kwh for p in inside[1:]),
        samples=len(inside),
        entry_kwh=inside[0].energy_kwh if inside and before else 0.0,
        exit_kwh=after[0].energy_kwh if after and (inside or before) else 0.0,
        spacing_us=seconds / (len(inside) - 1) if len(inside) > 1 else None,
    )
