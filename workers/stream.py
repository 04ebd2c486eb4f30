"""The stream of accepted readings: the ONLY module that knows Redis keys.

Keys (the braces are a Redis Cluster hash tag: a stream and its bell live on one node)

    energy:{meter}           stream  the accepted requests (an entry: below), consumer group "flush"
    energy:{vehicle}                 added by web, deleted by the flush after its COMMIT
    energy:{meter}:bell      string  "a doorbell is on its way" (or a flush at work); set for 2 s,
    energy:{vehicle}:bell            deleted by the flush before its last claim (see `silence_bell`)

    energy:usage             hash    what each key has used, ever, by "<key id>:<resource>": how the
                                     web processes share a key's limits (web/quota.py)

An entry (docs/adr/0003): a request's readings, or those of small requests that waited together

    v   format version
    f   fleet id
    n   number of readings
    b   (v 1) JSON array of the readings, as they passed the door
    z   (v 2) the same, compressed (workers/compression.py), if it is large
    c   (v 3) the same by columns (models/packed.py), compressed, if they are many

The entry id's milliseconds are the readings' `received_at`.

The life of a reading in here

    1. append   XADD and SET bell NX in one round trip. The reply to XADD is the promise: under
                `appendfsync always` Redis has the entry on disk before it answers. Most entries
                are added by workers/append.py, with the commands from here.
    2. claim    this consumer's own unfinished entries first (it died and is back), then those of
                consumers idle for 30 s (both XPENDING, then XCLAIM), then new ones (XREADGROUP).
                Redis counts the deliveries of each. An entry whose handling ended SUSPECT_AFTER
                times without a word is handed out alone (`claim_suspect`), so that what kills a
                worker is found among its neighbours; ends with a word don't count (`excuse`).
    3. remove   after COMMIT: XDEL, then XACK. A crash between leaves a pending id without a body,
                which the next claim clears away. The other order could leak an entry for ever.

Nothing trims the stream and nothing evicts from it: a full server refuses, it does not forget.
MULTI is never used: Redis refuses to queue commands in it when full, and could then never drain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import settings
from models.kinds import Kind
from models.packed import Packed
from workers.compression import COMPRESS_BYTES, MAX_BYTES, compress, decompress

GROUP = "flush"
#: Format versions, and the field that holds the body in each.
PLAIN, COMPRESSED, COLUMNS = b"1", b"2", b"3"
_FIELDS = {PLAIN: b"b", COMPRESSED: b"z", COLUMNS: b"c"}
#: A bell older than this is forgotten: its message may have been lost.
BELL_MS = 2_000
#: A consumer that held an entry for this long without finishing is taken for dead.
CLAIM_IDLE_MS = 30_000
#: Others take over after CLAIM_IDLE_MS, as soon as there is work: twice that is suspicious.
SILENT_MS = 2 * CLAIM_IDLE_MS
#: Entries an audit looks at in one go; they come with their bodies.
AUDIT_PAGE = 100
#: After so many deliveries that ended neither well nor with an error, an entry is handled alone.
SUSPECT_AFTER = 3
#: Deliveries of one entry that may end with the death of the process; then it is put aside.
MAX_DEATHS = 8
#: Another consumer's suspect is left to it for this long: longer than Celery's time limit, so that
#: what hangs one slot of the flush does not hang them all.
SUSPECT_IDLE_MS = 330_000
#: Unfinished entries looked at in one go.
MAX_PENDING = 1_000
#: Of Redis (Valkey reports the Redis version it is compatible with).
MIN_VERSION = 7
#: Longest wait for Redis to answer; then the door says 503.
TIMEOUT_SECONDS = 2.0

#: What `unsafe_settings` asks for.
_SETTINGS = ("appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")

_USAGE = "energy:usage"

_SMALL_NUMBER = re.compile(rb"[0-9]{1,9}")  # fits PostgreSQL's integer
_KEPT_AS_IT_WAS = re.compile(
    rb"v=(?P<v>[0-9]+) f=(?P<f>[0-9]{1,9}) n=[0-9]+ (?P<name>[a-z])=(?P<held>.*)", re.DOTALL
)

T = TypeVar("T")

#: A command and its arguments.
Command = tuple[Any, ...]


class StreamUnavailable(Exception):
    """The stream did not confirm: nothing may be promised, the sender must send again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One accepted request, or several of a fleet; `body` is None when it is not understood."""

    id: str
    fleet_id: int | None
    #: How many readings the door counted.
    count: int
    #: A JSON array, or `Packed`.
    body: bytes | None
    #: All of it, when it is not, and of what is packed.
    raw: bytes
    #: How often it has been handed out, this time included; `excuse` takes one back.
    deliveries: int = field(default=1, compare=False)

    @property
    def received_us(self) -> int:
        """When Redis took it over, in microseconds since 1970."""
        return int(self.id.partition("-")[0]) * 1000


@dataclass(frozen=True, slots=True)
class Pressure:
    """How full the stream's server is."""

    entries: int
    memory_percent: float
    writable: bool


