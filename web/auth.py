"""Who is calling: a Bearer key becomes a fleet and scopes.

Keys are remembered for 30 s: revoking one takes effect within that time, and ingestion does not ask
PostgreSQL about every request. While PostgreSQL is away, keys already known keep working, so a
database outage does not turn readings away; unknown ones get 503 and may try again. Key ids that
do not exist are remembered apart and asked for only so often: who tries many keys evicts nobody's,
and costs PostgreSQL little.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import psycopg
import structlog
from flask import Response, g, request
from flask_smorest import Blueprint
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

import settings
from models import access, capacity
from models.access import KeyRecord
from models.engine import patience, reading
from web.quota import Bucket, Quota
from web.refusals import Refused
from workers.shared_trip import SharedTrip

log = structlog.get_logger(__name__)

T = TypeVar("T")

SCOPES = ("ingest", "read", "admin")
#: Revocation takes effect within this time.
REMEMBER_SECONDS = 30.0
#: Keys remembered per process, and invented key ids; with more, the memory starts afresh.
MAX_REMEMBERED = 10_000
#: A PostgreSQL that does not answer holds up those whose key is unknown for no longer.
PATIENCE_SECONDS = 5.0
#: Key ids never seen before that a process asks PostgreSQL about, each second.
STRANGERS_PER_SECOND = 200.0


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request is made. The fleet comes from the key and from nowhere else."""

    key_id: str
    fleet_id: int
    scopes: frozenset[str]
    #: By kind, when the fleet can register no further devices of it: the ids of those it has.
    full_registries: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Known:
    """A key's record and how its fleet is doing, as of `at` (monotonic seconds)."""

    at: float
    key: KeyRecord
    caller: Caller

    @property
    def is_fresh(self) -> bool:
        """Whether it need not be asked for again."""
        return time.monotonic() - self.at < REMEMBER_SECONDS


class KeyRing:
    """A process's memory of keys, of key ids that do not exist, and of what each key has left."""

    def __init__(self) -> None:
        self.quota = Quota()
        self._known: dict[str, Known] = {}
        self._unknown: dict[str, float] = {}
        self._asking = threading.Lock()
        self._strangers = Bucket(STRANGERS_PER_SECOND, time.monotonic())
        self._introductions: SharedTrip[str, Known | None] = SharedTrip(self._introduce)

    def find(self, key_id: str) -> Known | None:
        """What is known of a key, at most REMEMBER_SECONDS old unless PostgreSQL is away."""
        record = self._known.get(key_id)
        if record is None:
            at = self._unknown.get(key_id)
            if at is not None and time.monotonic() - at < REMEMBER_SECONDS:
                return None
            return self._introductions.submit(key_id)
        if record.is_fresh:
            return record
        # One thread asks again, the others go on with what is known: a PostgreSQL that hangs
        # holds up one thread of the process and not its ingestion.
        if not self._asking.acquire(blocking=False):
            return record
        try:
            return self._ask(key_id)
        except (OperationalError, psycopg.OperationalError, PoolTimeout):
            return record
        finally:
            self._asking.release()

    def at_hand(self, key_id: str) -> Known | None:
        """The same, if nobody has to be asked."""
        record = self._known.get(key_id)
        if record is None:
            return None
        return record if record.is_fresh or self._asking.locked() else None

    def _introduce(self, key_ids: Sequence[str]) -> list[Known | Exception | None]:
        """For each key id never seen before: who it is. Asked once, however many ask at a time.

        After a start all senders are strangers at once, and would wait for the pool's connections.
        """
        with patience(PATIENCE_SECONDS):
            found = {key_id: self._introduced(key_id) for key_id in dict.fromkeys(key_ids)}
        return [found[key_id] for key_id in key_ids]

    def _introduced(self, key_id: str) -> Known | Exception | None:
        try:  # the trip before may have met it
            return self._known.get(key_id) or self._ask_about_stranger(key_id)
        except Refused as refused:  # concerns this one; any other error concerns all who wait
            return refused

    def _ask_about_stranger(self, key_id: str) -> Known | None:
        # Without a lock: a miscount among threads is no matter.
        if self._strangers.level(time.monotonic()) < 1:
            raise Refused("RATE_LIMITED", "Many unknown keys are being tried.", retry_after=1)
        self._strangers.use(1)
        self._strangers.settle(time.monotonic(), 0)
        return self._ask(key_id)

    def _ask(self, key_id: str) -> Known | None:
        most = settings.load().max_devices_per_fleet
        with reading() as conn:
            key = access.find_key(conn, key_id)
            sends = key is not None and "ingest" in key.scopes
            full = capacity.full_registries(conn, key.fleet_id, most) if key and sends else {}
        if key is None:
            self._known.pop(key_id, None)
            _remember(self._unknown, key_id, time.monotonic())
            return None
        if full:
            log.warning("registry full", fleet=key.fleet, kinds=sorted(full), most=most)
        caller = Caller(key.key_id, key.fleet_id, key.scopes, full)
        return _remember(self._known, key_id, Known(time.monotonic(), key, caller))


