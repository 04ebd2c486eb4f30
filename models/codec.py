"""The bytes of readings: a decoder made from models/kinds.py.

It accepts only lawful readings. The door uses it as its fast path (what it refuses goes to
marshmallow for the verdict), the flush uses it to read stream entries.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import msgspec

from models.kinds import DEVICE_ID_PATTERN, Kind

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
    fields: list[tuple[str, Any]] = [(kind.id_field, _DeviceId), ("timestamp", _Timestamp)]
    for measure in kind.measures:
        lawful = msgspec.Meta(ge=measure.low, le=measure.high)
        fields.append((measure.field, Annotated[float, lawful]))
    return msgspec.defstruct(f"{kind.name.title()}Reading", fields, forbid_unknown_fields=True)


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
def parts_of(kind: Kind) -> Callable[[Any], tuple[Any, ...]]:
    """A function from a decoded reading to (device id, timestamp, *values)."""
    return attrgetter(kind.id_field, "timestamp", *(m.field for m in kind.measures))