@dataclass(frozen=True, slots=True)
class Census:
    """What the server itself has counted of a stream, in the same write as each entry."""

    #: Entries ever taken.
    added: int
    #: Entries there now.
    length: int

    @property
    def removed(self) -> int:
        """Entries that have left, whoever removed them."""
        return self.added - self.length


@dataclass(frozen=True, slots=True)
class Backlog:
    """What of a stream is not in history yet."""

    entries: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Audit:
    """What of a stream is not on the way to history."""

    #: Delivered once, and pending for nobody: XGROUP DELCONSUMER throws pending entries away so.
    orphans: list[str]
    #: Consumers that have not been heard of, and how many entries they hold.
    silent: dict[str, int]


def _key(kind: Kind) -> str:
    return f"energy:{{{kind.name}}}"


def _bell(kind: Kind) -> str:
    return f"{_key(kind)}:bell"


@cache
def _client_of(url: str) -> redis.Redis:
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=64,
        timeout=1,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=1,
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 0),  # a silent second try could store an entry twice
    )
    return redis.Redis(connection_pool=pool)


def client() -> redis.Redis:
    """This process's connections (redis-py notices a fork and opens new ones)."""
    return _client_of(settings.load().stream_url)


def append(kind: Kind, fleet_id: int, count: int, body: bytes) -> bool:
    """Add one request's readings, a JSON array or `Packed`; True when the caller should ring.

    Returning at all means that the entry is stored as durably as the server is configured.
    Raises StreamUnavailable otherwise; the entry may or may not be stored then.
    """
    commands = [add_command(kind, fleet_id, count, body), bell_command(kind)]
    added, rung = _try(partial(_exchange, commands))
    if isinstance(added, Exception):
        raise StreamUnavailable(str(added))
    return is_rung(rung)


def add_command(kind: Kind, fleet_id: int, count: int, body: bytes) -> Command:
    """What adds an entry."""
    if isinstance(body, Packed):
        version, held = COLUMNS, compress(body)
    elif COMPRESS_BYTES <= len(body) <= MAX_BYTES:
        version, held = COMPRESSED, compress(body)
    else:
        version, held = PLAIN, body
    fields = ("v", version, "f", fleet_id, "n", count, _FIELDS[version], held)
    return ("XADD", _key(kind), "*", *fields)


def bell_command(kind: Kind) -> Command:
    """What sets a bell, to be sent after the entry: who finds it set has added before that."""
    return ("SET", _bell(kind), 1, "NX", "PX", BELL_MS)


def is_rung(reply: object) -> bool:
    """Whether this set the bell: who did rings."""
    return reply == b"OK"


