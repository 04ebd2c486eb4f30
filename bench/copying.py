"""The floor under the flush: the same rows into the same tables, and nothing else.

Transactions as large as the flush's, history by binary COPY of bytes made beforehand, latest by
one upsert of each device's newest row. No HTTP, no queue, no check for repeated readings.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

from bench.readings import DEVICES, KINDS, Fleet, device_id, meter_values, vehicle_values

#: As the flush's transactions (workers/flush.py).
BLOCK_READINGS = 20_000

_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TAIL = struct.pack(">h", -1)
_METER = struct.Struct(">hiiiqiqidid")
_VEHICLE = struct.Struct(">hiiifiqiqidid")
#: Binary timestamps count microseconds from the year 2000.
_POSTGRES_EPOCH_US = 946_684_800_000_000

_COPY = {
    "meter": "COPY meter_telemetry_history"
    " (device_key, recorded_at, received_at, kwh_consumed_ac, voltage_v)"
    " FROM STDIN (FORMAT BINARY)",
    "vehicle": "COPY vehicle_telemetry_history"
    " (device_key, soc_pct, recorded_at, received_at, kwh_delivered_dc, battery_temp_c)"
    " FROM STDIN (FORMAT BINARY)",
}
_LATEST = {
    "meter": "INSERT INTO meter_status_latest"
    " (device_key, recorded_at, received_at, kwh_consumed_ac, voltage_v)"
    " SELECT device_key, at, at, kwh, v"
    " FROM unnest(%s::int[], %s::timestamptz[], %s::float8[], %s::float8[])"
    "   AS newest (device_key, at, kwh, v)"
    " ON CONFLICT (device_key) DO UPDATE SET recorded_at = excluded.recorded_at,"
    " received_at = excluded.received_at, kwh_consumed_ac = excluded.kwh_consumed_ac,"
    " voltage_v = excluded.voltage_v"
    " WHERE excluded.recorded_at > meter_status_latest.recorded_at",
    "vehicle": "INSERT INTO vehicle_status_latest"
    " (device_key, soc_pct, recorded_at, received_at, kwh_delivered_dc, battery_temp_c)"
    " SELECT device_key, soc, at, at, kwh, temp"
    " FROM unnest(%s::int[], %s::timestamptz[], %s::float4[], %s::float8[], %s::float8[])"
    "   AS newest (device_key, at, soc, kwh, temp)"
    " ON CONFLICT (device_key) DO UPDATE SET soc_pct = excluded.soc_pct,"
    " recorded_at = excluded.recorded_at, received_at = excluded.received_at,"
    " kwh_delivered_dc = excluded.kwh_delivered_dc, battery_temp_c = excluded.battery_temp_c"
    " WHERE excluded.recorded_at > vehicle_status_latest.recorded_at",
}

#: Device keys by kind and number of the device.
Keys = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Block:
    """One transaction: the rows for COPY, and what latest is told."""

    kind: str
    rows: bytes
    newest: list[list[Any]]


@dataclass(frozen=True, slots=True)
class Copies:
    """Blocks to copy, meters and vehicles by turns; a task of the crew.

    `blocks` are block numbers, `first` the first reading's number of each kind.
    """

    database_url: str
    fleet: Fleet
    keys: Keys
    blocks: range
    first: int
    with_latest: bool = True

    def prepare(self) -> Callable[[], None]:
        """Make the bytes of every block and connect."""
        blocks: Iterable[Block] = self._made()
        if self.with_latest:  # else it is a fill, too large for memory
            blocks = list(blocks)
        return partial(_write, connect(self.database_url), blocks)

    def _made(self) -> Iterator[Block]:
        for number in self.blocks:
            turn, place = divmod(number, len(KINDS))
            kind, begin = KINDS[place], self.first + turn * BLOCK_READINGS
            numbers = range(begin, begin + BLOCK_READINGS)
            newest = self._newest(kind, numbers) if self.with_latest else []
            yield Block(kind, rows(kind, self.fleet, self.keys[kind], numbers), newest)

    def _newest(self, kind: str, numbers: range) -> list[list[Any]]:
        values = meter_values if kind == "meter" else vehicle_values
        found = []
        for number in numbers[-DEVICES:]:
            step, device = divmod(number, DEVICES)
            measured = values(device, self.fleet.minute(step))
            found.append((self.keys[kind][device], self.fleet.instant(step), *measured))
        return [list(column) for column in zip(*sorted(found), strict=True)]


def rows(kind: str, fleet: Fleet, keys: Sequence[int], numbers: range) -> bytes:
    """Readings in COPY's binary form."""
    parts = [_HEAD]
    times: dict[int, tuple[int, int]] = {}
    for number in numbers:
        step, device = divmod(number, DEVICES)
        if step not in times:
            times[step] = fleet.micros(step) - _POSTGRES_EPOCH_US, fleet.minute(step)
        (at, minute), key = times[step], keys[device]
        if kind == "meter":
            kwh, volt = meter_values(device, minute)
            parts.append(_METER.pack(5, 4, key, 8, at, 8, at, 8, kwh, 8, volt))
        else:
            soc, kwh, temp = vehicle_values(device, minute)
            parts.append(_VEHICLE.pack(6, 4, key, 4, soc, 8, at, 8, at, 8, kwh, 8, temp))
    return b"".join([*parts, _TAIL])


def connect(database_url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection whose commits are as durable as the product's."""
    return psycopg.connect(database_url, options="-c synchronous_commit=on -c timezone=UTC")


def device_keys(database_url: str) -> dict[str, list[int]]:
    """The fleet's keys, which the warm-up registered."""
    found = {}
    statement = {
        "meter": "SELECT device_id, key FROM meters",
        "vehicle": "SELECT device_id, key FROM vehicles",
    }
    with connect(database_url) as conn:
        for kind in KINDS:
            known: dict[str, int] = dict(conn.execute(statement[kind]).fetchall())
            found[kind] = [known[device_id(kind, device)] for device in range(DEVICES)]
    return found


def _write(conn: psycopg.Connection[tuple[Any, ...]], blocks: Iterable[Block]) -> None:
    with conn:
        for block in blocks:
            with conn.cursor() as cursor:
                with cursor.copy(_COPY[block.kind]) as copy:
                    copy.write(block.rows)
                if block.newest:
                    cursor.execute(_LATEST[block.kind], block.newest)
            conn.commit()
