"""The bytes of readings: a decoder made from models/kinds.py.

It accepts only lawful readings. The door uses it as its fast path (what it refuses goes to
marshmallow for the verdict), the flush uses it to read stream entries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import cache, lru_cache
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import msgspec

from models.clock import to_us
from models.kinds import DEVICE_ID_PATTERN, KINDS, Kind

_DeviceId = Annotated[str, msgspec.Meta(pattern=rf"^{DEVICE_ID_PATTERN}\Z")]
_Timestamp = Annotated[datetime, msgspec.Meta(tz=True)]


class Row(NamedTuple):
    """A reading on its way into history; `values` in the order of its kind's measures."""

    device_key: int
    recorded_us: int
    received_us: int
    values: tuple[float, ...]


@cache
def reading_type(kind: Kind) -> type[msgspec.Struct]:
    """A struct with exactly the kind's public fields, each with its lawful range."""
    fields = [(kind.id_field, _DeviceId), ("timestamp", _Timestamp), *_measures(kind)]
    return msgspec.defstruct(f"{kind.name.title()}Reading", fields, forbid_unknown_fields=True)


def _measures(kind: Kind) -> list[tuple[str, Any]]:
    return [(m.field, Annotated[float, msgspec.Meta(ge=m.low, le=m.high)]) for m in kind.measures]


@cache
def decoder(kind: Kind) -> msgspec.json.Decoder[list[Any]]:
    """Decodes a JSON array of readings; raises for anything unlawful (see `DECODE_ERRORS`)."""
    return msgspec.json.Decoder(list[reading_type(kind)])  # type: ignore[misc]


@cache
def one_decoder(kind: Kind) -> msgspec.json.Decoder[Any]:
    """Decodes one JSON object; raises for anything unlawful (see `DECODE_ERRORS`)."""
    return msgspec.json.Decoder(reading_type(kind))


#: What the decoders raise: bad JSON, unlawful values, bytes that are not UTF-8, endless nesting.
DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


@cache
def plain_decoder(kind: Kind) -> msgspec.json.Decoder[list[Any]]:
    """As `decoder`, three times as fast: device ids and timestamps are left as they are spelled.

    Those of many are judged together: `are_device_ids`, `instants`. The attributes are `device_id`,
    `timestamp`, and the measures' `first`, `second` and so on (`MEASURES_OF`).
    """
    measures = list(zip(_PLACES, _measures(kind), strict=False))
    fields: list[tuple[str, Any]] = [("device_id", str), ("timestamp", str)]
    plain = msgspec.defstruct(
        f"Plain{kind.name.title()}",
        [*fields, *((place, type_) for place, (_, type_) in measures)],
        rename={"device_id": kind.id_field} | {place: field for place, (field, _) in measures},
        forbid_unknown_fields=True,
        gc=False,  # it holds nothing that could hold it
    )
    return msgspec.json.Decoder(list[plain])  # type: ignore[valid-type]


_PLACES = ("first", "second", "third")
#: Of many plain readings the measure at each place. Written out, because Python finds an attribute
#: whose name stands in the code three times as fast as one that is only known when it runs.
MEASURES_OF: tuple[Callable[[Sequence[Any]], list[float]], ...] = (
    lambda readings: [reading.first for reading in readings],
    lambda readings: [reading.second for reading in readings],
    lambda readings: [reading.third for reading in readings],
)
assert max(len(kind.measures) for kind in KINDS.values()) <= len(MEASURES_OF)  # noqa: S101

_device_ids = re.compile(rf"{DEVICE_ID_PATTERN}(?:\n{DEVICE_ID_PATTERN})*", re.ASCII)
_timestamps_decoder = msgspec.json.Decoder(list[_Timestamp])


def are_device_ids(lines: str, count: int) -> bool:
    """Whether these are so many lawful device ids, one a line."""
    if not lines.isascii() or lines.count("\n") + 1 != count:
        return False
    remembered = _REMEMBERED_BYTES[0] <= len(lines) <= _REMEMBERED_BYTES[1]
    return _are_device_ids(lines) if remembered else _device_ids.fullmatch(lines) is not None


#: A gateway names the same devices, in the same order, time after time. Shorter lists are judged as
#: quickly as they are found, longer ones would take too much memory: 4 MB at most.
_REMEMBERED_BYTES = 512, 16_384


@lru_cache(maxsize=256)
def _are_device_ids(lines: str) -> bool:
    return _device_ids.fullmatch(lines) is not None


def instants(spelled: Collection[str]) -> dict[str, int]:
    """Microseconds since 1970 by the timestamp that says so; raises (see `DECODE_ERRORS`)."""
    if len(spelled) == 1:
        (only,) = spelled
        if len(only) <= _REMEMBERED_TIMESTAMP:
            return {only: _instant(only)}
    return dict(zip(spelled, _decoded(tuple(spelled)), strict=True))


#: Characters; nobody needs more, and whoever sends a thousand zeros shall not have them kept.
_REMEMBERED_TIMESTAMP = 40


@lru_cache(maxsize=1_024)  # the same second comes from many devices, and comes again in the flush
def _instant(spelled: str) -> int:
    (only,) = _decoded((spelled,))
    return only


def _decoded(spelled: tuple[str, ...]) -> list[int]:
    return list(map(to_us, _timestamps_decoder.decode(msgspec.json.encode(spelled))))


@cache
def parts_of(kind: Kind) -> Callable[[Any], tuple[Any, ...]]:
    """A function from a decoded reading to (device id, timestamp, *values)."""
    return attrgetter(kind.id_field, "timestamp", *(m.field for m in kind.measures))
