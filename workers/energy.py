"""The energy arithmetic: from cumulative registers to the share of energy that arrived.

Pure functions over samples; nothing here knows a database or a clock. The same law for one step of
a register stands in SQL in models/windows.py, and tests hold the two together.

What a register says between its samples is taken as a straight line. A window [from, to) is given
its energy by the line's values at both ends, so energy between the last sample before the window
and the first one in it is shared out and not lost. Where that line would bridge a gap in which
energy moved, nothing is guessed: the window shrinks to the part both sides really cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

#: kWh. Below it a register's resolution makes the ratio worthless.
MIN_ENERGY_KWH = 0.5
#: A register moves in steps of this many kWh; less between two samples is "no energy moved".
RESOLUTION_KWH = 0.01
#: DC/AC up to here is metering tolerance (class B meter 1 % + vehicle 1 %); above, impossible.
MAX_RATIO = 1.02
#: DC/AC outside this range is a unit mistake (Wh sent as kWh), not an efficiency.
UNIT_RATIOS = (0.01, 10.0)
#: A gap of this many microseconds at a window's edge is always bridged.
MIN_EDGE_GAP_US = 300_000_000
#: A wider one is bridged up to this many times the usual spacing of the samples.
EDGE_GAP_SPACINGS = 3

_NOISE = 1e-9  # kWh; what subtracting two registers adds to a decimal step


class Sample(NamedTuple):
    """A register's value at an instant (microseconds since 1970, kWh)."""

    at_us: int
    kwh: float


@dataclass(frozen=True, slots=True)
class Piece:
    """What one register did around one window [from_us, to_us]."""

    from_us: int
    to_us: int
    #: Nearest sample outside, on either side.
    before: Sample | None
    after: Sample | None
    #: First and last sample inside, the energy between them, how many, and how often it restarted.
    first: Sample | None = None
    last: Sample | None = None
    energy_kwh: float = 0.0
    samples: int = 0
    resets: int = 0
    #: Usual distance of two samples in the window; None with fewer than two.
    spacing_us: float | None = None


class Span(NamedTuple):
    """A part of a window, in microseconds since 1970; empty when `to_us` <= `from_us`."""

    from_us: int
    to_us: int


def step(previous_kwh: float, kwh: float) -> float:
    """Energy between two neighbouring samples: a register that fell has restarted at zero."""
    return kwh - previous_kwh if kwh >= previous_kwh else kwh


def piece_of(samples: Sequence[Sample], from_us: int, to_us: int) -> Piece:
    """The piece of a register given all its samples, sorted by time (the slow, obvious way)."""
    inside = [s for s in samples if from_us <= s.at_us <= to_us]
    pairs = list(pairwise(inside))
    return Piece(
        from_us,
        to_us,
        before=max((s for s in samples if s.at_us < from_us), default=None),
        after=min((s for s in samples if s.at_us > to_us), default=None),
        first=inside[0] if inside else None,
        last=inside[-1] if inside else None,
        energy_kwh=sum(step(a.kwh, b.kwh) for a, b in pairs),
        samples=len(inside),
        resets=sum(b.kwh < a.kwh for a, b in pairs),
        spacing_us=(inside[-1].at_us - inside[0].at_us) / len(pairs) if pairs else None,
    )


def edge_gap_us(piece: Piece) -> float:
    """The widest gap between samples that may be bridged at an edge of this piece's window."""
    return max(MIN_EDGE_GAP_US, EDGE_GAP_SPACINGS * (piece.spacing_us or 0))


def support(piece: Piece, gap_us: float) -> Span | None:
    """The part of the piece's window that its register covers; None when it covers nothing.

    An edge holds when a sample is exactly there, when the samples around it are at most `gap_us`
    apart, or when no energy moved between them; else the window begins (ends) at the sample inside.
    """
    first, last = piece.first or piece.after, piece.last or piece.before
    if first is None or last is None or (piece.first is None and not _bridged(last, first, gap_us)):
        return None
    begins = first.at_us == piece.from_us or _bridged(piece.before, first, gap_us)
    ends = last.at_us == piece.to_us or _bridged(last, piece.after, gap_us)
    return Span(piece.from_us if begins else first.at_us, piece.to_us if ends else last.at_us)


def energy(piece: Piece, span: Span) -> float:
    """kWh over `span`, which holds all of the piece's samples and perhaps reaches beyond them.

    What it reaches beyond them is read off the line to the nearest sample outside.
    """
    if piece.first is None or piece.last is None:
        return _share(piece.before, piece.after, span)
    left = _share(piece.before, piece.first, Span(span.from_us, piece.first.at_us))
    right = _share(piece.last, piece.after, Span(piece.last.at_us, span.to_us))
    return left + piece.energy_kwh + right


def _bridged(a: Sample | None, b: Sample | None, gap_us: float) -> bool:
    if a is None or b is None:
        return False
    return b.at_us - a.at_us <= gap_us or step(a.kwh, b.kwh) <= RESOLUTION_KWH + _NOISE


def _share(a: Sample | None, b: Sample | None, span: Span) -> float:
    """The share of the step from a to b that falls into `span`."""
    if a is None or b is None or span.to_us <= span.from_us:
        return 0.0
    return step(a.kwh, b.kwh) * (span.to_us - span.from_us) / (b.at_us - a.at_us)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Efficiency as a fraction of AC, or None with the reason why it can't be known."""

    efficiency: float | None
    raw_ratio: float | None
    reason: str | None


def judge(ac_kwh: float, dc_kwh: float) -> Verdict:
    """The null rules for two known energies; the first that matches wins. Nothing is clamped."""
    raw = dc_kwh / ac_kwh if ac_kwh > 0 else None
    if ac_kwh < MIN_ENERGY_KWH - _NOISE:
        without = dc_kwh >= MIN_ENERGY_KWH - _NOISE
        return Verdict(None, raw, "DC_WITHOUT_AC" if without else "INSUFFICIENT_ENERGY")
    assert raw is not None  # noqa: S101  (AC is at least MIN_ENERGY_KWH here)
    if dc_kwh > 0 and not UNIT_RATIOS[0] <= raw <= UNIT_RATIOS[1]:
        return Verdict(None, raw, "UNIT_MISMATCH")
    if raw > MAX_RATIO + _NOISE:
        return Verdict(None, raw, "DC_EXCEEDS_AC")
    return Verdict(raw, raw, None)
