"""Arrays between numpy and PostgreSQL: a column is one value, in PostgreSQL's own binary form.

psycopg would look at each element by itself, which costs more than all that is done with it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format
from sqlalchemy import Connection

from models.engine import driver

Array = npt.NDArray[Any]

#: PostgreSQL counts microseconds from 2000-01-01; its binary timestamptz is that number.
POSTGRES_EPOCH_US = 946_684_800_000_000
#: In front of an array's elements: dimensions, has nulls, element type, length, first index.
_HEAD = struct.Struct(">iiIii")
#: Around the rows of a binary COPY.
_COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TAIL = struct.pack(">h", -1)


class Type(NamedTuple):
    """A type: its name in SQL, numpy's code of its binary form, and PostgreSQL's oid."""

    sql: str
    code: str
    oid: int


INT = Type("int", ">i4", 23)
BIGINT = Type("int8", ">i8", 20)
DOUBLE = Type("float8", ">f8", 701)
REAL = Type("real", ">f4", 700)
#: In numpy microseconds since 1970.
INSTANT = Type("timestamptz", ">i8", 1184)


class PackedArray(NamedTuple):
    """A one-dimensional array as a parameter, in PostgreSQL's binary form."""

    data: bytes


class _PackedDumper(Dumper):
    """Its statement says with a cast which array it is."""

    format = Format.BINARY

    def dump(self, obj: PackedArray) -> bytes:
        return obj.data


psycopg.adapters.register_dumper(PackedArray, _PackedDumper)


def packed(type_: Type, column: npt.ArrayLike) -> PackedArray:
    """An array parameter for `%s::type[]`; NaN stays NaN."""
    values = np.asarray(column)
    made = np.empty(len(values), _element(type_))
    made["length"] = made["value"].itemsize
    made["value"] = _as_stored(type_, values)
    return PackedArray(_HEAD.pack(1, 0, type_.oid, len(values), 1) + made.tobytes())


def copy_bytes(columns: Sequence[tuple[str, Type, Array]]) -> memoryview:
    """Rows as COPY ... (FORMAT BINARY) takes them, header and trailer included.

    `columns` are (name, type, values), in the order in which COPY names them.
    """
    record = _copy_record(tuple((name, type_) for name, type_, _ in columns))
    length, head, tail = len(columns[0][2]), len(_COPY_HEAD), len(_COPY_TAIL)
    # Megabytes: each is written where it stays.
    whole = np.empty(head + length * record.itemsize + tail, np.uint8)
    whole[:head] = np.frombuffer(_COPY_HEAD, np.uint8)
    whole[-tail:] = np.frombuffer(_COPY_TAIL, np.uint8)
    rows = whole[head:-tail].view(record)
    rows["fields"] = len(columns)
    for name, type_, values in columns:
        rows[f"{name} bytes"] = np.dtype(type_.code).itemsize
        rows[name] = _as_stored(type_, values)
    return whole.data


@cache
def _copy_record(columns: tuple[tuple[str, Type], ...]) -> np.dtype[Any]:
    fields = [("fields", ">i2")]
    for name, type_ in columns:
        fields += [(f"{name} bytes", ">i4"), (name, type_.code)]
    return np.dtype(fields)


def _as_stored(type_: Type, values: Array) -> Array:
    return values - POSTGRES_EPOCH_US if type_ is INSTANT else values


def spelled(values: Sequence[str | None]) -> str:
    """An array of text in PostgreSQL's spelling, for `%s::text[]` and what text can be cast to."""
    if not values or None in values:
        return "{" + ",".join("NULL" if v is None else f'"{_escaped(v)}"' for v in values) + "}"
    # All at once: NUL stands in no text of PostgreSQL's.
    joined = _escaped("\0".join(values))  # type: ignore[arg-type]
    return '{"' + joined.replace("\0", '","') + '"}'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def read(
    conn: Connection,
    statement: sql.Composable,
    parameters: Mapping[str, Any],
    types: Mapping[str, Type],
    *,
    first: sql.Composable | None = None,
) -> Array:
    """The rows of a query that has no nulls, as one structured array with these fields.

    Whole numbers come as int64, others as float64, instants as microseconds since 1970.
    `first` is a part of its WITH that changes rows, and so must stand outermost.
    """
    names = list(map(sql.Identifier, types))
    gathered = sql.SQL(
        "WITH {first} found ({names}) AS ({statement}) SELECT {arrays} FROM found"
    ).format(
        first=sql.SQL("{},").format(first) if first else sql.SQL(""),
        arrays=sql.SQL(", ").join(sql.SQL("array_agg({})").format(name) for name in names),
        statement=statement,
        names=sql.SQL(", ").join(names),
    )
    with driver(conn).cursor(binary=True) as cursor:
        cursor.execute(gathered, parameters)
        result = cursor.pgresult
        assert result is not None  # noqa: S101  (a query has one)
        columns = [result.get_value(0, place) for place in range(len(types))]
    return _unpacked(columns, types)


def _unpacked(columns: Iterable[bytes | None], types: Mapping[str, Type]) -> Array:
    parts = [
        np.empty(0, _element(type_))
        if raw is None
        else np.frombuffer(raw, _element(type_), offset=_HEAD.size)
        for raw, type_ in zip(columns, types.values(), strict=True)
    ]
    native = [
        (n, np.float64 if type_ in {DOUBLE, REAL} else np.int64) for n, type_ in types.items()
    ]
    found = np.empty(len(parts[0]), native)
    for (name, type_), part in zip(types.items(), parts, strict=True):
        values = part["value"]
        found[name] = values + POSTGRES_EPOCH_US if type_ is INSTANT else values
    return found


def changes(*columns: Array) -> npt.NDArray[np.bool_]:
    """Where a row differs from the one before it; the first always does."""
    changed = np.zeros(len(columns[0]), np.bool_)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def pairs(first: Array, second: Array) -> tuple[Array, Array]:
    """Each pair once, in order. (np.unique along an axis compares bytes, and takes ten times.)"""
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    new = changes(first, second)
    return first[new], second[new]


def _element(type_: Type) -> np.dtype[Any]:
    return np.dtype([("length", ">i4"), ("value", type_.code)])


def replaced(names: Iterable[str]) -> sql.Composed:
    """What DO UPDATE sets so that the row says in these columns what came."""
    return sql.SQL(", ").join(
        sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names
    )


def known(name: str, type_: Type) -> sql.Composable:
    """A column of which NaN says that there is no value."""
    column = sql.Identifier(name)
    return sql.SQL("nullif({}, 'NaN')").format(column) if type_ in {DOUBLE, REAL} else column
