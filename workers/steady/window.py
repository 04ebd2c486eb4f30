"""What a window shows of steady registers: one number per vehicle and question, as columns.

The same questions as in workers/energy.py and workers/timeline.py, for the case that both sides
were seen from before the window's begin. Where that is not so, `fits` is false, and the vehicle
is somebody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from models.clock import HOUR_US, SECOND_US
from models.steady import BORDERS
from workers.charging import UWH_PER_KWH
from workers.energy import EDGE_DOUBT, EDGE_GAP_SPACINGS, MIN_EDGE_GAP_US, NOISE_KWH, Span
from workers.steady.registers import BORDER_US, HOURS, NEVER_US, RECENT, Registers

Array = npt.NDArray[Any]
#: Hours that a day touches, without the one that its begin cuts.
_DAY_HOURS = 25


class Look:
    """One side of many vehicles in the window `span`; each array has one element per vehicle.

    The registers must have opened the hour in which the window begins.
    """

    def __init__(self, registers: Registers, slots: Array, span: Span, conflicts: Array) -> None:
        """`conflicts`: how many second, different values were refused in the window."""
        self.registers, self.slots, self.span, self.conflicts = registers, slots, span, conflicts
        self.last_us = self.at("last_us")
        cut = span.from_us // HOUR_US
        # The hours behind the one that the window cuts, in order: places in the ring, and whether
        # they are there. Shape: (vehicles, hours)
        numbers = cut + 1 + np.arange(_DAY_HOURS)
        self._places = numbers % HOURS
        self.there: Array = self.at("hour_no")[:, self._places] == numbers
        self._read_cut_hour(cut)

    def _read_cut_hour(self, cut: int) -> None:
        """The samples of the hour in which the window begins, before it and in it."""
        raw_us, raw_kwh = self.at("raw_us"), self.at("raw_kwh")
        skipped = (raw_us < self.span.from_us).sum(axis=1)
        # Shape: (vehicles, samples)
        self.inside: Array = (raw_us >= self.span.from_us) & (raw_us < NEVER_US)
        self.some = self.inside.any(axis=1)
        row, next_, earlier = np.arange(len(self.slots)), (cut + 1) % HOURS, (cut - 1) % HOURS
        first = np.minimum(skipped, raw_us.shape[1] - 1)
        self.first_us = np.where(self.some, raw_us[row, first], self.at("first_us")[:, next_])
        self.first_kwh = np.where(self.some, raw_kwh[row, first], self.at("first_kwh")[:, next_])
        before, led = np.maximum(skipped - 1, 0), skipped > 0
        self.before_us = np.where(led, raw_us[row, before], self.at("hour_last_us")[:, earlier])
        self.before_kwh = np.where(led, raw_kwh[row, before], self.at("hour_last_kwh")[:, earlier])
        last = np.maximum(skipped + self.inside.sum(axis=1) - 1, 0)
        self._cut_last_us = raw_us[row, last]
        self._seen_before = led | (self.at("hour_no")[:, earlier] == cut - 1)
        self._opened = self.at("raw_hour") == cut

    def at(self, name: str) -> Array:
        """A column of the registers, for these vehicles."""
        found: Array = self.registers[name][self.slots]
        return found

    def hours(self, name: str, otherwise: float) -> Array:
        """A column of the hours behind the cut one, in order; `otherwise` where there is none."""
        return np.where(self.there, self.at(name)[:, self._places], otherwise)

    @cached_property
    def samples(self) -> Array:
        """How many samples lie in the window."""
        found: Array = self.inside.sum(axis=1) + self.hours("samples", 0).sum(axis=1)
        return found

    @cached_property
    def _pairs(self) -> Array:
        """Neighbours that are in the same hour."""
        pairs: Array = self.samples - self.some - self.there.sum(axis=1)
        return pairs

    @cached_property
    def spacing_us(self) -> Array:
        """The usual distance of two samples."""
        length_us = np.where(self.some, self._cut_last_us - self.first_us, 0)
        hours_us = self.hours("hour_last_us", 0) - self.hours("first_us", 0)
        found: Array = (length_us + hours_us.sum(axis=1)) / np.maximum(self._pairs, 1)
        return found

    @cached_property
    def gap_us(self) -> Array:
        """The widest gap between samples that is bridged at the window's edges."""
        usual_us = np.maximum(MIN_EDGE_GAP_US, EDGE_GAP_SPACINGS * self.spacing_us)
        set_us = self.at("edge_gap_us")
        return np.where(np.isnan(set_us), usual_us, set_us)

    @cached_property
    def max_gap_us(self) -> Array:
        """The longest step between two samples."""
        first_us, last_us = self.hours("first_us", 0), self.hours("hour_last_us", 0)
        inside, raw_us = self.inside, self.at("raw_us")
        into_us = np.where(self.some & self.there[:, 0], first_us[:, 0] - self._cut_last_us, 0)
        longest_us = [
            np.where(inside[:, 1:] & inside[:, :-1], np.diff(raw_us), 0).max(axis=1, initial=0),
            into_us,
            np.where(self.there[:, 1:], first_us[:, 1:] - last_us[:, :-1], 0).max(axis=1),
            (self.hours("max_gap_s", 0) * SECOND_US).max(axis=1),
        ]
        found: Array = np.rint(np.max(longest_us, axis=0))
        return found

    @cached_property
    def fits(self) -> Array:
        """Whether this way leads to the right numbers; they mean nothing where it does not."""
        hours = self.there.sum(axis=1)  # in a row, if the newest is as many behind the cut one
        found: Array = (
            self._opened
            & self._seen_before
            & (hours > 0)
            & (self.at("newest_hour") == self.span.from_us // HOUR_US + hours)
            & (self._pairs > 0)
            & (self.last_us <= self.span.to_us)
            & (self.first_us - self.before_us <= BORDER_US)
            & self._begin_is_bridged()
        )
        return found

    def _begin_is_bridged(self) -> Array:
        """Whether the window's begin may be read off the line; as in workers/energy.py."""
        exact = self.first_us == self.span.from_us
        still = self.first_kwh - self.before_kwh <= self.at("resolution_kwh") + NOISE_KWH
        bridged: Array = exact | (self.first_us - self.before_us <= self.gap_us) | still
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
