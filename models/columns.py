"""Readings by columns: what happens to each of thousands happens here to all in one step.

A row in Python costs microseconds whatever is done with it. numpy sorts, compares and packs a batch
for a tenth of a microsecond a reading, and PostgreSQL takes the packed bytes as they are: as binary
COPY (`copy_bytes`) and as binary arrays (`PackedArray`). docs/adr/0014 says what else was weighed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Table

from models import arrays
from models.arrays import PackedArray, Type
from models.clock import HOUR_US, from_us
from models.codec import Row
from models.kinds import Kind

Ints = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_TYPES = {
    "integer": arrays.INT,
    "datetime": arrays.INSTANT,
    "double": arrays.DOUBLE,
    "REAL": arrays.REAL,
}


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """A batch of readings; `values` in the order of the kind's measures."""

    device_key: Ints
    recorded_us: Ints
    received_us: Ints
    values: tuple[Floats, ...]

    @classmethod
    def of(cls, kind: Kind, rows: Iterable[Row]) -> Columns:
        """The columns of `rows`; raises OverflowError for what does not fit its column."""
        rows = list(rows)
        return cls(
            np.array([row[0] for row in rows], np.int32),
            np.array([row[1] for row in rows], np.int64),
            np.array([row[2] for row in rows], np.int64),
            tuple(
                np.array([row[3][place] for row in rows], np.float64)
                for place in range(len(kind.measures))
            ),
        )

    def __len__(self) -> int:
        return len(self.device_key)

    def take(self, places: npt.NDArray[Any]) -> Columns:
        """The readings at these places, or where a mask is true."""
        return Columns(
            self.device_key[places],
            self.recorded_us[places],
            self.received_us[places],
            tuple(values[places] for values in self.values),
        )

    def rows(self) -> Iterator[Row]:
        """The readings one by one, for what is rare."""
        values = zip(*(column.tolist() for column in self.values), strict=True)
        instants = self.recorded_us.tolist(), self.received_us.tolist()
        for row in zip(self.device_key.tolist(), *instants, values, strict=True):
            yield Row(*row)

    def identities(self) -> list[tuple[int, int]]:
        """(device, recorded) of each."""
        return list(zip(self.device_key.tolist(), self.recorded_us.tolist(), strict=True))

    def check_calendar(self) -> None:
        """Raises OverflowError unless every instant lies in the years 1 to 9999."""
        for instants in (self.recorded_us, self.received_us):
            from_us(int(instants.min()))
            from_us(int(instants.max()))

    def first_of_each(self) -> tuple[Columns, Columns]:
        """(the first of each device and instant, sorted by them; those that came after it)."""
        # A stable sort: of equals, what came first stays first.
        ordered = self.take(np.lexsort((self.recorded_us, self.device_key)))
        first = arrays.changes(ordered.device_key, ordered.recorded_us)
        if first.all():
            return ordered, ordered.take(~first)
        return ordered.take(first), ordered.take(~first)

    def newest(self) -> Columns:
        """The last reading of each device; the batch is sorted."""
        last = np.roll(arrays.changes(self.device_key), -1)
        return self.take(last)

    def hours(self) -> tuple[Ints, Ints, Ints]:
        """Each device and hour (counted from 1970) once, and when its first reading was made.

        The batch is sorted.
        """
        hours = self.recorded_us // HOUR_US
        first = arrays.changes(self.device_key, hours)
        return self.device_key[first], hours[first], self.recorded_us[first]


def names(kind: Kind) -> list[str]:
    """The columns of history and latest, in the order of the table."""
    return [column.name for column in kind.history.columns]


def sql_types(kind: Kind) -> list[str]:
    """Their types."""
    return [found.sql for found in _types(kind.history)]


def copy_bytes(kind: Kind, batch: Columns) -> memoryview:
    """Every reading as COPY ... (FORMAT BINARY) takes it, header and trailer included."""
    return arrays.copy_bytes(list(_by_table(kind, batch)))


def parameters(kind: Kind, batch: Columns) -> list[PackedArray]:
    """The batch by columns, in the order of the table's, each as a parameter."""
    return [arrays.packed(type_, column) for _, type_, column in _by_table(kind, batch)]


def _by_table(kind: Kind, batch: Columns) -> Iterator[tuple[str, Type, npt.NDArray[Any]]]:
    """(name, type, values) of each column of the table."""
    columns = {
        "device_key": batch.device_key,
        "recorded_at": batch.recorded_us,
        "received_at": batch.received_us,
        **{m.column: values for m, values in zip(kind.measures, batch.values, strict=True)},
    }
    for name, type_ in zip(names(kind), _types(kind.history), strict=True):
        yield name, type_, columns[name]


@cache
def _types(table: Table) -> Sequence[Type]:
    return [_TYPES[column.type.__visit_name__] for column in table.columns]
