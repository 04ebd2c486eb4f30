"""The floor under the flush: the same rows into the same tables, and nothing else.

Transactions as large as the flush's (who asks says how large), history by binary COPY of bytes made
beforehand, latest by one upsert of each device's newest row. No HTTP, no queue, no check for
repeated readings.
What a row looks like is read off the tables.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from bench.habits import Columns, Habit, Ints, meter_columns, vehicle_columns
from bench.pacing import Answers
from bench.readings import KINDS, Fleet, device_id
from models.kinds import KINDS as TABLES

#: Readings of a transaction that only has to fill tables.
FILL_READINGS = 20_000

_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TAIL = struct.pack(">h", -1)
#: Binary timestamps count microseconds from the year 2000.
_POSTGRES_EPOCH_US = 946_684_800_000_000
_BINARY = {
    "SMALLINT": ">i2",
    "INTEGER": ">i4",
    "BIGINT": ">i8",
    "DATETIME": ">i8",
    "REAL": ">f4",
    "DOUBLE": ">f8",
}

#: Device keys by kind and number of the device.
Keys = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Block:
    """One transaction: the rows for COPY, and what latest is told (array literals)."""

    kind: str
    rows: bytes
    newest: list[str]


@dataclass(frozen=True, slots=True)
class Copies:
    """Blocks to copy, meters and vehicles by turns; a task of the crew.

    `blocks` are block numbers, `numbers` the readings of each kind that all blocks together have.
    """

    database_url: str
    fleet: Fleet
    keys: Keys
    blocks: range
    numbers: range
    habit: Habit = Habit.ALWAYS
    with_latest: bool = True
    #: Readings of a block.
    size: int = FILL_READINGS

    def prepare(self) -> Callable[[], Answers]:
        """Make the bytes of every block and connect."""
        blocks: Iterable[Block] = self._made()
        if self.with_latest:  # else it is a fill, too large for memory
            blocks = list(blocks)
        return partial(_write, connect(self.database_url), blocks)

    def _made(self) -> Iterator[Block]:
        for block in self.blocks:
            turn, place = divmod(block, len(KINDS))
            begin = turn * self.size
            kind, numbers = KINDS[place], self.numbers[begin : begin + self.size]
            columns = columns_of(kind, self.fleet, self.keys[kind], numbers, self.habit)
            newest = _newest(kind, columns, self.fleet.devices) if self.with_latest else []
            yield Block(kind, rows(TABLES[kind].history, columns), newest)


def block_count(readings: int, size: int = FILL_READINGS) -> int:
    """Blocks, of both kinds, that so many readings of each kind make."""
    return len(KINDS) * -(-readings // size)


def columns_of(
    kind: str, fleet: Fleet, keys: Sequence[int], numbers: range, habit: Habit
) -> Columns:
    """Readings as columns, instants in microseconds since 1970."""
    step, device = np.divmod(np.arange(numbers.start, numbers.stop), fleet.devices)
    steps, which = np.unique(step, return_inverse=True)
    at = np.array([fleet.micros(int(one)) for one in steps])[which]
    minute = np.array([fleet.minute(int(one)) for one in steps])[which]
    measured = meter_columns if kind == "meter" else vehicle_columns
    instants: dict[str, NDArray[Any]] = {"recorded_at": at, "received_at": at}
    return {"device_key": np.asarray(keys)[device], **instants, **measured(habit, device, minute)}


def rows(table: Table, columns: Columns) -> bytes:
    """Readings in COPY's binary form: of each value its length, then its bytes."""
    layout = _layout(table)
    made = np.zeros(len(columns["device_key"]), layout)
    made["fields"] = len(table.columns)
    for column in table.columns:
        made[f"length of {column.name}"] = layout[column.name].itemsize
        # A column that readings do not have stays 0: the floor writes its bytes all the same.
        if column.name in columns:
            made[column.name] = _as_stored(column.name, columns[column.name])
    return b"".join((_HEAD, made.tobytes(), _TAIL))


@cache
def _layout(table: Table) -> np.dtype[Any]:
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for column in table.columns:
        binary = _BINARY[column.type.__visit_name__.upper()]
        fields += [(f"length of {column.name}", ">i4"), (column.name, binary)]
    return np.dtype(fields)


def _as_stored(name: str, values: NDArray[Any]) -> NDArray[Any]:
    return values - _POSTGRES_EPOCH_US if name in {"recorded_at", "received_at"} else values


def _newest(kind: str, columns: Columns, devices: int) -> list[str]:
    """The last reading of each device, sorted by device, as one array literal per column."""
    last = slice(-min(devices, len(columns["device_key"])), None)
    order: Ints = np.argsort(columns["device_key"][last])
    return [
        _literal(column.name, columns[column.name][last][order])
        for column in TABLES[kind].latest.columns
    ]


def _literal(name: str, values: NDArray[Any]) -> str:
    if name in {"recorded_at", "received_at"}:
        spelled = [f"{at}Z" for at in values.astype("datetime64[us]").astype(str)]
    else:
        spelled = [repr(value) for value in values.tolist()]
    return f"{{{','.join(spelled)}}}"


@cache
def _copy(kind: str) -> sql.Composed:
    table = TABLES[kind].history
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(table.name), _names(column.name for column in table.columns)
    )


@cache
def _upsert(kind: str) -> sql.Composed:
    table = TABLES[kind].latest
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = [column.type.compile(dialect) for column in table.columns]
    changed = [column.name for column in table.columns if column.name != "device_key"]
    return sql.SQL(
        "INSERT INTO {latest} ({columns}) SELECT * FROM unnest({arrays})"
        " ON CONFLICT (device_key) DO UPDATE SET ({changed}) = ROW ({excluded})"
        " WHERE excluded.recorded_at > {latest}.recorded_at"
    ).format(
        latest=sql.Identifier(table.name),
        columns=_names(column.name for column in table.columns),
        arrays=sql.SQL(", ").join(sql.SQL(f"%s::{name}[]") for name in types),
        changed=_names(changed),
        excluded=sql.SQL(", ").join(sql.Identifier("excluded", name) for name in changed),
    )


def _names(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def connect(database_url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection whose commits are as durable as the product's."""
    return psycopg.connect(database_url, options="-c synchronous_commit=on -c timezone=UTC")


def device_keys(database_url: str, devices: int) -> dict[str, list[int]]:
    """The fleet's keys, which the warm-up registered."""
    found = {}
    with connect(database_url) as conn:
        for kind in KINDS:
            table = sql.Identifier(TABLES[kind].devices.name)
            statement = sql.SQL("SELECT device_id, key FROM {}").format(table)
            known: dict[str, int] = dict(conn.execute(statement).fetchall())
            found[kind] = [known[device_id(kind, device)] for device in range(devices)]
    return found


def _write(conn: psycopg.Connection[tuple[Any, ...]], blocks: Iterable[Block]) -> Answers:
    with conn:
        for block in blocks:
            with conn.cursor() as cursor:
                with cursor.copy(_copy(block.kind)) as copy:
                    copy.write(block.rows)
                if block.newest:
                    cursor.execute(_upsert(block.kind), block.newest)
            conn.commit()
    return []
