"""The last 24 hours of one vehicle, as beat has materialised them: the read that is asked most.

What was told is kept until it changes (web/kept.py). Requests that wait at the same moment for what
is not share one question to PostgreSQL (docs/adr/0017).
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
from models.registry import Device
from web import headers
from web.answers import performance, performance_to_come
from web.auth import KeyRing, at_hand
from web.express import Answer, Express
from web.kept import Kept
from web.refusals import Refused
from web.rsgi import Asked
from web.schemas import is_device_id
from workers.shared_trip import LoopTrip

#: A summary is at most one rollup interval old; asking sooner than this brings nothing new.
MAX_AGE_SECONDS = 5
CACHE_CONTROL = f"private, max-age={MAX_AGE_SECONDS}"
#: A PostgreSQL that does not answer holds up those who wait for no longer.
PATIENCE_SECONDS = 5.0

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
            if reads.device_key(conn, VEHICLE, fleet_id, vehicle_id) is not None:
                return Told(msgspec.json.encode(performance_to_come(vehicle_id)), None)
    raise Refused("UNKNOWN_DEVICE", f"No vehicle {vehicle_id} has ever sent a reading.")


def _told(row: _Row) -> Told:
    content = msgspec.json.encode(performance(row))
    return Told(content, blake2b(content, digest_size=12).hexdigest())


class _Shown(NamedTuple):
    """A summary as the express tells it: to whoever asks, and to whoever has it already."""

    tag: str
    whole: Answer
    unchanged: Answer


def express(keys: KeyRing) -> Express:
    """GET /v1/analytics/performance/<vehicleId> without Flask; other windows are not for it."""

    async def take(asked: Asked, vehicle_id: str) -> Answer | None:
        caller = at_hand(keys, asked.only("authorization"), "read")
        if caller is None or not keys.quota.has_left(caller.key_id):
            return None
        has = asked.only("if-none-match")
        if not is_device_id(vehicle_id) or not _is_plain(asked, has):
            return None
        _kept.listen()
        vehicle = (caller.fleet_id, vehicle_id)
        shown = _kept.find(vehicle) or await _trips.submit(vehicle)
        if shown is None:
            return None
        keys.quota.count_request(caller.key_id)
        return shown.unchanged if has == shown.tag else shown.whole

    return take


def _is_plain(asked: Asked, has: str) -> bool:
    """Whether it asks for the last 24 hours, as they are or if they are others than before."""
    if asked.scope.query_string or any(condition in asked.headers for condition in _CONDITIONS):
        return False
    return bool(_ONE_TAG.fullmatch(has)) if has else "if-none-match" not in asked.headers


def _shown(row: _Row) -> _Shown:
    content, etag = _told(row)
    tag = f'"{etag}"'
    length = ("Content-Length", str(len(content)))
    return _Shown(
        tag,
        Answer(200, [*_HEADERS, length, ("ETag", tag)], content),
        Answer(304, [*_HEADERS_UNCHANGED, ("ETag", tag)], b""),
    )


async def hang_up() -> None:
    """Close the event loop's connections."""
    await _kept.close()
    await _hotline.close()


async def _look_up(wanted: list[Device]) -> Sequence[_Shown | None]:
    read_after = _kept.news
    with patience(PATIENCE_SECONDS):
        async with _hotline.open() as conn:
            rows = await reads.performances(conn, wanted)
    found = {vehicle: _shown(row) for vehicle, row in rows.items()}
    for vehicle, shown in found.items():
        _kept.keep(vehicle, rows[vehicle]["vehicle_key"], shown, read_after=read_after)
    return [found.get(vehicle) for vehicle in wanted]


#: One trip is under way at a time, so one connection is enough.
_hotline = Hotline()
_trips: LoopTrip[Device, _Shown | None] = LoopTrip(_look_up)
_kept: Kept[_Shown] = Kept()
