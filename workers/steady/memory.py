"""The roll-up's memory of steady registers, and when it may be believed.

What is remembered is what the hourly rows said when it was read, and what this process has changed
in them since. That is all there is to know as long as nobody else has rolled up in between: the row
`rollup_turn` says who did last. Anything unexpected empties the memory, which costs one slow tick
and never a number.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from models import steady
from models.clock import HOUR_US, from_us, to_us
from models.kinds import KINDS, METER, VEHICLE, Kind
from models.rollups import Supply
from workers import hourly
from workers.energy import Span
from workers.steady import summary, window
from workers.steady.registers import Registers

Array = npt.NDArray[Any]
#: (device key, hour): the earliest reading that came in, None when anything may have changed.
Marks = Mapping[tuple[int, datetime], datetime | None]
ONE_HOUR = timedelta(hours=1)


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

    def refresh(self, conn: Connection, kind: Kind, marks: Marks) -> set[tuple[int, datetime]]:
        """Bring the marked hours up to date; the hours that are other than before, or may be."""
        registers = self._registers[kind]
        keys = self._rising(kind, marks)
        hours = set(marks)
        fallen = keys
        if len(keys):
            touched = sorted(hour for _, hour in marks)
            within = touched[0], touched[-1] + ONE_HOUR
            appended = registers.append(conn, keys, within)
            fallen = appended.fallen
            changed = zip(appended.keys.tolist(), appended.hours.tolist(), strict=True)
            hours |= {(key, from_us(hour * HOUR_US)) for key, hour in changed}
        done = set(keys.tolist()) - set(fallen.tolist())
        others = sorted(mark for mark in marks if mark[0] not in done)
        registers.forget(np.array([key for key, _ in others], np.int64))
        hourly.refresh(conn, kind, others)
        return hours

    def _rising(self, kind: Kind, marks: Marks) -> Array:
        """The remembered devices that have sent nothing but newer samples."""
        registers = self._registers[kind]
        keys = np.fromiter((key for key, _ in marks), np.int64, len(marks))
        begins = np.fromiter(
            (to_us(at) if at else 0 for at in marks.values()), np.int64, len(marks)
        )
        slots = registers.slots(keys)
        newer = (
            (slots >= 0) & (begins > registers["last_us"][slots]) if len(registers) else slots > 0
        )
        rising: Array = np.setdiff1d(keys[newer], keys[~newer])
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
            registers.open_hour(conn, np.unique(slots[kind][here]), cut)
            refused = steady.conflicts(conn, kind, keys[kind][here], from_at, to_at)
            looks[kind] = window.look(registers, slots[kind][here], span, refused)
        chosen = [alone[n] for n in here.tolist()]
        ac, dc = looks[METER], looks[VEHICLE]
        fits, columns = summary.summarise(ac, dc)
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
