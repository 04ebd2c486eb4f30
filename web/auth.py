"""Who is calling: a Bearer key becomes a fleet and scopes.

Keys are remembered for 30 s: revoking one takes effect within that time, and ingestion does not ask
PostgreSQL about every request. While PostgreSQL is away, keys already known keep working, so a
database outage does not turn readings away; unknown ones get 503 and may try again.
"""

from __future__ import annotations

import hmac
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from flask import g, request
from flask_smorest import Blueprint
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models import access
from models.access import KeyRecord
from models.engine import reading
from web.refusals import Refused

SCOPES = ("ingest", "read", "admin")
#: Revocation takes effect within this time.
REMEMBER_SECONDS = 30.0
#: Key ids remembered per process; a flood of invented ids starts the memory afresh.
MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request is made. The fleet comes from the key and from nowhere else."""

    key_id: str
    fleet_id: int
    scopes: frozenset[str]


class KeyRing:
    """A process's memory of key records, including of key ids that do not exist."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, KeyRecord | None]] = {}
        self._asking = threading.Lock()

    def find(self, key_id: str) -> KeyRecord | None:
        """The key's record, at most REMEMBER_SECONDS old unless PostgreSQL is away."""
        at, record = self._known.get(key_id, (0.0, None))
        if at and time.monotonic() - at < REMEMBER_SECONDS:
            return record
        if record is None:
            return self._ask(key_id)
        # One thread asks again, the others go on with what is known: a PostgreSQL that hangs
        # holds up one thread of the process and not its ingestion.
        if not self._asking.acquire(blocking=False):
            return record
        try:
            return self._ask(key_id)
        except (OperationalError, PoolTimeout):
            return record
        finally:
            self._asking.release()

    def _ask(self, key_id: str) -> KeyRecord | None:
        with reading() as conn:
            record = access.find_key(conn, key_id)
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[key_id] = (time.monotonic(), record)
        return record


def protect(blueprint: Blueprint, keys: KeyRing, scope: str) -> None:
    """Let only keys with `scope` into any route of `blueprint`; sets `g.caller`."""

    def authenticate() -> None:
        caller = identify(keys, request.headers.get("Authorization", ""))
        if scope not in caller.scopes:
            raise Refused("SCOPE_MISSING", f"This needs a key with the scope {scope}.")
        g.caller = caller

    blueprint.before_request(authenticate)


def identify(keys: KeyRing, authorization: str) -> Caller:
    """The caller behind an Authorization header. Raises Refused."""
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Refused("KEY_MISSING")
    parts = access.split(key.strip())
    record = keys.find(parts[0]) if parts and parts[0].isalnum() else None
    secret = access.digest(parts[1] if parts else key)
    # The comparison is made in any case: an unknown key id takes as long as a known one.
    same = hmac.compare_digest(secret, record.secret_sha256 if record else bytes(32))
    if record is None or not same or not _valid_now(record):
        raise Refused("KEY_INVALID")
    return Caller(record.key_id, record.fleet_id, record.scopes)


def _valid_now(record: KeyRecord) -> bool:
    if record.revoked_at is not None:
        return False
    return record.expires_at is None or record.expires_at > datetime.now(UTC)
