"""What tests are made of: lawful readings, the way from the stream to the summary, rows to look at.

Everything happens on 10 January 2026 UTC unless a test says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import redis
from sqlalchemy import Table, insert, select, text

import settings
from models import Base, Fleet, codec
from models.engine import driver, transaction
from models.kinds import KINDS, METER, VEHICLE, Kind
from models.packed import MIN_READINGS, Packed, Sent, numbers_of, pack
from workers import flush, rollup, stream
from workers.devices import DeviceKeys

MIDNIGHT = datetime(2026, 1, 10, tzinfo=UTC)
NEXT_MIDNIGHT = MIDNIGHT + timedelta(days=1)

Reading = dict[str, Any]
Row = dict[str, Any]


def at(hours: float = 0, *, minutes: float = 0, seconds: float = 0) -> datetime:
    """An instant, counted from the midnight that begins 10 January 2026."""
    return MIDNIGHT + timedelta(hours=hours, minutes=minutes, seconds=seconds)


def meter_reading(**fields: Any) -> Reading:
    """A lawful meter reading; each keyword replaces one field."""
    lawful = {"meterId": "meter-001", "timestamp": at(12), "kwhConsumedAc": 100.5, "voltage": 230.1}
    return lawful | fields


def vehicle_reading(**fields: Any) -> Reading:
    """A lawful vehicle reading; each keyword replaces one field."""
    lawful = {
        "vehicleId": "vehicle-001",
        "timestamp": at(12),
        "soc": 55.5,
        "kwhDeliveredDc": 98.0,
        "batteryTemp": 32.5,
    }
    return lawful | fields


def register(
    kind: Kind, samples: Iterable[tuple[datetime | str, float]], **fields: Any
) -> list[Reading]:
    """Readings of one device whose register shows these (instant, kWh)."""
    make = meter_reading if kind is METER else vehicle_reading
    return [make(timestamp=t, **{kind.counter.field: kwh}, **fields) for t, kwh in samples]


def empty_servers() -> None:
    """No row in any table, no key in either Redis, and nothing remembered of them."""
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with transaction() as conn:
        driver(conn).execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
    flush._device_keys = DeviceKeys()
    flush._spent_receipts.clear()
    urls = settings.load()
    for url in (urls.stream_url, urls.celery_broker_url):
        with redis.Redis.from_url(url) as client:
            client.flushall()


def make_fleet(name: str) -> int:
    with transaction() as conn:
        return int(conn.execute(insert(Fleet).values(name=name).returning(Fleet.id)).scalar_one())


def post_to_stream(kind: Kind, fleet: int, readings: Sequence[Reading]) -> None:
    """One accepted request: what the door does once it has found the readings lawful."""
    body, many = msgspec.json.encode(readings), len(readings) >= MIN_READINGS
    stream.append(kind, fleet, len(readings), packed_body(kind, body) if many else body)


def packed_body(kind: Kind, body: bytes) -> Packed:
    """The same readings by columns."""
    readings = codec.plain_decoder(kind).decode(body)
    numbers = numbers_of(kind, readings, codec.instants({r.timestamp for r in readings}))
    return pack(Sent("\n".join(r.device_id for r in readings).encode(), *numbers))


def flush_all(consumer: str = "test") -> dict[str, dict[str, int | str]]:
    """Flush both kinds; what the task reports, by kind."""
    return {kind.name: flush.flush(kind, consumer) for kind in KINDS.values()}


def store(
    fleet: int,
    meter: Iterable[tuple[datetime | str, float]] = (),
    vehicle: Iterable[tuple[datetime | str, float]] = (),
) -> None:
    """Bring the registers of meter-001 and vehicle-001 into history, by way of the stream."""
    for kind, samples in ((METER, meter), (VEHICLE, vehicle)):
        if readings := register(kind, samples):
            post_to_stream(kind, fleet, readings)
    flush_all()


def roll_up(now: datetime = NEXT_MIDNIGHT) -> dict[str, int | str]:
    """One tick of the rollup, as if it were `now`."""
    return rollup.tick(now)


def rows(statement: str, **parameters: Any) -> list[Row]:
    """What a query finds."""
    with transaction() as conn:
        found = conn.execute(text(statement), parameters).mappings()
        return [dict(row) for row in found]


def execute(statement: str, **parameters: Any) -> None:
    with transaction() as conn:
        conn.execute(text(statement), parameters)


def performance_of(vehicle_id: str, fleet: int | None = None) -> Row:
    """The summary row of a vehicle."""
    (row,) = rows(
        "SELECT * FROM vehicle_performance_24h"
        " WHERE vehicle_id = :vehicle AND fleet_id = coalesce(:fleet, fleet_id)",
        vehicle=vehicle_id,
        fleet=fleet,
    )
    return row


def content(kind: Kind, table: Table) -> list[Row]:
    """What one of the kind's tables holds, by the devices' own ids; not when it came in."""
    left_out = {"id", "device_key", "received_at", "lag_min_seconds", "lag_max_seconds"}
    columns = [column for column in table.columns if column.name not in left_out]
    owned = kind.devices.c.key == table.c.device_key
    query = select(kind.devices.c.device_id, *columns).join(kind.devices, owned)
    with transaction() as conn:
        found = conn.execute(query.order_by(kind.devices.c.device_id, *columns)).mappings()
        return [dict(row) for row in found]


def support_pct(row: Mapping[str, Any]) -> float | None:
    """How much of the window both sides covered, %."""
    if row["effective_from"] is None:
        return None
    covered = row["effective_to"] - row["effective_from"]
    return 100 * (covered / (row["window_to"] - row["window_from"]))
