"""The roll-up's memory of steady registers, and when it may be believed.

What is remembered is what the hourly rows said when it was read, and what this process has changed
in them since. That is all there is to know as long as nobody else has rolled up in between: the row
`rollup_turn` says who did last. Anything unexpected empties the memory, which costs one slow tick
and never a number.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from models import arrays, steady
from models.clock import HOUR_US, from_us, to_us
from models.kinds import KINDS, METER, VEHICLE, Kind
from models.rollups import Supply
from workers import hourly
from workers.energy import Span
from workers.steady import summary
from workers.steady.registers import Registers
from workers.steady.window import Look

Array = npt.NDArray[Any]

#: Vehicles summarised in one step: the arrays that this makes on its way then stay near the
#: processor, which takes a seventh off the CPU of the rollup's process in a tick of thousands.
AT_ONCE = 512


class Summaries(NamedTuple):
    """The summaries of those vehicles that are steady on both sides."""

    #: Columns of `vehicle_performance_24h`, without `data_complete_through` and `computed_at`: one
    #: value a vehicle, or one for all.
    columns: dict[str, Any]
    #: The supplies of all other vehicles.
    rest: list[Supply]


class Memory:
    """One process's; not for two threads at a time."""

    def __init__(self) -> None:
        self._holder = uuid.uuid4().hex
        self.clear()

    def clear(self) -> None:
        """Know nothing."""
        self._registers = {kind: Registers(kind) for kind in KINDS.values()}

    def take_turn(self, conn: Connection) -> None:
        """To be called first in each transaction of the roll-up: is the memory still true?"""
        if not steady.take_turn(conn, self._holder):
            self.clear()

    def refresh(self, conn: Connection, kind: Kind, marks: Array) -> tuple[Array, Array]:
        """Bring the marked hours up to date; (device keys, hours in µs) that are, or may be, other.

        `marks` as of models/rollups.py.
        """
        if not len(marks):
            return marks["key"], marks["hour_us"]
        registers = self._registers[kind]
        rising = self._rising(kind, marks)
        hours = marks["hour_us"]
        within = from_us(int(hours.min())), from_us(int(hours.max()) + HOUR_US)
        appended = registers.append(conn, rising, within)
        done = np.setdiff1d(rising, appended.fallen)
        others = marks[~np.isin(marks["key"], done)]
        registers.forget(np.unique(others["key"]))
        further = hourly.refresh(
            conn,
            kind,
            [(key, from_us(us)) for key, us in others[["key", "hour_us"]].tolist()],
        )
        rejudged = np.array([(key, to_us(hour)) for key, hour in further], np.int64)
        changed = [
            np.stack([marks["key"], hours]),
            np.stack([appended.keys, appended.hours * HOUR_US]),
            rejudged.reshape(-1, 2).T,
        ]
        return arrays.pairs(*np.concatenate(changed, axis=1))

    def _rising(self, kind: Kind, marks: Array) -> Array:
        """The remembered devices that have sent nothing but newer samples."""
        registers = self._registers[kind]
        slots = registers.slots(marks["key"])
        newer = slots >= 0
        newer[newer] = marks["from_us"][newer] > registers["last_us"][slots[newer]]
        rising: Array = np.setdiff1d(marks["key"][newer], marks["key"][~newer])
        return rising

    def summarise(
        self, conn: Connection, supplies: Sequence[Supply], from_at: datetime, to_at: datetime
    ) -> Summaries:
        """What can be told of these vehicles out of memory; loads into it what will stay.

        `supplies` as of workers/performance.py, sorted by vehicle.
        """
        alone = _alone(supplies, from_at, to_at)
        keys = {
            METER: np.array([s.meter_key for s in alone], np.int64),
            VEHICLE: np.array([s.vehicle_key for s in alone], np.int64),
        }
        span = Span(to_us(from_at), to_us(to_at))
        cut = span.from_us // HOUR_US
        for kind, registers in self._registers.items():
            registers.load(conn, keys[kind], cut - 1)
        slots = {kind: registers.slots(keys[kind]) for kind, registers in self._registers.items()}
        here = np.flatnonzero((slots[METER] >= 0) & (slots[VEHICLE] >= 0))
        looks = {}
        for kind, registers in self._registers.items():
            found = slots[kind][here]
            registers.open_hour(conn, np.unique(found), cut)
            refused = steady.conflicts(conn, kind, keys[kind][here], from_at, to_at)
            looks[kind] = _looks(registers, found, span, refused)
        chosen = [alone[n] for n in here.tolist()]
        fits, columns = summary.joined(map(summary.summarise, looks[METER], looks[VEHICLE]))
        columns |= {
            "vehicle_key": np.array([s.vehicle_key for s in chosen], np.int64),
            "fleet_id": np.array([s.fleet_id for s in chosen], np.int64),
            "vehicle_id": [s.vehicle_id for s in chosen],
            "meter_id": [s.meter_id for s in chosen],
        }
        same = {"window_from": from_at, "window_to": to_at, "ac_events": "{}", "dc_events": "{}"}
        told = {s.vehicle_key for s, fit in zip(chosen, fits.tolist(), strict=True) if fit}
        return Summaries(
            same | {name: _where(values, fits) for name, values in columns.items()},
            [s for s in supplies if s.vehicle_key not in told],
        )


def _looks(registers: Registers, slots: Array, span: Span, refused: Array) -> Iterator[Look]:
    """At AT_ONCE vehicles each; at least one, which may be at none."""
    for begin in range(0, max(len(slots), 1), AT_ONCE):
        part = slice(begin, begin + AT_ONCE)
        yield Look(registers, slots[part], span, refused[part])


def _alone(supplies: Sequence[Supply], from_at: datetime, to_at: datetime) -> list[Supply]:
    """The supplies of vehicles that one known meter served all the time."""
    found: dict[int, Supply | None] = {}
    for s in supplies:
        whole = s.meter_key is not None and s.from_at <= from_at and s.to_at >= to_at
        found[s.vehicle_key] = s if whole and s.vehicle_key not in found else None
    return [s for s in found.values() if s is not None]


def _where(values: Any, fits: Array) -> Any:
    if isinstance(values, np.ndarray):
        return values[fits]
    return [value for value, fit in zip(values, fits.tolist(), strict=True) if fit]