def _remember(memory: dict[str, T], key_id: str, what: T) -> T:
    if len(memory) >= MAX_REMEMBERED:
        memory.clear()
    memory[key_id] = what
    return what


def protect(blueprint: Blueprint, keys: KeyRing, scope: str) -> None:
    """Let only keys with `scope` into any route of `blueprint`; sets `g.caller`."""

    def authenticate() -> None:
        g.caller = admit(keys, request.headers.get("Authorization", ""), scope)

    def audit(response: Response) -> Response:
        caller = g.get("caller")
        if caller is not None and request.method not in {"GET", "HEAD", "OPTIONS"}:
            log.info(
                "change",
                audit=True,
                key=caller.key_id,
                fleet=caller.fleet_id,
                method=request.method,
                path=request.path,
                status=response.status_code,
            )
        return response

    blueprint.before_request(authenticate)
    if scope == "admin":
        blueprint.after_request(audit)


def admit(keys: KeyRing, authorization: str, scope: str) -> Caller:
    """The caller behind an Authorization header, who may make this request. Raises Refused."""
    caller = identify(keys, authorization)
    if scope not in caller.scopes:
        raise Refused("SCOPE_MISSING", f"This needs a key with the scope {scope}.")
    keys.quota.admit(caller.key_id)
    return caller


def at_hand(keys: KeyRing, authorization: str, scope: str) -> Caller | None:
    """The same caller, if that can be said without asking anybody. None: `admit` has to decide."""
    parts = access.split(_sent_key(authorization).strip())
    known = keys.at_hand(parts[0]) if parts else None
    if parts is None or known is None or scope not in known.caller.scopes:
        return None
    return known.caller if _proves(parts[1], known) else None


def identify(keys: KeyRing, authorization: str) -> Caller:
    """The caller behind an Authorization header. Raises Refused."""
    key = _sent_key(authorization)
    if not key:
        raise Refused("KEY_MISSING")
    parts = access.split(key.strip())
    known = keys.find(parts[0]) if parts and parts[0].isalnum() else None
    if not _proves(parts[1] if parts else key, known) or known is None:
        raise Refused("KEY_INVALID")
    return known.caller


def _sent_key(authorization: str) -> str:
    """The key in an Authorization header; nothing if there is none."""
    scheme, _, key = authorization.partition(" ")
    return key if scheme.lower() == "bearer" else ""


def _proves(secret: str, known: Known | None) -> bool:
    """Whether this is the secret of a key that is good now.

    The comparison is made in any case: an unknown key id takes as long as a known one.
    """
    expected = known.key.secret_sha256 if known else bytes(32)
    same = hmac.compare_digest(access.digest(secret), expected)
    return same and known is not None and _valid_now(known.key)


def _valid_now(record: KeyRecord) -> bool:
    if record.revoked_at is not None:
        return False
    return record.expires_at is None or record.expires_at > datetime.now(UTC)