def _exchange(commands: Sequence[Command]) -> list[Any]:
    """The replies to `commands`, all sent at once; a refused one's is its error.

    What redis-py's pipeline does, without what it does beside that (twice the time).
    """
    pool = client().connection_pool
    connection: Any = pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        return [_reply(connection) for _ in commands]
    except BaseException:
        connection.disconnect()  # the answers to this must never be read as another's
        raise
    finally:
        pool.release(connection)


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def silence_bell(kind: Kind) -> None:
    """Let the next request ring again. A flush may end only with a claim that came after this.

    A request that finds the bell set has added its entry before that moment; the flush deletes the
    bell after it and reads later still, so it sees the entry.
    """
    client().delete(_bell(kind))


def hold_bell(kind: Kind) -> None:
    """Keep a bell that is set from being forgotten: a flush is at work, nobody needs to ring."""
    client().pexpire(_bell(kind), BELL_MS)


def claim(kind: Kind, consumer: str, count: int) -> list[Entry]:
    """Up to `count` entries for this consumer to store: unfinished first, then new ones.

    Suspects are left out (`claim_suspect`). Needs the group (`ensure_group`).
    """
    unfinished = _unfinished(kind, consumer, suspect=False)
    entries = _take(kind, consumer, unfinished[:count])
    return entries or _read_new(kind, consumer, count)


def claim_suspect(kind: Kind, consumer: str) -> Entry | None:
    """The least suspect of the unfinished entries that are to be handled alone.

    It is handed out before the others are: only the count of the one at work goes up when the
    process ends, so neighbours of the culprit are stored and never take the blame.
    """
    unfinished = _unfinished(kind, consumer, suspect=True)
    for suspect in sorted(unfinished, key=lambda p: (p.deliveries, p.nth)):
        if entries := _take(kind, consumer, [suspect]):
            return entries[0]
    return None


def excuse(kind: Kind, consumer: str, entries: Sequence[Entry]) -> None:
    """Take back the last delivery of `entries`: it ended with an error, not with a death.

    Otherwise a PostgreSQL that is away for minutes would make suspects of what waits for it.
    """
    by_count: dict[int, list[Any]] = {}
    for entry in entries:
        by_count.setdefault(entry.deliveries - 1, []).append(entry.id)
    pipe = client().pipeline(transaction=False)
    for deliveries, ids in by_count.items():
        pipe.xclaim(_key(kind), GROUP, consumer, 0, ids, retrycount=deliveries, justid=True)
    pipe.execute()


def remove(kind: Kind, entries: Sequence[Entry]) -> None:
    """Forget entries whose readings are committed."""
    _forget(kind, [entry.id for entry in entries])


def ensure_group(kind: Kind) -> None:
    """The consumer group, from the stream's beginning: what waits is never skipped."""
    try:
        client().xgroup_create(_key(kind), GROUP, id="0", mkstream=True)
    except redis.exceptions.OutOfMemoryError:
        pass  # a full server does not even say that the group is there; it must still be drained
    except redis.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise


def prepare(kinds: Sequence[Kind]) -> None:
    """The consumer groups, before anything is added.

    A server that is full does not make them any more, and could then never be drained.
    Raises StreamUnavailable.
    """
    for kind in kinds:
        _try(partial(ensure_group, kind))


def share_usage(used: Mapping[str, int]) -> dict[str, int]:
    """Add what was used; what has been used in all, by the same names. Raises StreamUnavailable.

    The server counts; when it has lost its count it begins again at zero.
    """
    pipe = client().pipeline(transaction=False)
    for name, count in used.items():
        pipe.hincrby(_USAGE, name, count)
    return dict(zip(used, _try(pipe.execute), strict=True))


def waiting(kind: Kind) -> int:
    """Entries that are not in history yet."""
    return int(client().xlen(_key(kind)))


def census(kind: Kind) -> Census:
    """The server's own count of a kind's stream; zeros for one that was never made."""
    try:
        told = client().xinfo_stream(_key(kind))
    except redis.ResponseError as error:
        if "no such key" not in str(error):
            raise
        return Census(0, 0)
    return Census(int(told["entries-added"]), int(told["length"]))


