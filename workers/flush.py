"""The flush: what waits in the stream becomes history and latest.

    claim -> decode -> one transaction (history, latest, hours to recompute) -> COMMIT -> remove

An entry leaves the stream only after the transaction that stored each of its readings has
committed, so a death at any line costs a repetition and never a reading; storing is idempotent, so
the repetition changes nothing.

What an error means is decided in `store_or_bury`, in words:

- the data is at fault (it slipped past the door, or was put into the stream by hand): the batch is
  halved until the one reading is alone, which goes to `dead_letters`, in the same transaction;
- anything else (PostgreSQL away, a lock, a missing table, a wrong grant): nothing is
  acknowledged and nothing is buried, the task fails visibly and the next sweep tries again;
- no error at all, the process is gone (out of memory, a crash in a library): when that happened
  three times to an entry it is handled alone, after all others; after eight it is not decoded any
  more but put into `dead_letters` as it is (KILLER_ENTRY).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
import redis
import structlog
from billiard.process import current_process
from celery import current_task
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

import settings
from models import capacity, checks, conservation, deadletters, writes
from models.codec import Row
from models.columns import Columns
from models.conservation import AlreadySettled, Settled
from models.deadletters import Dead
from models.engine import transaction
from models.kinds import KINDS, Kind
from models.writes import NOTHING, Stored
from workers import doorbell, stream
from workers.celery import app
from workers.devices import DeviceKeys
from workers.entries import WHOLE_ENTRY, Reading, decode, decode_plain
from workers.metrics import (
    FLUSH_SECONDS,
    OLDEST_READING_SECONDS,
    READINGS_FLUSHED,
    STREAM_ENTRIES,
)
from workers.stream import Entry

log = structlog.get_logger(__name__)

#: Readings per transaction. The more readings of a device share one, the fewer updates of its
#: latest and lines about its hours: 40,000 take a tenth off what 20,000 cost PostgreSQL. More gain
#: little and make memory, locks and the repetition after a crash larger.
BATCH_READINGS = 40_000
#: Readings claimed at once, by the size of the entries met last: what a flush holds in memory, and
#: what stays with a worker that could have been shared with another.
CLAIM_READINGS = BATCH_READINGS
#: Entries claimed at once, at most; at first, when their size is not known, FIRST_ENTRIES.
MAX_ENTRIES = 500
FIRST_ENTRIES = 50
#: A task gives its place back after this long and rings for a successor.
TASK_SECONDS = 1.0

#: How long a flush that found several requests waits for more of them, for each it found and at
#: most: what a transaction costs is then shared by many. One alone is never waited for: an idle
#: fleet's reading is in latest as soon as it can be.
GATHER_SECONDS_EACH, GATHER_SECONDS = 0.01, 0.05
#: With so many readings a transaction is cheap enough.
GATHER_READINGS = BATCH_READINGS // 4

#: What has waited for this long is told of by the sweep: whoever should flush it is late or lost.
LATE_SECONDS = 0.5

#: SQLSTATE classes that blame the data: 22 data exception, 23 integrity, 21 cardinality.
_DATA_ERRORS = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.CardinalityViolation)
#: Of these classes, but a matter of the table: it is of another release than this program.
_SCHEMA_ERRORS = (
    psycopg.errors.NotNullViolation,
    psycopg.errors.InvalidBinaryRepresentation,
    psycopg.errors.BadCopyFileFormat,
)
#: What Python itself raises for a value that PostgreSQL cannot take.
_VALUE_ERRORS = (UnicodeEncodeError, ValueError, OverflowError, TypeError)

_device_keys = DeviceKeys()
#: The receipt of each kind's last batch, once that has left the stream (models/conservation.py).
#: One that a crash leaves behind is cleared away by workers/conservation.py.
_spent_receipts: dict[str, int] = {}
#: How large each kind's entries were at the last claim.
_readings_per_entry: dict[str, float] = {}


#: Servers away are no defect: one line in the log instead of a traceback, every second.
_EXPECTED = (OperationalError, psycopg.OperationalError, redis.RedisError)


@app.task(name="flush-readings", ignore_result=True, throws=_EXPECTED)
def flush_readings(kind_name: str) -> dict[str, int | str]:
    """Drain one kind's stream; the result tells Flower what was written."""
    return flush(KINDS[kind_name], _consumer_name())


