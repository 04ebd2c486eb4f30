"""The energy arithmetic: from cumulative registers to the share of energy that arrived.

Pure functions; nothing here knows a database or a clock. What a single step of a register is worth
was judged before (workers/register.py); here steps are added up over windows, two sides compared.

What a register says between its samples is taken as a straight line. A window [from, to) is given
its energy by the line's values at both ends, so energy between the last sample before the window
and the first one in it is shared out and not lost. Where that line would bridge a gap in which
energy moved, nothing is guessed: the window shrinks to the part both sides really cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from models.ratings import RESOLUTION_KWH

#: kWh. Below it a register's resolution makes the ratio worthless.
MIN_ENERGY_KWH = 0.5
#: DC/AC up to here is metering tolerance (class B meter 1 % + vehicle 1 %); above, impossible.
MAX_RATIO = 1.02
#: DC/AC outside this range is a unit mistake (Wh sent as kWh), not an efficiency.
UNIT_RATIOS = (0.01, 10.0)
#: A gap of this many microseconds at a window's edge is always bridged.
MIN_EDGE_GAP_US = 300_000_000
#: A wider one is bridged up to this many times the usual spacing of the samples.
EDGE_GAP_SPACINGS = 3

#: Share of a step's energy that may lie on the wrong side of an edge within it.
EDGE_DOUBT = 0.25

NOISE_KWH = 1e-9  # kWh; what subtracting two registers adds to a decimal step


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
    #: First and last sample inside, the energy between them, and how many they are.
    first: Sample | None = None
    last: Sample | None = None
    energy_kwh: float = 0.0
    samples: int = 0
    #: Energy of the steps across the edges: before -> first, last (or before) -> after.
    entry_kwh: float = 0.0
    exit_kwh: float = 0.0
    #: Usual distance of two samples in the window; None with fewer than two.
    spacing_us: float | None = None
    #: Set for the device; None leaves it to `edge_gap_us`.
    set_gap_us: float | None = None
    resolution_kwh: float = RESOLUTION_KWH


class Span(NamedTuple):
    """A part of a window, in microseconds since 1970; empty when `to_us` <= `from_us`."""

    from_us: int
    to_us: int


def edge_gap_us(piece: Piece) -> float:
    """The widest gap between samples that may be bridged at an edge of this piece's window."""
    if piece.set_gap_us is not None:
        return piece.set_gap_us
    return max(MIN_EDGE_GAP_US, EDGE_GAP_SPACINGS * (piece.spacing_us or 0))


def support(piece: Piece, gap_us: float) -> Span | None:
    """The part of the piece's window that its register covers; None when it covers nothing.

    An edge holds when a sample is exactly there, when the samples around it are at most `gap_us`
    apart, or when no energy moved between them; else the window begins (ends) at the sample inside.
    """
    if piece.first is None or piece.last is None:
        through = _bridged(piece, piece.before, piece.after, piece.exit_kwh, gap_us)
        return Span(piece.from_us, piece.to_us) if through else None
    begins = piece.first.at_us == piece.from_us
    ends = piece.last.at_us == piece.to_us
    begins = begins or _bridged(piece, piece.before, piece.first, piece.entry_kwh, gap_us)
    ends = ends or _bridged(piece, piece.last, piece.after, piece.exit_kwh, gap_us)
    return Span(
        piece.from_us if begins else piece.first.at_us, piece.to_us if ends else piece.last.at_us
    )


def energy(piece: Piece, span: Span) -> float:
    """kWh over `span`, which holds all of the piece's samples and perhaps reaches beyond them.

    What it reaches beyond them is read off the line to the nearest sample outside.
    """
    if piece.first is None or piece.last is None:
        return _share(piece.before, piece.after, piece.exit_kwh, span)
    left, right = Span(span.from_us, piece.first.at_us), Span(piece.last.at_us, span.to_us)
    entered = _share(piece.before, piece.first, piece.entry_kwh, left)
    left_over = _share(piece.last, piece.after, piece.exit_kwh, right)
    return entered + piece.energy_kwh + left_over


def doubt_kwh(piece: Piece, span: Span) -> float:
    """kWh by which `energy` may be off: the register's resolution, and the steps an edge cuts.

    How energy spread over such a step is unknown; a quarter of it is the usual error.
    """
    if span.to_us <= span.from_us:
        return piece.resolution_kwh
    if piece.first is None or piece.last is None:
        cut_kwh = 2 * piece.exit_kwh
    else:
        cut_kwh = piece.entry_kwh if span.from_us < piece.first.at_us else 0.0
        cut_kwh += piece.exit_kwh if span.to_us > piece.last.at_us else 0.0
    return piece.resolution_kwh + EDGE_DOUBT * cut_kwh


def _bridged(
    piece: Piece, a: Sample | None, b: Sample | None, step_kwh: float, gap_us: float
) -> bool:
    if a is None or b is None:
        return False
    # Less than one step of the register is "no energy moved".
    return b.at_us - a.at_us <= gap_us or step_kwh <= piece.resolution_kwh + NOISE_KWH


def _share(a: Sample | None, b: Sample | None, step_kwh: float, span: Span) -> float:
    """The share of the step from a to b that falls into `span`."""
    if a is None or b is None or span.to_us <= span.from_us:
        return 0.0
    return step_kwh * (span.to_us - span.from_us) / (b.at_us - a.at_us)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Efficiency as a fraction of AC, or None with the reason why it can't be known."""

    efficiency: float | None
    raw_ratio: float | None
    reason: str | None


def judge(ac_kwh: float, dc_kwh: float) -> Verdict:
    """The null rules for two known energies; the first that matches wins. Nothing is clamped."""
    raw = dc_kwh / ac_kwh if ac_kwh > 0 else None
    if ac_kwh < MIN_ENERGY_KWH - NOISE_KWH:
        without = dc_kwh >= MIN_ENERGY_KWH - NOISE_KWH
        return Verdict(None, raw, "DC_WITHOUT_AC" if without else "INSUFFICIENT_ENERGY")
    assert raw is not None  # noqa: S101  (AC is at least MIN_ENERGY_KWH here)
    if dc_kwh > 0 and not UNIT_RATIOS[0] <= raw <= UNIT_RATIOS[1]:
        return Verdict(None, raw, "UNIT_MISMATCH")
    if raw > MAX_RATIO + NOISE_KWH:
        return Verdict(None, raw, "DC_EXCEEDS_AC")
    return Verdict(raw, raw, None)
