"""What a window shows of steady registers: one number per vehicle and question, as columns.

The same questions as in workers/energy.py and workers/timeline.py, for the case that both sides
were seen from before the window's begin. Where that is not so, `fits` is false, and the vehicle
is somebody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.clock import HOUR_US, SECOND_US
from models.steady import BORDERS
from workers.charging import UWH_PER_KWH
from workers.energy import EDGE_DOUBT, EDGE_GAP_SPACINGS, MIN_EDGE_GAP_US, NOISE_KWH, Span
from workers.steady.registers import BORDER_US, HOURS, RECENT, Registers

Array = npt.NDArray[Any]
_DAY_HOURS = 25


@dataclass(slots=True)
class Look:
    """One side of many vehicles in the window `span`; each field has one element per vehicle."""

    registers: Registers
    slots: Array
    span: Span
    #: Second, different values for an instant, refused.
    conflicts: Array
    #: Whether this way leads to the right numbers; they mean nothing where it does not.
    fits: Array
    before_us: Array
    before_kwh: Array
    first_us: Array
    first_kwh: Array
    last_us: Array
    samples: Array
    spacing_us: Array
    #: The widest gap between samples that is bridged at the window's edges.
    gap_us: Array
    max_gap_us: Array
    #: The hours behind the one that the window cuts, in order: places in the ring, and whether
    #: they are there.
    places: Array
    there: Array
    #: Samples of the cut hour that lie in the window.
    inside: Array

    def at(self, name: str) -> Array:
        """A column of the registers, for these vehicles."""
        found: Array = self.registers[name][self.slots]
        return found

    def hours(self, name: str, otherwise: float) -> Array:
        """A column of the hours behind the cut one, in order; `otherwise` where there is none."""
        values = self.registers[name][self.slots[:, None], self.places[None, :]]
        return np.where(self.there, values, otherwise)


def look(registers: Registers, slots: Array, span: Span, conflicts: Array) -> Look:
    """Look at these registers; the window's first hour must have been opened."""
    cut = span.from_us // HOUR_US
    raw_us, raw_kwh = registers["raw_us"][slots], registers["raw_kwh"][slots]
    inside = (raw_us >= span.from_us) & (
        np.arange(raw_us.shape[1]) < _column(registers, slots, "raw_count")
    )
    skipped = (raw_us < span.from_us).sum(axis=1)
    some: Array = np.asarray(inside.any(axis=1))
    row = np.arange(len(slots))

    numbers = cut + 1 + np.arange(_DAY_HOURS)
    places = numbers % HOURS
    there = registers["hour_no"][slots[:, None], places[None, :]] == numbers[None, :]
    earlier, next_ = (cut - 1) % HOURS, (cut + 1) % HOURS

    at_first = np.minimum(skipped, raw_us.shape[1] - 1)
    first_us = np.where(some, raw_us[row, at_first], registers["first_us"][slots, next_])
    first_kwh = np.where(some, raw_kwh[row, at_first], registers["first_kwh"][slots, next_])
    at_before = np.maximum(skipped - 1, 0)
    before_us = np.where(
        skipped > 0, raw_us[row, at_before], registers["hour_last_us"][slots, earlier]
    )
    before_kwh = np.where(
        skipped > 0, raw_kwh[row, at_before], registers["hour_last_kwh"][slots, earlier]
    )
    has_before = (skipped > 0) | (registers["hour_no"][slots, earlier] == cut - 1)

    found = Look(
        registers,
        slots,
        span,
        conflicts,
        has_before,
        before_us,
        before_kwh,
        first_us,
        first_kwh,
        registers["last_us"][slots],
        row,
        row,
        row,
        row,
        places,
        there,
        inside,
    )
    last_raw_us = raw_us[row, np.maximum(skipped + inside.sum(axis=1) - 1, 0)]
    _count(found, some, last_raw_us)
    found.fits &= (
        (registers["raw_hour"][slots] == cut)
        & (found.samples > some + there.sum(axis=1))
        & (there.any(axis=1))
        & (registers["newest_hour"][slots] == cut + there.sum(axis=1))
        & (found.last_us <= span.to_us)
        & (first_us - before_us <= BORDER_US)
        & _bridged(found, before_us, before_kwh, first_us, first_kwh)
    )
    return found


def _column(registers: Registers, slots: Array, name: str) -> Array:
    found: Array = registers[name][slots][:, None]
    return found


def _count(found: Look, some: Array, last_raw_us: Array) -> None:
    """Samples, their spacing, the longest step between two of them."""
    first_us, last_us = found.hours("first_us", 0), found.hours("hour_last_us", 0)
    cut_length_us = np.where(some, last_raw_us - found.first_us, 0)
    found.samples = found.inside.sum(axis=1) + found.hours("samples", 0).sum(axis=1)
    pairs = found.samples - some - found.there.sum(axis=1)
    length_us = cut_length_us + (last_us - first_us).sum(axis=1)
    found.spacing_us = length_us / np.maximum(pairs, 1)
    usual_us = np.maximum(MIN_EDGE_GAP_US, EDGE_GAP_SPACINGS * found.spacing_us)
    set_us = found.at("edge_gap_us")
    found.gap_us = np.where(np.isnan(set_us), usual_us, set_us)
    raw_us = found.at("raw_us")
    steps_us = np.where(found.inside[:, 1:] & found.inside[:, :-1], np.diff(raw_us), 0)
    seams_us = np.where(found.there[:, 1:], first_us[:, 1:] - last_us[:, :-1], 0)
    into_us = np.where(some & found.there[:, 0], first_us[:, 0] - last_raw_us, 0)
    within_us = (found.hours("max_gap_s", 0) * SECOND_US).max(axis=1)
    longest_us = [steps_us.max(axis=1, initial=0), seams_us.max(axis=1), into_us, within_us]
    found.max_gap_us = np.rint(np.max(longest_us, axis=0))


