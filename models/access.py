"""API keys: made, found, listed, revoked. Only the SHA-256 of a secret is ever stored."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from models.registry import ApiKey, Fleet

#: Lets secret scanners and people recognise a key of this product.
PREFIX = "eie"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of a key, without its secret."""

    key_id: str
    fleet_id: int
    fleet: str
    name: str
    scopes: frozenset[str]
    secret_sha256: bytes
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


_RECORD = (
    select(
        ApiKey.key_id,
        ApiKey.fleet_id,
        Fleet.name.label("fleet"),
        ApiKey.name,
        ApiKey.scopes,
        ApiKey.secret_sha256,
        ApiKey.created_at,
        ApiKey.expires_at,
        ApiKey.revoked_at,
    )
    .join(Fleet, Fleet.id == ApiKey.fleet_id)
    .order_by(ApiKey.created_at, ApiKey.key_id)
)


def digest(secret: str) -> bytes:
    """The stored form of a secret; 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).digest()


def split(key: str) -> tuple[str, str] | None:
    """(key id, secret) of `eie_<key id>_<secret>`; None for anything else."""
    parts = key.split("_", 2)
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == PREFIX else None  # noqa: PLR2004


def create_key(
    conn: Connection, *, fleet: str, name: str, scopes: Sequence[str], expires_at: datetime | None
) -> str:
    """A new key of `fleet` (made when it does not exist). The secret is in no other place."""
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    conn.execute(insert(Fleet).values(name=fleet).on_conflict_do_nothing())
    fleet_id = conn.execute(select(Fleet.id).where(Fleet.name == fleet)).scalar_one()
    conn.execute(
        insert(ApiKey).values(
            key_id=key_id,
            fleet_id=fleet_id,
            name=name,
            scopes=list(scopes),
            secret_sha256=digest(secret),
            expires_at=expires_at,
        )
    )
    return f"{PREFIX}_{key_id}_{secret}"


def rotate_key(
    conn: Connection, key_id: str, *, old_until: datetime, expires_at: datetime | None
) -> str | None:
    """A new key like this one, which itself expires at `old_until`; None when it is not valid.

    Both are valid meanwhile. A key that would have expired sooner still does.
    """
    ends = func.least(func.coalesce(ApiKey.expires_at, old_until), old_until)
    statement = (
        update(ApiKey)
        .where(
            ApiKey.key_id == key_id,
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
        )
        .values(expires_at=ends)
    )
    if conn.execute(statement).rowcount == 0:
        return None
    old = find_key(conn, key_id)
    assert old is not None  # noqa: S101  (updated just now, in this transaction)
    return create_key(
        conn, fleet=old.fleet, name=old.name, scopes=sorted(old.scopes), expires_at=expires_at
    )


def find_key(conn: Connection, key_id: str) -> KeyRecord | None:
    """The key with this id, revoked or not."""
    row = conn.execute(_RECORD.where(ApiKey.key_id == key_id)).one_or_none()
    return None if row is None else _record(row._asdict())


def list_keys(conn: Connection) -> list[KeyRecord]:
    """All keys, oldest first."""
    return [_record(row._asdict()) for row in conn.execute(_RECORD)]


def revoke_key(conn: Connection, key_id: str) -> bool:
    """Whether there was such a key that was not revoked yet."""
    statement = (
        update(ApiKey)
        .where(ApiKey.key_id == key_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )
    return conn.execute(statement).rowcount == 1


def _record(row: dict[str, object]) -> KeyRecord:
    scopes = row.pop("scopes")
    assert isinstance(scopes, list)  # noqa: S101  (an array column)
    return KeyRecord(**row, scopes=frozenset(scopes))  # type: ignore[arg-type]
