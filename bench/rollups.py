"""How long one tick of the rollup takes, beside a plain GROUP BY over the same 24 hours.

The application is stopped and the tables are emptied first, so that what is in them is exactly the
fleet's last 24 hours: one reading a minute of every meter and every vehicle.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql

from bench import Broken
from bench.copying import BLOCK_READINGS, Copies, connect
from bench.figures import Figures
from bench.progress import say
from bench.readings import (
    DEVICES,
    EFFICIENCY,
    KINDS,
    Fleet,
    device_id,
    meter_values,
    vehicle_values,
)
from bench.stage import Stage
from models import Base, writes
from models.codec import Row
from models.engine import transaction
from models.kinds import KINDS as TABLES
from stack.errors import StackError
from workers import rollup
from workers.celery import settle

MINUTES = 24 * 60
#: Never emptied.
_KEPT = {"fleets", "api_keys"}
_MARK_ALL = (
    "INSERT INTO {dirty} (device_key, hour)"
    " SELECT d.key, hour FROM {devices} d,"
    " generate_series(date_trunc('hour', %s::timestamptz), %s, interval '1 hour') AS hour"
)
_GROUPED = {
    "meter": "SELECT device_key, min(recorded_at), max(recorded_at), count(*),"
    " max(kwh_consumed_ac) - min(kwh_consumed_ac)"
    " FROM meter_telemetry_history WHERE recorded_at >= %s AND recorded_at < %s"
    " GROUP BY device_key",
    "vehicle": "SELECT device_key, min(recorded_at), max(recorded_at), count(*),"
    " max(kwh_delivered_dc) - min(kwh_delivered_dc), avg(battery_temp_c)"
    " FROM vehicle_telemetry_history WHERE recorded_at >= %s AND recorded_at < %s"
    " GROUP BY device_key",
}


class Day:
    """The fleet's last 24 hours in history; one more minute with each round."""

    def __init__(self, stage: Stage, minutes: int = MINUTES) -> None:
        self._stage = stage
        self._minutes = minutes
        end = datetime.now(UTC).replace(second=0, microsecond=0)
        self._fleet = Fleet(end - timedelta(minutes=minutes))
        self._keys: dict[str, list[int]] = {}

    def fill(self) -> Figures:
        """Make it, and let the first tick compute every hour of it."""
        say("rollup: the application stops, the tables are emptied")
        _stop_application(self._stage)
        self._empty()
        self._register()
        readings = self._stage.rows = len(KINDS) * DEVICES * self._minutes
        say(f"rollup: {readings:,} readings by COPY")
        self._copy()
        settle()  # as a worker does before it forks
        say("rollup: the first tick, which computes every hour")
        began = time.monotonic()
        hours = self._tick_until_clean(self._minutes)
        return {"rollup.first": time.monotonic() - began, "rollup.first.hours": hours}

    def tick(self) -> Figures:
        """One more minute of readings of every device; a tick; the GROUP BY over the same day."""
        step, self._minutes = self._minutes, self._minutes + 1
        self._store(step)
        began = time.monotonic()
        self._tick_until_clean(self._minutes)
        ticked = time.monotonic()
        self._group(self._minutes)
        self._check()
        return {"rollup.tick": ticked - began, "rollup.grouped": time.monotonic() - ticked}

    def _empty(self) -> None:
        tables = [t.name for t in Base.metadata.sorted_tables if t.name not in _KEPT]
        statement = sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(
            sql.SQL(", ").join(map(sql.Identifier, tables))
        )
        with connect(self._stage.database_url) as conn:
            conn.execute(statement)

    def _register(self) -> None:
        with transaction() as conn:
            fleet = conn.exec_driver_sql("SELECT min(id) FROM fleets").scalar_one()
            for kind in TABLES.values():
                wanted = [(fleet, device_id(kind.name, device)) for device in range(DEVICES)]
                found = writes.resolve_devices(conn, kind, wanted)
                self._keys[kind.name] = [found[device] for device in wanted]

    def _copy(self) -> None:
        stage, size = self._stage, self._stage.crew.size
        blocks = len(KINDS) * DEVICES * self._minutes // BLOCK_READINGS
        url = stage.database_url
        stage.crew.run(
            [
                Copies(url, self._fleet, self._keys, range(n, blocks, size), 0, with_latest=False)
                for n in range(size)
            ]
        )
        with connect(url) as conn:
            for kind in TABLES.values():
                names = {"dirty": kind.dirty.name, "devices": kind.devices.name}
                marked = {name: sql.Identifier(table) for name, table in names.items()}
                last = self._fleet.instant(self._minutes - 1)
                conn.execute(sql.SQL(_MARK_ALL).format(**marked), [self._fleet.begin, last])
        with psycopg.connect(url, autocommit=True) as conn:  # as autovacuum would in time
            conn.execute("VACUUM ANALYZE")

    def _store(self, step: int) -> None:
        at, minute = self._fleet.micros(step), self._fleet.minute(step)
        with transaction() as conn:
            for kind in TABLES.values():
                values = meter_values if kind.name == "meter" else vehicle_values
                keyed = enumerate(self._keys[kind.name])
                rows = [Row(key, at, at, values(device, minute)) for device, key in keyed]
                writes.store(conn, kind, rows)
        self._stage.rows += len(KINDS) * DEVICES

    def _tick_until_clean(self, step: int) -> int:
        """Tick as of the fleet's minute `step` until nothing is left to do; hours computed."""
        hours = 0
        while True:
            told = rollup.tick(self._fleet.instant(step))
            hours += int(told["meterHours"]) + int(told["vehicleHours"])
            if not self._dirty():
                return hours

    def _dirty(self) -> bool:
        with connect(self._stage.database_url) as conn:
            statement = sql.SQL("SELECT FROM {} LIMIT 1")
            names = [*(kind.dirty.name for kind in TABLES.values()), "vehicles_dirty"]
            tables = map(sql.Identifier, names)
            return any(conn.execute(statement.format(table)).fetchone() == () for table in tables)

    def _check(self) -> None:
        """Every vehicle must be judged, and as the readings were made. Raises Broken."""
        with connect(self._stage.database_url) as conn:
            judged = conn.execute(
                "SELECT count(*), min(efficiency), max(efficiency) FROM vehicle_performance_24h"
            ).fetchone()
        if judged != (DEVICES, EFFICIENCY, EFFICIENCY):
            raise Broken(f"{DEVICES} vehicles at {EFFICIENCY} are expected, but there are {judged}")

    def _group(self, step: int) -> None:
        window = [self._fleet.instant(step) - rollup.WINDOW, self._fleet.instant(step)]
        with connect(self._stage.database_url) as conn:
            for kind in KINDS:
                conn.execute(_GROUPED[kind], window).fetchall()


def _stop_application(stage: Stage) -> None:
    """Nothing but the data servers goes on."""
    for name in ("beat", "flower", "worker-flush", "worker-rollup", "web"):
        with suppress(StackError):  # it is not running any more
            stage.stack.supervisor.stop(name)


def bytes_per_reading(stage: Stage) -> Figures:
    """Of each kind's history, index included, and how many rows were counted."""
    statement = sql.SQL(
        "SELECT (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits"
        " WHERE inhparent = {name}::regclass)::float8, (SELECT count(*) FROM {table})"
    )
    with connect(stage.database_url) as conn:
        return dict(_sizes(conn, statement))


def _sizes(
    conn: psycopg.Connection[tuple[object, ...]], statement: sql.SQL
) -> Iterator[tuple[str, float]]:
    for kind in TABLES.values():
        table = kind.history.name
        named = statement.format(name=sql.Literal(table), table=sql.Identifier(table))
        row = conn.execute(named).fetchone()
        size, count = (float(str(part)) for part in row or (0, 0))
        yield f"bytes.{kind.name}", size / max(count, 1)
