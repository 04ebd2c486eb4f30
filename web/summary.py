"""The last 24 hours of one vehicle, as beat has materialised them: the read that is asked most.

Requests that wait at the same moment share one question to PostgreSQL (docs/adr/0017).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from models import reads
from models.engine import Hotline, patience, reading
from models.kinds import VEHICLE
from web import headers
from web.answers import performance, performance_to_come
from web.auth import KeyRing, at_hand
from web.express import Answer, Express
from web.refusals import Refused
from web.rsgi import Asked
from web.schemas import is_device_id
from workers.shared_trip import LoopTrip

#: A summary is at most one rollup interval old; asking sooner than this brings nothing new.
MAX_AGE_SECONDS = 5
CACHE_CONTROL = f"private, max-age={MAX_AGE_SECONDS}"
#: A PostgreSQL that does not answer holds up those who wait for no longer.
PATIENCE_SECONDS = 5.0

#: (fleet id, vehicle id)
_Vehicle = tuple[int, str]
_Row = Mapping[str, Any]
#: Conditions that only Flask understands, and the one form of the usual one that is known here.
_CONDITIONS = ("if-match", "if-modified-since", "if-unmodified-since")
_ONE_TAG = re.compile(r'"[0-9a-f]{24}"')
_HEADERS = headers.kept(CACHE_CONTROL)
_HEADERS_UNCHANGED = [(name, value) for name, value in _HEADERS if name != "Content-Type"]


class Told(NamedTuple):
    """An answer's bytes; the tag changes whenever they do. No tag: ask again, it is on its way."""

    content: bytes
    etag: str | None


def tell(fleet_id: int, vehicle_id: str) -> Told:
    """A vehicle's summary. Raises Refused UNKNOWN_DEVICE."""
    if is_device_id(vehicle_id):
        with patience(PATIENCE_SECONDS), reading() as conn:
            row = reads.performance(conn, fleet_id, vehicle_id)
        if row is not None:
            return _told(row)
    if not _is_known(fleet_id, vehicle_id):
        raise Refused("UNKNOWN_DEVICE", f"No vehicle {vehicle_id} has ever sent a reading.")
    return Told(msgspec.json.encode(performance_to_come(vehicle_id)), None)


def _told(row: _Row) -> Told:
    content = msgspec.json.encode(performance(row))
    return Told(content, blake2b(content, digest_size=12).hexdigest())


def express(keys: KeyRing) -> Express:
    """GET /v1/analytics/performance/<vehicleId> without Flask; other windows are not for it."""

    async def take(asked: Asked, vehicle_id: str) -> Answer | None:
        caller = at_hand(keys, asked.only("authorization"), "read")
        if caller is None or not keys.quota.has_left(caller.key_id):
            return None
        if not is_device_id(vehicle_id) or not _is_plain(asked):
            return None
        row = await _trips.submit((caller.fleet_id, vehicle_id))
        if row is None:
            return None
        keys.quota.count_request(caller.key_id)
        content, etag = _told(row)
        tag = ("ETag", f'"{etag}"')
        if asked.only("if-none-match") == tag[1]:
            return Answer(304, [*_HEADERS_UNCHANGED, tag], b"")
        return Answer(200, [*_HEADERS, ("Content-Length", str(len(content))), tag], content)

    return take


def _is_plain(asked: Asked) -> bool:
    """Whether it asks for the last 24 hours, as they are or if they are others than before."""
    if asked.scope.query_string or any(name in asked.headers for name in _CONDITIONS):
        return False
    return "if-none-match" not in asked.headers or bool(
        _ONE_TAG.fullmatch(asked.only("if-none-match"))
    )


async def hang_up() -> None:
    """Close the event loop's connection."""
    await _hotline.close()


async def _look_up(wanted: list[_Vehicle]) -> Sequence[_Row | None]:
    with patience(PATIENCE_SECONDS):
        async with _hotline.open() as conn:
            found = await reads.performances(conn, wanted)
    return [found.get(one) for one in wanted]


#: One trip is under way at a time, so one connection is enough.
_hotline = Hotline()
_trips: LoopTrip[_Vehicle, _Row | None] = LoopTrip(_look_up)


def _is_known(fleet_id: int, vehicle_id: str) -> bool:
    if not is_device_id(vehicle_id):
        return False
    with reading() as conn:
        return reads.device_key(conn, VEHICLE, fleet_id, vehicle_id) is not None