def present(kind: Kind, ids: Sequence[str]) -> set[str]:
    """Those of `ids` that are in the stream."""
    pipe = client().pipeline(transaction=False)
    for entry_id in ids:
        pipe.xrange(_key(kind), entry_id, entry_id)
    return {entry_id for entry_id, found in zip(ids, pipe.execute(), strict=True) if found}


def audit(kind: Kind) -> Audit:
    """What the flush will never see again, or has not seen for long, unless somebody acts."""
    server, key = client(), _key(kind)
    if not server.exists(key):
        return Audit([], {})
    ensure_group(kind)
    (group,) = [g for g in server.xinfo_groups(key) if g["name"] == GROUP.encode()]
    delivered = cast(bytes, group["last-delivered-id"]).decode()
    silent = {
        cast(bytes, consumer["name"]).decode(): int(consumer["pending"])
        for consumer in server.xinfo_consumers(key, GROUP)
        if consumer["pending"] and int(consumer["idle"]) > SILENT_MS
    }
    return Audit(list(_orphans(kind, delivered)), silent)


def _orphans(kind: Kind, delivered: str) -> Iterator[str]:
    """Ids of entries up to `delivered` that are in the stream and pending for nobody."""
    after = "-"
    while page := cast(list[Any], client().xrange(_key(kind), after, delivered, count=AUDIT_PAGE)):
        ids = [entry_id.decode() for entry_id, _ in page]
        unclaimed = [entry_id for entry_id in ids if not _is_pending(kind, entry_id)]
        # What was stored and removed since the page was read is no orphan: it is there no more.
        yield from sorted(present(kind, unclaimed), key=_by_time)
        after = f"({ids[-1]}"


def _is_pending(kind: Kind, entry_id: str) -> bool:
    return bool(client().xpending_range(_key(kind), GROUP, entry_id, entry_id, 1))


def _by_time(entry_id: str) -> tuple[int, int]:
    millis, _, serial = entry_id.partition("-")
    return int(millis), int(serial)


def rescue(kind: Kind, orphans: Sequence[str]) -> int:
    """Let the flush have orphaned entries again, at once; how many."""
    # Claimed for a consumer that does not work and looks silent: the next flush adopts them.
    rescued = client().xclaim(
        _key(kind), GROUP, "rescue", 0, list(orphans), idle=CLAIM_IDLE_MS, force=True, justid=True
    )
    return len(rescued)


def unknown_keys(kinds: Sequence[Kind]) -> list[str]:
    """Keys of the server that are none of ours: a misspelt stream, or another program's."""
    ours = {name for kind in kinds for name in (_key(kind), _bell(kind))}
    found = {key.decode(errors="replace") for key in client().scan_iter(count=1000)}
    return sorted(found - ours)


def peek(kind: Kind, count: int) -> list[Entry]:
    """The oldest `count` entries as they wait, which changes nothing about them."""
    return _entries(cast(list[Any], client().xrange(_key(kind), count=count)), {})


def oldest_us(kind: Kind) -> int | None:
    """When the oldest waiting entry was accepted (microseconds since 1970), None without one."""
    first = cast(list[Any], client().xrange(_key(kind), count=1))
    return int(first[0][0].partition(b"-")[0]) * 1000 if first else None


def backlog(kind: Kind) -> Backlog:
    """What waits, and for how long. Raises StreamUnavailable when the server does not say."""
    asked_us = _try(now_us)  # before looking: an entry that comes in between is younger
    entries, first_us = _try(lambda: (waiting(kind), oldest_us(kind)))
    return Backlog(entries, 0.0 if first_us is None else max(asked_us - first_us, 0) / 1e6)


def now_us() -> int:
    """The stream server's clock, which dates entries (microseconds since 1970)."""
    seconds, micros = client().time()
    return int(seconds) * 1_000_000 + int(micros)


