"""The ledgers against the servers. Each difference is counted and a few are shown.

All tables are read in one snapshot, after the stream has run empty.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from models.kinds import KINDS, METER, VEHICLE, Kind
from tests.chaos import reference
from tests.chaos.ledger import Device, Sent, Values
from tests.chaos.reference import Samples

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
#: The summary rounds to a tenth of a watt-hour, the ratio to four digits.
TOLERANCE = 1.1e-4
SHOWN = 5

#: (fleet id, kind, device id)
Key = tuple[int, str, str]
Connection = psycopg.Connection[tuple[Any, ...]]


class Subject(NamedTuple):
    """The device that is looked at."""

    kind: Kind
    key: Key
    device_key: int


@dataclass(slots=True)
class Findings:
    """What was compared and what was wrong."""

    compared: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, what: str, example: object) -> None:
        """Something is wrong."""
        self.wrong[what] += 1
        if self.wrong[what] <= SHOWN:
            self.examples.append(f"{what}: {example}")


def check(
    database_url: str, sent_by_fleet: Mapping[str, list[Sent]], planted: Mapping[str, str]
) -> Findings:
    """Compare everything. `planted`: reasons by the mark of each hand-made poisonous entry."""
    findings = Findings()
    with psycopg.connect(database_url) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        query = "SELECT name, id FROM fleets"
        fleets: dict[str, int] = {name: int(key) for name, key in conn.execute(query)}
        sent = _merged({fleets[name]: all_sent for name, all_sent in sent_by_fleet.items()})
        samples: dict[Key, Samples] = {}
        for kind in KINDS.values():
            keys = _device_keys(conn, kind)
            for stranger in keys.keys() - sent.keys():
                findings.add("unexpected device", stranger)
            conflicts = _conflicts(conn, kind)
            for key in sorted(k for k in sent if k[1] == kind.name):
                device_key = keys.get(key, -1)
                subject = Subject(kind, key, device_key)
                stored = _history(conn, kind, device_key, findings)
                _check_device(findings, key, sent[key], stored, conflicts.pop(device_key, {}))
                _check_latest(findings, conn, subject, stored)
                place = kind.measures.index(kind.counter)
                samples[key] = [(at, values[place]) for at, values in sorted(stored.items())]
                _check_hours(findings, conn, subject, samples[key])
        _check_summaries(findings, conn, samples)
        _check_dead(findings, conn, planted)
        _check_nothing_dirty(findings, conn)
    return findings


def _merged(sent_by_fleet: Mapping[int, list[Sent]]) -> dict[Key, Device]:
    merged: dict[Key, Device] = {}
    for fleet, ledgers in sent_by_fleet.items():
        for ledger in ledgers:
            for (kind, device_id), device in ledger.items():
                assert (fleet, kind, device_id) not in merged, "two senders share a device"
                merged[fleet, kind, device_id] = device
    return merged


def _device_keys(conn: Connection, kind: Kind) -> dict[Key, int]:
    query = sql.SQL("SELECT fleet_id, device_id, key FROM {}").format(_name(kind.devices))
    return {(fleet, kind.name, device): key for fleet, device, key in conn.execute(query)}


def _history(
    conn: Connection, kind: Kind, device_key: int, findings: Findings
) -> dict[int, Values]:
    """A device's history by instant."""
    columns = sql.SQL(", ").join(sql.Identifier(m.column) for m in kind.measures)
    query = sql.SQL("SELECT recorded_at, {} FROM {} WHERE device_key = %s").format(
        columns, _name(kind.history)
    )
    stored: dict[int, Values] = {}
    for at, *values in conn.execute(query, (device_key,)):
        at_us = _us(at)
        if at_us in stored:
            findings.add("twice", (kind.name, device_key, at))
        stored[at_us] = tuple(values)
    return stored


def _conflicts(conn: Connection, kind: Kind) -> dict[int, dict[int, list[Values]]]:
    """Refused values by device key and instant."""
    found: dict[int, dict[int, list[Values]]] = {}
    query = "SELECT device_key, recorded_at, refused FROM reading_conflicts WHERE kind = %s"
    for device_key, at, refused in conn.execute(query, (kind.name,)):
        values = tuple(refused[m.field] for m in kind.measures)
        found.setdefault(device_key, {}).setdefault(_us(at), []).append(values)
    return found


def _check_device(
    findings: Findings,
    key: Key,
    device: Device,
    stored: Mapping[int, Values],
    conflicts: Mapping[int, list[Values]],
) -> None:
    """Every acknowledged value is in history, or beside it in the conflicts; nothing else is."""
    for at_us, promised in device.acknowledged.items():
        for values in promised:
            findings.compared["acknowledged"] += 1
            in_history = stored.get(at_us) == values
            if not in_history and values not in conflicts.get(at_us, []):
                findings.add("lost", (key, at_us, values))
            if in_history and values in conflicts.get(at_us, []):
                findings.add("twice", (key, at_us, values))
    findings.compared["history"] += len(stored)
    findings.compared["conflicts"] += sum(map(len, conflicts.values()))
    for at_us, values in (*stored.items(), *_flat(conflicts)):
        if values not in device.lawful(at_us):
            findings.add("unexpected", (key, at_us, values))


