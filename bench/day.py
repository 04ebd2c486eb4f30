"""History made by COPY, so that what is in it is known exactly: a reading a minute of every device.

The application is stopped and the tables are emptied first. Ticks work on it in a process of their
own (bench/ticker.py); what they find is held against what the registers were made to count.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
from psycopg import sql

from bench import Broken
from bench.copying import Copies, block_count, connect
from bench.figures import Figures
from bench.habits import DAY_MINUTES, Habit, efficiency
from bench.progress import say
from bench.readings import KINDS, Fleet, device_id
from bench.stage import Stage
from bench.ticker import Ticked, Ticker
from models import Base, partitions, writes
from models.engine import transaction
from models.kinds import KINDS as TABLES
from workers import rollup

#: Never emptied.
_KEPT = {"fleets", "api_keys"}
_MARK = (
    "INSERT INTO {dirty} (device_key, hour, from_at)"
    " SELECT d.key, hour, greatest(hour, %(first)s) FROM {devices} d,"
    " generate_series(date_trunc('hour', %(first)s::timestamptz), %(last)s, interval '1 hour')"
    " AS hour"
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
#: The product shows four digits.
_ROUNDING = 0.5e-4 + 1e-9


class Day:
    """A fleet's last minutes in history; one more with each `advance`."""

    def __init__(self, stage: Stage, devices: int, habit: Habit, minutes: int) -> None:
        self._stage = stage
        self._habit = habit
        self._minutes = minutes
        #: The first minute that is in history.
        self._oldest = minutes
        end = datetime.now(UTC).replace(second=0, microsecond=0)
        self.fleet = Fleet(end - timedelta(minutes=minutes), devices=devices)
        self._keys: dict[str, list[int]] = {}

    def empty(self) -> None:
        """Nothing but the registered devices; partitions for every day of it."""
        say("the application stops, the tables are emptied")
        self._stage.stop_application()
        tables = [t.name for t in Base.metadata.sorted_tables if t.name not in _KEPT]
        statement = sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(
            sql.SQL(", ").join(map(sql.Identifier, tables))
        )
        with connect(self._stage.database_url) as conn:
            conn.execute(statement)
        self._stage.rows = 0
        self._make_partitions()
        self._register()

    def fill(self, first_minute: int, last_minute: int) -> None:
        """Copy [first, last) of its minutes, and mark their hours as the flush would."""
        stage, fleet = self._stage, self.fleet
        numbers = range(first_minute * fleet.devices, last_minute * fleet.devices)
        blocks, size = range(block_count(len(numbers))), stage.crew.size
        say(f"{len(KINDS) * len(numbers):,} readings by COPY")
        stage.crew.run(
            [
                Copies(
                    stage.database_url,
                    fleet,
                    self._keys,
                    blocks[n::size],
                    numbers,
                    self._habit,
                    with_latest=False,
                )
                for n in range(size)
            ]
        )
        stage.rows += len(KINDS) * len(numbers)
        self._oldest = min(self._oldest, first_minute)
        self._mark(first_minute, last_minute - 1)

    def settle(self) -> None:
        """Have done at once what follows so many rows in time, and would disturb what is measured.

        Autovacuum and the checkpoint take minutes of a core and of the disk.
        """
        with psycopg.connect(self._stage.database_url, autocommit=True) as conn:
            conn.execute("VACUUM ANALYZE")
            conn.execute("CHECKPOINT")

    def advance(self) -> None:
        """One more minute of readings of every device."""
        numbers = range(
            self._minutes * self.fleet.devices, (self._minutes + 1) * self.fleet.devices
        )
        blocks, url = range(block_count(len(numbers))), self._stage.database_url
        self._stage.crew.run([Copies(url, self.fleet, self._keys, blocks, numbers, self._habit)])
        self._stage.rows += len(KINDS) * len(numbers)
        self._mark(self._minutes, self._minutes)
        self._minutes += 1

    def tick(self, ticker: Ticker) -> Ticked:
        """Let the rollup work off what is marked, and see that what it found is right."""
        ticked = ticker.until_clean(self.fleet.instant(self._minutes))
        self._check()
        return ticked

    def group(self) -> float:
        """Seconds of a plain GROUP BY over the last 24 hours, both kinds one after the other."""
        began = time.monotonic()
        with connect(self._stage.database_url) as conn:
            for kind in KINDS:
                conn.execute(_GROUPED[kind], self._window()).fetchall()
        return time.monotonic() - began

    def parallel_workers(self) -> Figures:
        """How many processes PostgreSQL plans to add to the one that does the GROUP BY."""
        with connect(self._stage.database_url) as conn:
            plans = [
                conn.execute(f"EXPLAIN (FORMAT JSON) {_GROUPED[kind]}", self._window()).fetchone()
                for kind in KINDS
            ]
        told = json.dumps([plan[0] for plan in plans if plan])
        planned = [int(part.split(",")[0]) for part in told.split('"Workers Planned": ')[1:]]
        return {"rollup.workers": max(planned, default=0)}

    def _window(self) -> list[datetime]:
        end = self.fleet.instant(self._minutes)
        return [end - rollup.WINDOW, end]

    def _make_partitions(self) -> None:
        days = {
            self.fleet.instant(minute).date()
            for minute in [*range(0, self._minutes, DAY_MINUTES), self._minutes]
        }
        for kind in TABLES.values():
            with transaction() as conn:
                missing = days - partitions.days(conn, kind)
            for day in sorted(missing):
                with transaction() as conn:
                    partitions.create(conn, kind, day)

    def _register(self) -> None:
        with transaction() as conn:
            fleet = conn.exec_driver_sql("SELECT min(id) FROM fleets").scalar_one()
            for kind in TABLES.values():
                wanted = [(fleet, device_id(kind.name, n)) for n in range(self.fleet.devices)]
                found = writes.resolve_devices(conn, kind, wanted)
                self._keys[kind.name] = [found[device] for device in wanted]

    def _mark(self, first_minute: int, last_minute: int) -> None:
        instants = (self.fleet.instant(first_minute), self.fleet.instant(last_minute))
        span = dict(zip(("first", "last"), instants, strict=True))
        with connect(self._stage.database_url) as conn:
            for kind in TABLES.values():
                names = {"dirty": kind.dirty.name, "devices": kind.devices.name}
                marked = {name: sql.Identifier(table) for name, table in names.items()}
                conn.execute(sql.SQL(_MARK).format(**marked), span)

    def _check(self) -> None:
        """Every vehicle must be judged, and as its registers were made. Raises Broken."""
        with connect(self._stage.database_url) as conn:
            found = dict(
                conn.execute(
                    "SELECT vehicle_key, efficiency FROM vehicle_performance_24h"
                ).fetchall()
            )
        judged = np.array([found.get(key) for key in self._keys["vehicle"]], float)
        first = max(self._oldest, self._minutes - DAY_MINUTES)
        expected = efficiency(self._habit, self.fleet.devices, first, self._minutes - 1)
        wrong = ~(np.abs(judged - expected) <= _ROUNDING)  # one that is not judged is NaN
        if wrong.any():
            one = int(np.argmax(wrong))
            raise Broken(
                f"{wrong.sum()} of {len(wrong)} vehicles are not judged as they were made, first "
                f"{device_id('vehicle', one)}: {judged[one]} instead of {expected[one]:.6f}"
            )
