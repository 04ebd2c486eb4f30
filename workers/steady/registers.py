"""One kind's steady registers, as columns: a row (slot) for each device.

Hours and their five-minute borders lie in a ring: hour number n (since 1970) has the place
n % HOURS and is there only if `hour_no` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from models import arrays, steady
from models.clock import HOUR_US, SECOND_US, from_us
from models.hours import BORDER_SECONDS
from models.kinds import VEHICLE, Kind
from models.ratings import MAX_POWER_KW, POWER_MARGIN, RESOLUTION_KWH, SECONDS_PER_HOUR
from models.steady import BORDERS

Array = npt.NDArray[Any]

BORDER_US = BORDER_SECONDS * SECOND_US
#: 24 h touch 25 hours; one more on either side.
HOURS = 27
#: Newest samples of each device: the other side's last sample must lie among them.
RECENT = 32
#: How far back those are looked for, µs.
_RECENT_US = 40 * 60 * SECOND_US
#: Samples of one device's hour. More of them make it too large to be kept whole.
MOST_SAMPLES = 256
_FIRST_SAMPLES = 64
#: New samples of a device that are added at once. At five minutes each they must not go round the
#: ring: an hour would be gone before it is written.
MOST_NEW = 256
#: Devices of a kind that are kept, some 7 KB each.
MOST_DEVICES = 50_000
NEVER_US = np.iinfo(np.int64).max
assert MOST_NEW * BORDER_US < (HOURS - 2) * HOUR_US  # noqa: S101  (checked at import)
_NO_HOUR = -1

#: Column: (shape of a row, type, what stands in an empty one).
_COLUMNS: dict[str, tuple[tuple[int, ...], type, Any]] = {
    "key": ((), np.int64, 0),
    "power_kw": ((), np.float64, 0),
    "resolution_kwh": ((), np.float64, 0),
    "edge_gap_us": ((), np.float64, np.nan),
    "newest_hour": ((), np.int64, _NO_HOUR),
    "last_us": ((), np.int64, 0),
    "last_kwh": ((), np.float64, 0),
    "hour_no": ((HOURS,), np.int64, _NO_HOUR),
    "first_us": ((HOURS,), np.int64, 0),
    "first_kwh": ((HOURS,), np.float64, 0),
    "hour_last_us": ((HOURS,), np.int64, 0),
    "hour_last_kwh": ((HOURS,), np.float64, 0),
    "energy_kwh": ((HOURS,), np.float64, 0),
    "samples": ((HOURS,), np.int64, 0),
    "max_gap_s": ((HOURS,), np.float64, 0),
    "lag_min_s": ((HOURS,), np.float64, 0),
    "lag_max_s": ((HOURS,), np.float64, 0),
    # Energy since the hour's first sample at each border within it; element 0 is not used.
    "reached_kwh": ((HOURS, BORDERS), np.float64, np.nan),
    # The register at the hour's begin, on the line from the hour before.
    "seam_kwh": ((HOURS,), np.float64, np.nan),
    "recent_us": ((RECENT,), np.int64, 0),
    "recent_kwh": ((RECENT,), np.float64, 0),
    "raw_hour": ((), np.int64, _NO_HOUR),
}
_VEHICLE_COLUMNS: dict[str, tuple[tuple[int, ...], type, Any]] = {
    "temp_sum_c": ((HOURS,), np.float64, 0),
    "temp_min_c": ((HOURS,), np.float64, 0),
    "temp_max_c": ((HOURS,), np.float64, 0),
    "soc_first_pct": ((HOURS,), np.float64, np.nan),
    "soc_last_pct": ((HOURS,), np.float64, np.nan),
}
#: Of the samples of one hour, that which a window cuts: (column, type, what fills the rest).
_RAW: dict[str, tuple[type, Any]] = {"raw_us": (np.int64, NEVER_US), "raw_kwh": (np.float64, 0)}
_RAW_VEHICLE: dict[str, tuple[type, Any]] = {
    "raw_temp_c": (np.float64, 0),
    "raw_soc_pct": (np.float64, np.nan),
}


class Appended(NamedTuple):
    """What became of new samples."""

    #: Device keys and numbers of the hours that are other than before.
    keys: Array
    hours: Array
    #: Devices that are not steady any more.
    fallen: Array


class Registers:
    """The steady registers of one kind."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        vehicle = kind is VEHICLE
        self._shapes = _COLUMNS | (_VEHICLE_COLUMNS if vehicle else {})
        self._raw = _RAW | (_RAW_VEHICLE if vehicle else {})
        self._column: dict[str, Array] = {}
        self._slot_of = np.empty(0, np.int64)  # by device key; -1: not here
        self._free: list[int] = []
        #: Devices that were found not to be steady, and the hour since when that was asked.
        self._refused: dict[int, int] = {}
        self._grow(0)

    def __getitem__(self, name: str) -> Array:
        """A column, by slot."""
        return self._column[name]

    def __len__(self) -> int:
        """How many devices are kept."""
        return len(self._column["key"]) - len(self._free)

    def slots(self, keys: Array) -> Array:
        """The slot of each key, -1 where it is not here."""
        found = np.full(len(keys), -1, np.int64)
        within = keys < len(self._slot_of)
        found[within] = self._slot_of[keys[within]]
        return found

    def forget(self, keys: Array) -> None:
        """Drop these devices, whether they are here or not."""
        slots = self.slots(keys)
        here = slots >= 0
        slots = slots[here]
        self._slot_of[keys[here]] = -1
        self._column["hour_no"][slots] = _NO_HOUR
        self._column["raw_hour"][slots] = _NO_HOUR
        self._free += np.unique(slots).tolist()

    # --- what the hourly rows show ------------------------------------------------------------

    def load(self, conn: Connection, keys: Array, since_hour: int) -> None:
        """Take in those of these devices that are steady from hour number `since_hour` on.

        Who is not is asked again an hour later.
        """
        keys = np.unique(keys[self.slots(keys) < 0])[: MOST_DEVICES - len(self)]
        tried = [self._refused.get(key) == since_hour for key in keys.tolist()]
        keys = keys[~np.array(tried, bool)]
        if not len(keys):
            return
        self._refused |= dict.fromkeys(keys.tolist(), since_hour)
        since = from_us(since_hour * HOUR_US)
        rows = steady.hour_rows(conn, self.kind, keys, since)
        rows = rows[~np.isin(rows["key"], self._unsteady(conn, rows, since))]
        found, starts, counts = np.unique(rows["key"], return_index=True, return_counts=True)
        if not len(found):
            return
        for key in found.tolist():
            del self._refused[key]
        slots = self._take_slots(found)
        slot, hour = np.repeat(slots, counts), rows["hour_us"] // HOUR_US
        self._fill_hours(slot, hour, rows)
        inner = np.ones(len(rows), bool)
        inner[starts] = False  # the first row has none before it
        place = np.flatnonzero(inner)
        self._fill_seams(slot[place], hour[place], rows[place - 1], rows[place])
        ends = starts + counts - 1
        c = self._column
        c["newest_hour"][slots], c["last_us"][slots] = hour[ends], rows["last_us"][ends]
        c["last_kwh"][slots] = rows["last_kwh"][ends]
        self._fill_limits(slots, steady.limits(conn, self.kind, found))
        self._fill_recent(conn, found, slots)

    def _unsteady(self, conn: Connection, rows: Array, since: Any) -> Array:
        """The devices among these hourly rows that are not steady."""
        same = rows["key"][1:] == rows["key"][:-1]
        wide = same & (rows["first_us"][1:] - rows["last_us"][:-1] > BORDER_US)
        many = np.unique(rows["key"], return_counts=True)
        odd = (rows["odd"] != 0) | (rows["samples"] > MOST_SAMPLES)
        return np.concatenate(
            [
                rows["key"][odd],
                rows["key"][1:][wide],
                many[0][many[1] > HOURS],
                steady.judged(conn, self.kind, np.unique(rows["key"]), since),
            ]
        )

    def _fill_hours(self, slot: Array, hour: Array, rows: Array) -> None:
        place = hour % HOURS
        c = self._column
        c["hour_no"][slot, place] = hour
        named = {
            "first_us": "first_us",
            "first_kwh": "first_kwh",
            "hour_last_us": "last_us",
            "hour_last_kwh": "last_kwh",
            "energy_kwh": "energy_kwh",
            "samples": "samples",
            "max_gap_s": "max_gap_seconds",
            "lag_min_s": "lag_min_seconds",
            "lag_max_s": "lag_max_seconds",
        } | {name: name for name in _VEHICLE_COLUMNS if name in c}
        for column, name in named.items():
            c[column][slot, place] = rows[name]
        c["reached_kwh"][slot, place] = np.nan
        first_border = rows["first_us"] // BORDER_US + 1
        for n in range(1, BORDERS):
            border = first_border + n - 1
            there = ~np.isnan(rows[f"line_{n}"]) & (border // BORDERS == hour)
            c["reached_kwh"][slot[there], place[there], border[there] % BORDERS] = rows[
                f"line_{n}"
            ][there]

    def _fill_seams(self, slot: Array, hour: Array, before: Array, after: Array) -> None:
        left_kwh = before["first_kwh"] + before["energy_kwh"]
        self._column["seam_kwh"][slot, hour % HOURS] = _on_line(
            before["last_us"], left_kwh, after["first_us"], after["first_kwh"], hour * HOUR_US
        )

    def _fill_limits(self, slots: Array, rows: Array) -> None:
        c, set_ = self._column, rows
        c["power_kw"][slots] = np.where(
            np.isnan(set_["max_power_kw"]), MAX_POWER_KW, set_["max_power_kw"]
        )
        c["resolution_kwh"][slots] = np.where(
            np.isnan(set_["resolution_kwh"]), RESOLUTION_KWH, set_["resolution_kwh"]
        )
        c["edge_gap_us"][slots] = set_["edge_gap_seconds"] * SECOND_US

    def _fill_recent(self, conn: Connection, keys: Array, slots: Array) -> None:
        c = self._column
        last_us = c["last_us"][slots]
        within = from_us(int(last_us.min()) - _RECENT_US), from_us(int(last_us.max()) + 1)
        rows = steady.samples(conn, self.kind, keys, last_us - _RECENT_US, within)
        c["recent_us"][slots] = 0
        slot = self._slot_of[rows["key"]]
        known = rows["at_us"] <= c["last_us"][slot]
        rows, slot = rows[known], slot[known]
        nth, count = _places(rows["key"])
        from_end = count - nth
        near = from_end <= RECENT
        c["recent_us"][slot[near], RECENT - from_end[near]] = rows["at_us"][near]
        c["recent_kwh"][slot[near], RECENT - from_end[near]] = rows["kwh"][near]

    # --- new samples --------------------------------------------------------------------------

    def append(self, conn: Connection, keys: Array, within: tuple[Any, Any]) -> Appended:
        """Read what these devices, which must be here, have sent since, and add it.

        `within` is a span of time that holds all of it. Writes the hourly rows that it changes.
        Who is not steady any more is forgotten.
        """
        if not len(keys):
            return Appended(keys, keys, keys)
        slots = self.slots(keys)
        rows = steady.samples(conn, self.kind, keys, self["last_us"][slots], within)
        found, starts, counts = np.unique(
            self._slot_of[rows["key"]], return_index=True, return_counts=True
        )
        steady_ones = counts <= MOST_NEW
        touched: list[tuple[Array, Array]] = []
        for n in range(int(counts[steady_ones].max(initial=0))):
            now = np.flatnonzero(steady_ones & (counts > n))
            sample = rows[starts[now] + n]
            plain = self._plain(found[now], sample)
            steady_ones[now[~plain]] = False
            self._add(found[now[plain]], sample[plain])
            touched.append((found[now[plain]], sample["at_us"][plain] // HOUR_US))
        silent = np.setdiff1d(slots, found)  # marked, and yet nothing new: somebody else must look
        fallen = np.concatenate([self["key"][found[~steady_ones]], self["key"][silent]])
        self.forget(fallen)
        changed = self._changed(touched)
        self._write(conn, *changed)
        return Appended(self["key"][changed[0]], changed[1], fallen)

    def _plain(self, slot: Array, sample: Array) -> Array:
        """Whether each sample is a plain rise after the device's newest one."""
        c = self._column
        gap_us = sample["at_us"] - c["last_us"][slot]
        step_kwh = sample["kwh"] - c["last_kwh"][slot]
        # Step by step as `Rating.limit_kwh` has it, to agree to the last bit.
        limit_kwh = (
            POWER_MARGIN * c["power_kw"][slot] * (gap_us / SECOND_US) / SECONDS_PER_HOUR
            + c["resolution_kwh"][slot]
        )
        full = c["samples"][slot, c["newest_hour"][slot] % HOURS] >= MOST_SAMPLES
        fits: Array = (
            (step_kwh >= 0) & (step_kwh <= limit_kwh) & (gap_us > 0) & (gap_us <= BORDER_US) & ~full
        )
        return fits

    def _add(self, slot: Array, sample: Array) -> None:
        """Add one plain sample to each of these devices."""
        hour = sample["at_us"] // HOUR_US
        same = hour == self["newest_hour"][slot]
        self._continue_hour(slot[same], sample[same])
        self._begin_hour(slot[~same], sample[~same])
        place = hour % HOURS
        c = self._column
        c["hour_last_us"][slot, place] = c["last_us"][slot] = sample["at_us"]
        c["hour_last_kwh"][slot, place] = c["last_kwh"][slot] = sample["kwh"]
        lag_s = (sample["received_us"] - sample["at_us"]) / SECOND_US
        c["lag_min_s"][slot, place] = np.fmin(c["lag_min_s"][slot, place], lag_s)
        c["lag_max_s"][slot, place] = np.fmax(c["lag_max_s"][slot, place], lag_s)
        if self.kind is VEHICLE:
            temp_c = sample["temp_c"]
            c["temp_sum_c"][slot, place] += temp_c
            c["temp_min_c"][slot, place] = np.fmin(c["temp_min_c"][slot, place], temp_c)
            c["temp_max_c"][slot, place] = np.fmax(c["temp_max_c"][slot, place], temp_c)
            c["soc_last_pct"][slot, place] = sample["soc_pct"]
        for name, value in (("recent_us", sample["at_us"]), ("recent_kwh", sample["kwh"])):
            c[name][slot, :-1] = c[name][slot, 1:]
            c[name][slot, -1] = value

    def _continue_hour(self, slot: Array, sample: Array) -> None:
        c = self._column
        place, last_us, at_us = c["newest_hour"][slot] % HOURS, c["last_us"][slot], sample["at_us"]
        step_kwh = sample["kwh"] - c["last_kwh"][slot]
        c["energy_kwh"][slot, place] += step_kwh
        c["samples"][slot, place] += 1
        seconds = (at_us - last_us) / SECOND_US
        c["max_gap_s"][slot, place] = np.maximum(c["max_gap_s"][slot, place], seconds)
        crossed = at_us // BORDER_US > last_us // BORDER_US  # at most one: see `_plain`
        s, p, border = slot[crossed], place[crossed], at_us[crossed] // BORDER_US
        # As models/hours.py has it in SQL, to agree to the last bit.
        this, before = at_us[crossed] / SECOND_US, last_us[crossed] / SECOND_US
        c["reached_kwh"][s, p, border % BORDERS] = c["energy_kwh"][s, p] - step_kwh[crossed] * (
            this - border * float(BORDER_SECONDS)
        ) / (this - before)

    def _begin_hour(self, slot: Array, sample: Array) -> None:
        c = self._column
        hour, before = sample["at_us"] // HOUR_US, c["newest_hour"][slot] % HOURS
        place = hour % HOURS
        c["seam_kwh"][slot, place] = _on_line(
            c["last_us"][slot],
            c["first_kwh"][slot, before] + c["energy_kwh"][slot, before],
            sample["at_us"],
            sample["kwh"],
            hour * HOUR_US,
        )
        c["newest_hour"][slot] = c["hour_no"][slot, place] = hour
        c["first_us"][slot, place], c["first_kwh"][slot, place] = sample["at_us"], sample["kwh"]
        c["reached_kwh"][slot, place] = np.nan
        c["samples"][slot, place] = 1
        for name in ("energy_kwh", "max_gap_s"):
            c[name][slot, place] = 0.0
        for name in ("lag_min_s", "lag_max_s"):
            c[name][slot, place] = np.nan
        if self.kind is VEHICLE:
            c["temp_sum_c"][slot, place] = 0.0
            c["temp_min_c"][slot, place] = c["temp_max_c"][slot, place] = np.nan
            c["soc_first_pct"][slot, place] = sample["soc_pct"]

    def _changed(self, touched: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
        """(slots, hour numbers) of `touched`, each once, without devices that were forgotten."""
        if not touched:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        slot, hour = arrays.pairs(*map(np.concatenate, zip(*touched, strict=True)))
        here = self["hour_no"][slot, hour % HOURS] == hour
        return slot[here], hour[here]

    def _write(self, conn: Connection, slot: Array, hour: Array) -> None:
        if not len(slot):
            return
        c, at = self._column, (slot, hour % HOURS)
        columns = {
            "device_key": c["key"][slot],
            "hour": hour * HOUR_US,
            "first_at": c["first_us"][at],
            "first_kwh": c["first_kwh"][at],
            "last_at": c["hour_last_us"][at],
            "last_kwh": c["hour_last_kwh"][at],
            "energy_kwh": c["energy_kwh"][at],
            "samples": c["samples"][at],
            "max_gap_seconds": c["max_gap_s"][at],
            "lag_min_seconds": c["lag_min_s"][at],
            "lag_max_seconds": c["lag_max_s"][at],
        }
        if self.kind is VEHICLE:
            columns |= {
                "battery_temp_sum_c": c["temp_sum_c"][at],
                "battery_temp_min_c": c["temp_min_c"][at],
                "battery_temp_max_c": c["temp_max_c"][at],
                "soc_first_pct": c["soc_first_pct"][at],
                "soc_last_pct": c["soc_last_pct"][at],
            }
        steady.write_hours(conn, self.kind, columns, c["reached_kwh"][at])

    # --- the samples of one hour ----------------------------------------------------------------

    def open_hour(self, conn: Connection, slots: Array, hour: int) -> None:
        """Have the samples of this hour at hand (`raw_*`) for these devices."""
        c = self._column
        slots = slots[c["raw_hour"][slots] != hour]
        if not len(slots):
            return
        begin = hour * HOUR_US
        before = np.full(len(slots), begin - 1)
        within = from_us(begin), from_us(begin + HOUR_US)
        rows = steady.samples(conn, self.kind, c["key"][slots], before, within)
        slot = self._slot_of[rows["key"]]
        nth, count = _places(rows["key"])
        self._widen(int(count.max(initial=0)))
        for name, (_, rest) in self._raw.items():
            c[name][slots] = rest
        c["raw_hour"][slots] = hour
        for name in self._raw:
            c[name][slot, nth] = rows["at_us" if name == "raw_us" else name.removeprefix("raw_")]

    # --- room -------------------------------------------------------------------------------------

    def _take_slots(self, keys: Array) -> Array:
        if len(self._free) < len(keys):
            self._grow(max(2 * len(self._column["key"]), len(self) + len(keys), 64))
        most = int(keys.max())
        if most >= len(self._slot_of):
            more = np.full(2 * most + 1 - len(self._slot_of), -1, np.int64)
            self._slot_of = np.concatenate([self._slot_of, more])
        taken = np.array(self._free[-len(keys) :], np.int64)
        del self._free[-len(keys) :]
        self._slot_of[keys], self._column["key"][taken] = taken, keys
        return taken

    def _grow(self, slots: int) -> None:
        before = len(self._column.get("key", ()))
        for name, shape, type_, rest in self._all_columns():
            column: Array = np.full((slots, *shape), rest, type_)
            if name in self._column:
                column[:before] = self._column[name]
            self._column[name] = column
        self._free += range(before, slots)

    def _all_columns(self) -> Iterator[tuple[str, tuple[int, ...], type, Any]]:
        for name, (shape, type_, rest) in self._shapes.items():
            yield name, shape, type_, rest
        width = self._column["raw_us"].shape[1] if "raw_us" in self._column else _FIRST_SAMPLES
        for name, (type_, rest) in self._raw.items():
            yield name, (width,), type_, rest

    def _widen(self, samples: int) -> None:
        """Make room for so many samples of one hour."""
        slots, width = self._column["raw_us"].shape
        if samples > width:
            for name, (type_, rest) in self._raw.items():
                more = np.full((slots, samples - width), rest, type_)
                self._column[name] = np.concatenate([self._column[name], more], axis=1)


def _places(keys: Array) -> tuple[Array, Array]:
    """Of each row its place among those of its device, and how many those are.

    Rows come in the order of keys, as `keys` is. Slots do not: a slot is whichever was free.
    """
    _, starts, counts = np.unique(keys, return_index=True, return_counts=True)
    return np.arange(len(keys)) - np.repeat(starts, counts), np.repeat(counts, counts)


def _on_line(a_us: Array, a_kwh: Array, b_us: Array, b_kwh: Array, at_us: Array) -> Array:
    """The register at an instant on the straight line from a to b."""
    value: Array = a_kwh + (at_us - a_us) / (b_us - a_us) * (b_kwh - a_kwh)
    return value