def pressure(kinds: Sequence[Kind]) -> Pressure:
    """How full the server is. Raises StreamUnavailable when it does not say."""
    pipe = client().pipeline(transaction=False)
    for kind in kinds:
        pipe.xlen(_key(kind))
    pipe.info("memory")
    pipe.info("persistence")
    *lengths, memory, persistence = _try(pipe.execute)
    limit = int(memory["maxmemory"])
    percent = 100 * int(memory["used_memory"]) / limit if limit else 0.0
    written = persistence.get("aof_last_write_status", "ok") == "ok"
    return Pressure(sum(lengths), percent, written and not persistence.get("loading"))


def unsafe_settings() -> dict[str, str]:
    """Every setting of the server under which 202 would not be a promise, by name.

    Raises StreamUnavailable when the server does not say.
    """
    server = client()
    version = str(_try(lambda: server.info("server"))["redis_version"])
    persistence = _try(lambda: server.info("persistence"))
    role = _try(lambda: server.info("replication"))["role"]
    config = _try(lambda: server.config_get(*_SETTINGS))
    unmet = _unsafe_persistence(persistence, config)
    if int(version.split(".", maxsplit=1)[0]) < MIN_VERSION:
        unmet["STREAM_TOO_OLD"] = f"version {version}; XAUTOCLAIM needs {MIN_VERSION}.0"
    if config["maxmemory-policy"] != "noeviction":
        unmet["EVICTION_ON"] = "a full server throws accepted readings away"
    if role != "master":
        unmet["STREAM_IS_A_REPLICA"] = "it takes no readings"
    return unmet


def _unsafe_persistence(info: Mapping[str, Any], config: Mapping[Any, Any]) -> dict[str, str]:
    """What keeps the server from having on its disk what it confirmed."""
    unmet = {}
    if not info["aof_enabled"]:
        unmet["APPENDONLY_OFF"] = "accepted readings are lost with the server's process"
    elif config["appendfsync"] != "always":
        unmet["APPENDFSYNC_NOT_ALWAYS"] = "the last second of accepted readings is not on disk"
    elif config["no-appendfsync-on-rewrite"] == "yes":
        unmet["NO_APPENDFSYNC_ON_REWRITE"] = "nothing is on disk while the file is rewritten"
    if info.get("aof_last_write_status", "ok") != "ok":
        unmet["STREAM_CANNOT_WRITE"] = "the server could not write its file; is the disk full?"
    if info.get("loading"):
        unmet["STREAM_LOADING"] = "the server is still reading its file"
    return unmet


def _try(action: Callable[[], T]) -> T:
    try:
        return action()
    except (redis.RedisError, OSError) as error:
        raise StreamUnavailable(str(error) or type(error).__name__) from error


@dataclass(frozen=True, slots=True)
class _Pending:
    """An entry that was handed out and not acknowledged. `nth`: its place in the stream."""

    id: bytes
    nth: int
    deliveries: int
    idle_ms: int


def _unfinished(kind: Kind, consumer: str, *, suspect: bool) -> list[_Pending]:
    """What this consumer did not finish; if that is nothing, what dead consumers did not.

    Without the bodies: they could be what kills.
    """
    pipe = client().pipeline(transaction=False)
    pipe.xpending_range(_key(kind), GROUP, "-", "+", MAX_PENDING, consumername=consumer)
    pipe.xpending_range(_key(kind), GROUP, "-", "+", MAX_PENDING, idle=CLAIM_IDLE_MS)
    mine, silent = (
        [
            _Pending(p["message_id"], nth, p["times_delivered"], p["time_since_delivered"])
            for nth, p in enumerate(found)
            if (p["times_delivered"] >= SUSPECT_AFTER) is suspect
            and p["time_since_delivered"] >= _idle_ms(p, consumer)
        ]
        for found in pipe.execute()
    )
    return mine or silent