def _flat(conflicts: Mapping[int, list[Values]]) -> Iterator[tuple[int, Values]]:
    return ((at_us, values) for at_us, several in conflicts.items() for values in several)


def _check_latest(
    findings: Findings, conn: Connection, subject: Subject, stored: Mapping[int, Values]
) -> None:
    kind, key, device_key = subject
    columns = sql.SQL(", ").join(sql.Identifier(m.column) for m in kind.measures)
    query = sql.SQL("SELECT recorded_at, {} FROM {} WHERE device_key = %s").format(
        columns, _name(kind.latest)
    )
    found = [(_us(at), tuple(values)) for at, *values in conn.execute(query, (device_key,))]
    expected = [max(stored.items())] if stored else []
    findings.compared["latest"] += 1
    if found != expected:
        findings.add("latest", (key, found, expected))


def _check_hours(findings: Findings, conn: Connection, subject: Subject, samples: Samples) -> None:
    kind, key, device_key = subject
    query = sql.SQL(
        "SELECT hour, first_at, first_kwh, last_at, last_kwh, energy_kwh, samples"
        " FROM {} WHERE device_key = %s"
    ).format(_name(kind.hourly))
    found = {
        _us(hour): reference.Hour(_us(first), first_kwh, _us(last), last_kwh, kwh, count)
        for hour, first, first_kwh, last, last_kwh, kwh, count in conn.execute(query, (device_key,))
    }
    expected = reference.hours(samples)
    for hour in found.keys() | expected.keys():
        findings.compared["hours"] += 1
        ours, theirs = expected.get(hour), found.get(hour)
        if ours is None or theirs is None or not _same_hour(ours, theirs):
            findings.add("hourly", (key, hour, theirs, "expected", ours))


def _same_hour(ours: reference.Hour, theirs: reference.Hour) -> bool:
    exact = theirs._replace(energy_kwh=ours.energy_kwh) == ours
    return exact and math.isclose(ours.energy_kwh, theirs.energy_kwh, abs_tol=1e-9)


def _check_summaries(findings: Findings, conn: Connection, samples: Mapping[Key, Samples]) -> None:
    query = (
        "SELECT fleet_id, vehicle_id, window_from, window_to, ac_kwh, dc_kwh, efficiency"
        " FROM vehicle_performance_24h"
    )
    rows = {(row[0], VEHICLE.name, row[1]): row[2:] for row in conn.execute(query)}
    for key in samples:
        if key[1] != VEHICLE.name:
            continue
        if key not in rows:
            findings.add("summary", (key, "missing"))
            continue
        begin, end, *told = rows[key]
        meter = (key[0], METER.name, f"meter-{key[2].removeprefix('vehicle-')}")
        inside = [
            [s for s in samples.get(k, []) if _us(begin) <= s[0] < _us(end)] for k in (meter, key)
        ]
        expected = reference.summary(*inside)
        findings.compared["summaries"] += expected is not None
        efficiency = told[-1]
        if efficiency is not None if expected is None else not _close(told, expected):
            findings.add("summary", (key, told, "expected", expected))


def _close(told: list[float | None], expected: reference.Summary) -> bool:
    return all(
        (a is None) == (b is None)
        and (a is None or b is None or math.isclose(a, b, rel_tol=1e-6, abs_tol=TOLERANCE))
        for a, b in zip(told, expected, strict=True)
    )


def _check_dead(findings: Findings, conn: Connection, planted: Mapping[str, str]) -> None:
    """Exactly what was planted is buried, each for its reason; twice where it was planted twice."""
    buried: set[str] = set()
    for raw, reason, detail in conn.execute("SELECT raw, reason, detail FROM dead_letters"):
        marks = [mark for mark in planted if mark.encode() in raw]
        if not marks or planted[marks[0]] != reason:
            findings.add("dead letter not planned", (bytes(raw)[:80], reason, detail))
        buried.update(marks)
    findings.compared["dead letters"] += len(planted)
    for mark in planted.keys() - buried:
        findings.add("poison not buried", mark)


def _check_nothing_dirty(findings: Findings, conn: Connection) -> None:
    for kind in KINDS.values():
        query = sql.SQL("SELECT count(*) FROM {}").format(_name(kind.dirty))
        row = conn.execute(query).fetchone()
        if row and row[0]:
            findings.add("hours left dirty", (kind.name, row[0]))


def _name(table: Any) -> sql.Identifier:
    return sql.Identifier(table.name)


def _us(instant: datetime) -> int:
    return (instant - EPOCH) // MICROSECOND


def dumped(findings: Findings) -> str:
    """The findings as JSON, for the file beside the ledgers."""
    told = {
        "compared": findings.compared,
        "wrong": findings.wrong,
        "examples": findings.examples,
    }
    return json.dumps(told, indent=1, default=str)