# No events: one sweep a second would bury the flushes in Flower.
@app.task(name="sweep-streams", ignore_result=True, throws=_EXPECTED, send_events=False)
def sweep_streams() -> dict[str, int]:
    """Ring for every stream in which something waits too long.

    Covers lost doorbells, and brings help where one worker is not enough.
    """
    waiting = {}
    for kind in KINDS.values():
        waiting[kind.name], oldest_seconds = _observe(kind)
        if oldest_seconds > LATE_SECONDS:
            doorbell.ring(kind)
    return waiting


def flush(kind: Kind, consumer: str) -> dict[str, int | str]:
    """Store what waits, transaction by transaction, until the stream is empty or time is up."""
    deadline = time.monotonic() + TASK_SECONDS
    stream.ensure_group(kind)
    checks.answers()  # before claiming: what waits for PostgreSQL was not handled at all
    total, dead, transactions = NOTHING, 0, 0
    for entries in _claimed(kind, consumer, deadline):
        with _excused(kind, consumer, entries):
            for batch in _batches(entries):
                stored, buried = _move(kind, batch)
                total, dead, transactions = total + stored, dead + buried, transactions + 1
    return _report(kind, total, dead, transactions)


def _claimed(kind: Kind, consumer: str, deadline: float) -> Iterator[list[Entry]]:
    """What waits, until nothing does or time is up; then what is to be handled alone, one by one.

    Suspects come last, so that a death costs their neighbours nothing.
    """
    for entries in _until_nothing_waits(kind, consumer):
        yield entries
        if time.monotonic() > deadline:
            doorbell.ring(kind)
            break
    while suspect := stream.claim_suspect(kind, consumer):
        yield [suspect]
        if time.monotonic() > deadline:
            break


def _until_nothing_waits(kind: Kind, consumer: str) -> Iterator[list[Entry]]:
    """Claim after claim. The bell stays set while this goes on, so that nobody rings for another.

    It ends only with a claim that found nothing after the bell was silenced: whoever finds the bell
    set has added its entry before, and whoever adds one later rings.
    """
    silenced = False
    while True:
        wanted = _entries_to_claim(kind)
        entries = stream.claim(kind, consumer, wanted)
        if entries:
            _note_size(kind, entries)
            helped = len(entries) >= wanted
            if helped:
                stream.silence_bell(kind)  # there is more: the next to ring brings help
            yield entries
            if not helped and len(entries) > 1:
                time.sleep(_gathering_seconds(entries))
                stream.hold_bell(kind)
        elif silenced:
            return
        silenced = len(entries) <= 1  # nothing more, as it seems
        if silenced:
            stream.silence_bell(kind)


def _entries_to_claim(kind: Kind) -> int:
    size = _readings_per_entry.get(kind.name)
    if size is None:
        return min(FIRST_ENTRIES, MAX_ENTRIES)
    return max(1, min(MAX_ENTRIES, round(CLAIM_READINGS / size)))


def _note_size(kind: Kind, entries: Sequence[Entry]) -> None:
    _readings_per_entry[kind.name] = max(1, sum(entry.count for entry in entries) / len(entries))


def _gathering_seconds(entries: Sequence[Entry]) -> float:
    """How long to wait for more after these, which were all that waited."""
    if sum(entry.count for entry in entries) >= GATHER_READINGS:
        return 0.0
    return min(GATHER_SECONDS, GATHER_SECONDS_EACH * len(entries))