def _idle_ms(pending: Mapping[str, Any], consumer: str) -> int:
    """How long an entry must have been idle for `consumer` to take it."""
    if pending["consumer"] == consumer.encode():
        return 0
    return SUSPECT_IDLE_MS if pending["times_delivered"] >= SUSPECT_AFTER else CLAIM_IDLE_MS


def _take(kind: Kind, consumer: str, pending: Sequence[_Pending]) -> list[Entry]:
    """Those of `pending` that nobody else took meanwhile. Redis counts the delivery first."""
    if not pending:
        return []
    counts = {p.id: p.deliveries + 1 for p in pending}
    least_idle_ms = min(p.idle_ms for p in pending)
    min_idle_ms = CLAIM_IDLE_MS if least_idle_ms >= CLAIM_IDLE_MS else 0
    claimed = client().xclaim(_key(kind), GROUP, consumer, min_idle_ms, [*counts])
    return _present(kind, cast(list[Any], claimed), counts)


def _read_new(kind: Kind, consumer: str, count: int) -> list[Entry]:
    reply = cast(
        list[Any],
        client().xreadgroup(GROUP, consumer, {_key(kind): ">"}, count=count),
    )
    return _present(kind, reply[0][1], {}) if reply else []


def _present(
    kind: Kind,
    pairs: Sequence[tuple[bytes, dict[bytes, bytes] | None]],
    deliveries: Mapping[bytes, int],
) -> list[Entry]:
    """The entries that still have a body; the others were stored and deleted, but not acked."""
    gone = [entry_id.decode() for entry_id, fields in pairs if not fields]
    if gone:
        _forget(kind, gone)
    return _entries(pairs, deliveries)


def _entries(
    pairs: Sequence[tuple[bytes, dict[bytes, bytes] | None]], deliveries: Mapping[bytes, int]
) -> list[Entry]:
    return [
        _entry(entry_id.decode(), fields, deliveries.get(entry_id, 1))
        for entry_id, fields in pairs
        if fields
    ]


def _entry(entry_id: str, fields: Mapping[bytes, bytes], deliveries: int) -> Entry:
    version, fleet = fields.get(b"v", b""), fields.get(b"f", b"")
    held = fields.get(_FIELDS.get(version, b""))
    if held is None or not _SMALL_NUMBER.fullmatch(fleet):
        return Entry(entry_id, None, 1, None, _joined(fields), deliveries)
    counted = fields.get(b"n", b"")
    count = int(counted) if _SMALL_NUMBER.fullmatch(counted) else 1
    # Nothing is done any more with the bytes of what kills.
    body = None if version != PLAIN and deliveries > MAX_DEATHS else _body(version, held)
    raw = _joined(fields) if body is None or isinstance(body, Packed) else b""
    return Entry(entry_id, int(fleet), count, body, raw, deliveries)


def _joined(fields: Mapping[bytes, bytes]) -> bytes:
    return b" ".join(name + b"=" + value for name, value in fields.items())


def _body(version: bytes, held: bytes) -> bytes | None:
    """None when that is not to be understood."""
    try:
        if version == COLUMNS:
            return Packed(decompress(held))
        return decompress(held) if version == COMPRESSED else held
    except ValueError:
        return None


def reread(raw: bytes) -> tuple[int, bytes] | None:
    """(fleet id, body) of an entry that was kept as it was: `Entry.raw`, in a dead letter.

    So a letter can be replayed that a flush of before, which did not know this format, has written.
    """
    entry = _KEPT_AS_IT_WAS.fullmatch(raw)
    if entry is None or _FIELDS.get(entry["v"]) != entry["name"]:
        return None
    body = _body(entry["v"], entry["held"])
    return None if body is None else (int(entry["f"]), body)


def _forget(kind: Kind, ids: Sequence[str]) -> None:
    pipe = client().pipeline(transaction=False)
    pipe.xdel(_key(kind), *ids)
    pipe.xack(_key(kind), GROUP, *ids)
    pipe.execute()