def _bridged(found: Look, a_us: Array, a_kwh: Array, b_us: Array, b_kwh: Array) -> Array:
    """Whether an edge between two samples may be read off the line; as in workers/energy.py."""
    exact = b_us == found.span.from_us
    still = b_kwh - a_kwh <= found.at("resolution_kwh") + NOISE_KWH
    bridged: Array = exact | (b_us - a_us <= found.gap_us) | still
    return bridged


@dataclass(slots=True)
class Cut:
    """One side on the common ground [window's begin, end_us]."""

    fits: Array
    energy_kwh: Array
    doubt_kwh: Array
    #: The register at both ends, kWh.
    begin_kwh: Array
    end_kwh: Array


def cut(found: Look, end_us: Array) -> Cut:
    """Cut a side off at an instant of each vehicle's own, which its newest samples must enclose."""
    recent_us, recent_kwh = found.at("recent_us"), found.at("recent_kwh")
    row, seen = np.arange(len(end_us)), (recent_us <= end_us[:, None]).sum(axis=1)
    at_last, at_after = np.maximum(seen - 1, 0), np.minimum(seen, RECENT - 1)
    last_us, last_kwh = recent_us[row, at_last], recent_kwh[row, at_last]
    after_us, after_kwh = recent_us[row, at_after], recent_kwh[row, at_after]
    exact = last_us == end_us
    open_ = seen == RECENT  # nothing behind it: it must be exact
    exit_kwh = np.where(open_, 0.0, after_kwh - last_kwh)
    still = exit_kwh <= found.at("resolution_kwh") + NOISE_KWH
    fits = (seen > 0) & (last_us > 0) & (last_us >= found.first_us)
    fits &= exact | ~open_ & ((after_us - last_us <= found.gap_us) | still)

    from_us, entry_kwh = found.span.from_us, found.first_kwh - found.before_kwh
    entered = entry_kwh * (found.first_us - from_us) / _length(found.first_us - found.before_us)
    left_over = exit_kwh * (end_us - last_us) / _length(after_us - last_us)
    entered = np.where(found.first_us > from_us, entered, 0.0)
    left_over = np.where((end_us > last_us) & ~open_, left_over, 0.0)
    cut_kwh = np.where(from_us < found.first_us, entry_kwh, 0.0)
    cut_kwh = cut_kwh + np.where(end_us > last_us, exit_kwh, 0.0)
    share = (from_us - found.before_us) / _length(found.first_us - found.before_us)
    share_end = np.where(end_us > last_us, (end_us - last_us) / _length(after_us - last_us), 0.0)
    return Cut(
        fits,
        entered + (last_kwh - found.first_kwh) + left_over,
        found.at("resolution_kwh") + EDGE_DOUBT * cut_kwh,
        found.before_kwh + share * entry_kwh,
        last_kwh + share_end * exit_kwh,
    )


def _length(us: Array) -> Array:
    return np.where(us > 0, us, 1)


def steps_uwh(found: Look, side: Cut, end_us: Array) -> tuple[Array, Array]:
    """The energy of each five-minute step up to `end_us`, µWh, and where it is known.

    Shape: (vehicles, borders of the window + 1); steps behind the end have no length.
    """
    borders = border_numbers(found.span)
    line = _line(found, borders)
    behind = borders[None, :] * BORDER_US >= end_us[:, None]
    line = np.where(behind, side.end_kwh[:, None], line)
    known: Array = np.asarray(~np.isnan(line).any(axis=1))
    ends = np.concatenate([side.begin_kwh[:, None], line, side.end_kwh[:, None]], axis=1)
    whole = np.rint(np.nan_to_num(ends) * UWH_PER_KWH).astype(np.int64)
    return np.diff(whole, axis=1), known


def _line(found: Look, borders: Array) -> Array:
    """The registers at these borders, kWh; NaN where that is not known."""
    r, first = found.registers, borders[0] // BORDERS
    hours = np.arange(first, borders[-1] // BORDERS + 1)
    place = hours % HOURS
    line = found.at("reached_kwh")[:, place]
    line += found.at("first_kwh")[:, place, None]
    line[:, :, 0] = found.at("seam_kwh")[:, place]
    line[r["hour_no"][found.slots][:, place] != hours] = np.nan
    flat: Array = line.reshape(len(line), len(hours) * BORDERS)
    return flat[:, borders[0] - first * BORDERS : borders[-1] - first * BORDERS + 1]


def border_numbers(span: Span) -> Array:
    """The five-minute borders inside the window, counted since 1970."""
    return np.arange(span.from_us // BORDER_US + 1, -(-span.to_us // BORDER_US))