@contextmanager
def _excused(kind: Kind, consumer: str, entries: Sequence[Entry]) -> Iterator[None]:
    """An error is no death: it does not make suspects of `entries`."""
    try:
        yield
    except Exception:
        try:
            stream.excuse(kind, consumer, entries)
        except redis.RedisError as error:
            log.warning("a delivery stays counted", kind=kind.name, error=str(error))
        raise


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Consecutive entries with about BATCH_READINGS readings together."""
    batch: list[Entry] = []
    readings = 0
    for entry in entries:
        batch.append(entry)
        readings += entry.count
        if readings >= BATCH_READINGS:
            yield batch
            batch, readings = [], 0
    if batch:
        yield batch


def _move(kind: Kind, entries: Sequence[Entry]) -> tuple[Stored, int]:
    """Entries out of the stream into PostgreSQL: (what was stored, how many were buried)."""
    with FLUSH_SECONDS.labels(kind.name).time():
        stored, dead, receipt = _settle(kind, entries)
        stream.remove(kind, entries)
        if receipt is not None:
            _spent_receipts[kind.name] = receipt
    return stored, dead


def _settle(kind: Kind, entries: Sequence[Entry]) -> tuple[Stored, int, int | None]:
    """Store entries and count them, once: (what was stored, how many were buried, the receipt)."""
    try:
        return _commit(kind, entries)
    except AlreadySettled as settled:
        # Whoever stored them died before it could remove them, or is slow. They are stored once
        # more, which changes nothing, and not counted once more, which would.
        again = [entry for entry in entries if entry.id in settled.entry_ids]
        rest = [entry for entry in entries if entry.id not in settled.entry_ids]
    stored, dead, receipt = _commit(kind, again, counted=False)
    if rest:
        more, more_dead, receipt = _settle(kind, rest)
        stored, dead = stored + more, dead + more_dead
    return stored, dead, receipt


def _killer(kind: Kind, entry: Entry) -> Dead:
    """An entry whose handling ends the process, as a dead letter: its body as it came."""
    deaths = entry.deliveries - 1
    log.error("killer entry put aside", kind=kind.name, entry=entry.id, deaths=deaths)
    detail = f"{deaths} times the process that handled it ended without a word"
    raw = entry.raw if entry.body is None else entry.body
    return Dead(kind.name, entry.id, WHOLE_ENTRY, entry.fleet_id, raw, "KILLER_ENTRY", detail)


def _commit(
    kind: Kind, entries: Sequence[Entry], *, counted: bool = True
) -> tuple[Stored, int, int | None]:
    """One transaction for all of it: (what was stored, how many were buried, the receipt).

    Raises AlreadySettled when one of the entries is counted already.
    """
    plain = _plain(kind, entries)
    if plain is not None:
        try:
            with transaction() as conn:
                stored = writes.store(conn, kind, plain)
                receipt = _count(conn, kind, entries, stored, []) if counted else None
            return stored, 0, receipt
        except (*_DATA_ERRORS, *_VALUE_ERRORS) as error:
            log.warning("a batch is handled one by one", kind=kind.name, error=str(error))
    return _commit_one_by_one(kind, entries, counted=counted)


def _plain(kind: Kind, entries: Sequence[Entry]) -> Columns | None:
    """The readings as columns, if there is nothing to be said about any of them."""
    if any(entry.deliveries > stream.MAX_DEATHS for entry in entries):
        return None
    plain = decode_plain(kind, entries)
    if plain is None:
        return None
    device_key = _device_keys.of_all(kind, plain.rosters)
    return None if device_key is None else plain.columns(device_key)


def _commit_one_by_one(
    kind: Kind, entries: Sequence[Entry], *, counted: bool
) -> tuple[Stored, int, int | None]:
    """The same for entries of which something may have to be buried."""
    killers = [entry for entry in entries if entry.deliveries > stream.MAX_DEATHS]
    readings, buried = decode(kind, [entry for entry in entries if entry not in killers])
    buried += [_killer(kind, entry) for entry in killers]
    keys = _device_keys.resolve(kind, {(r.fleet_id, r.device_id) for r in readings})
    homeless = [r for r in readings if (r.fleet_id, r.device_id) not in keys]
    if homeless:
        buried += _homeless(kind, homeless)
        readings = [r for r in readings if (r.fleet_id, r.device_id) in keys]
    with transaction() as conn:
        stored = store_or_bury(conn, kind, readings, keys, buried)
        deadletters.bury(conn, buried)
        receipt = _count(conn, kind, entries, stored, buried) if counted else None
    return stored, len(buried), receipt


def _count(
    conn: Connection, kind: Kind, entries: Sequence[Entry], stored: Stored, buried: Sequence[Dead]
) -> int:
    """Write down what becomes of the entries, with the transaction that makes it so."""
    counts = {entry.id: entry.count for entry in entries}
    dead = sum(counts[d.entry_id] if d.position == WHOLE_ENTRY else 1 for d in buried)
    settled = Settled(list(counts), sum(counts.values()), stored, dead, len(buried))
    return conservation.settle(conn, kind.name, settled, spent=_spent_receipts.get(kind.name))


def _homeless(kind: Kind, readings: Sequence[Reading]) -> Iterator[Dead]:
    """Readings of devices that are not registered, as dead letters: no fleet, or a full one.

    The door refuses the latter, but learns of it up to half a minute late.
    """
    with transaction() as conn:
        fleets = capacity.fleets_of(conn, {r.fleet_id for r in readings})
    most = settings.load().max_devices_per_fleet
    for r in readings:
        if r.fleet_id in fleets:
            yield r.dead(kind, "TOO_MANY_DEVICES", f"the fleet has its {most} devices")
        else:
            yield r.dead(kind, "UNKNOWN_FLEET", f"no fleet {r.fleet_id}")


def store_or_bury(
    conn: Connection,
    kind: Kind,
    readings: Sequence[Reading],
    keys: dict[tuple[int, str], int],
    buried: list[Dead],
) -> Stored:
    """Store `readings`; those that cannot be stored are appended to `buried`.

    Raises whatever is not the data's fault.
    """
    if not readings:
        return NOTHING
    try:
        return _store(conn, kind, readings, keys)
    except (*_DATA_ERRORS, *_VALUE_ERRORS) as error:
        if isinstance(error, _SCHEMA_ERRORS) or _has_no_partition(error):
            raise
        if len(readings) == 1:
            buried.append(readings[0].dead(kind, "UNSTORABLE", f"{type(error).__name__}: {error}"))
            return NOTHING
    middle = len(readings) // 2
    return store_or_bury(conn, kind, readings[:middle], keys, buried) + store_or_bury(
        conn, kind, readings[middle:], keys, buried
    )


def _store(
    conn: Connection, kind: Kind, readings: Sequence[Reading], keys: dict[tuple[int, str], int]
) -> Stored:
    """Store in a savepoint; once more when a partition was made between routing and writing."""
    try:
        with conn.begin_nested():
            return writes.store(conn, kind, _rows(readings, keys))
    except psycopg.errors.CheckViolation as error:
        if not _has_no_partition(error):
            raise
    with conn.begin_nested():
        return writes.store(conn, kind, _rows(readings, keys))


def _has_no_partition(error: Exception) -> bool:
    """The row's partition is missing, or is another one since a moment: the table's affair."""
    return isinstance(error, psycopg.errors.CheckViolation) and not error.diag.constraint_name


def _rows(readings: Sequence[Reading], keys: dict[tuple[int, str], int]) -> Iterator[Row]:
    for r in readings:
        yield Row(keys[r.fleet_id, r.device_id], r.recorded_us, r.received_us, r.values)


def _observe(kind: Kind) -> tuple[int, float]:
    """Entries waiting and the age of the oldest in seconds, both set as metrics."""
    waiting, oldest_us = stream.waiting(kind), stream.oldest_us(kind)
    age = (stream.now_us() - oldest_us) / 1e6 if oldest_us is not None else 0.0
    STREAM_ENTRIES.labels(kind.name).set(waiting)
    OLDEST_READING_SECONDS.labels(kind.name).set(age)
    return waiting, age


def _report(kind: Kind, stored: Stored, dead: int, transactions: int) -> dict[str, int | str]:
    counts = {
        "inserted": stored.inserted,
        "duplicate": stored.duplicates,
        "conflict": stored.conflicts,
        "dead": dead,
    }
    for outcome, count in counts.items():
        READINGS_FLUSHED.labels(kind.name, outcome).inc(count)
    if dead or stored.conflicts:
        log.warning("readings set aside", kind=kind.name, **counts)
    return {
        "kind": kind.name,
        "readings": sum(counts.values()),
        **counts,
        "transactions": transactions,
    }


def _consumer_name() -> str:
    """Stable per slot, not per process: a restarted child finds its own unfinished entries."""
    node = current_task.request.hostname or "local"
    return f"{node}/{getattr(current_process(), 'index', 0)}"
