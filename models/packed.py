"""Many readings of one request as bytes, by columns: how a batch waits in the stream.

The door has every value in its hands; written down as they are in memory they need not be read out
of JSON a second time, and take a third of the room (docs/adr/0022). The form, little-endian:

    count       uint32              of readings
    width       uint32              how many values each has
    instants    int64[count]        microseconds since 1970
    values      float64[count]      for each measure, in the order of its kind's
    device ids  UTF-8, one a line   as the sender calls its devices
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from models.clock import from_us, rfc3339
from models.codec import MEASURES_OF
from models.columns import Floats, Ints
from models.kinds import Kind

#: Fewer cost more to pack than is saved (docs/adr/0022). More would come near
#: to what an entry may be inflated to (workers/compression.py).
MIN_READINGS, MAX_READINGS = 64, 100_000

_HEAD = struct.Struct("<II")
_INSTANT, _VALUE = np.dtype("<i8"), np.dtype("<f8")


class Packed(bytes):
    """Readings as bytes by columns. Other bytes that hold readings are a JSON array of them."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A request's readings by columns; `values` in the order of the kind's measures."""

    #: Device ids, UTF-8, one a line.
    roster: bytes
    recorded_us: Ints
    values: tuple[Floats, ...]


def numbers_of(
    kind: Kind, readings: Sequence[Any], instants: Mapping[str, int]
) -> tuple[Ints, tuple[Floats, ...]]:
    """(recorded_us, values) of what `codec.plain_decoder` decoded.

    `instants` are microseconds since 1970, by what says them.
    """
    columns = (of(readings) for of, _ in zip(MEASURES_OF, kind.measures, strict=False))
    packed = (struct.pack(f"{len(column)}d", *column) for column in columns)
    values = (np.frombuffer(column) for column in packed)  # half of what np.fromiter takes
    return _instants(readings, instants), tuple(values)


def _instants(readings: Sequence[Any], instants: Mapping[str, int]) -> Ints:
    if len(instants) == 1:  # what a gateway has read, at one moment
        (only,) = instants.values()
        return np.full(len(readings), only, np.int64)
    said = map(instants.__getitem__, [reading.timestamp for reading in readings])
    return np.fromiter(said, np.int64, len(readings))


def pack(sent: Sent) -> Packed:
    """Bytes that `unpack` understands; device ids must be lawful (codec.are_device_ids)."""
    numbers = [sent.recorded_us.astype(_INSTANT, copy=False).tobytes()]
    numbers += [column.astype(_VALUE, copy=False).tobytes() for column in sent.values]
    head = _HEAD.pack(len(sent.recorded_us), len(sent.values))
    return Packed(b"".join([head, *numbers, sent.roster]))


def unpack(kind: Kind, packed: bytes) -> Sent:
    """Raises ValueError for what `pack` has not made; what was in it is not judged again."""
    try:
        count, width = _HEAD.unpack_from(packed)
    except struct.error as error:
        raise ValueError(f"not packed: {error}") from error
    if not count or width != len(kind.measures):
        raise ValueError(f"{count} readings of {width} values")
    begins = [_HEAD.size + count * 8 * place for place in range(width + 2)]
    instants = np.frombuffer(packed, _INSTANT, count, begins[0])
    values = (np.frombuffer(packed, _VALUE, count, begin) for begin in begins[1:-1])
    roster = packed[begins[-1] :]
    if (lines := roster.count(b"\n") + 1) != count:
        raise ValueError(f"{lines} devices for {count} readings")
    return Sent(roster, instants, tuple(values))


def device_ids(roster: bytes) -> list[str]:
    """Whose readings they are, one by one."""
    # What is no text becomes an id that is not lawful, and costs its neighbours nothing.
    return roster.decode(errors="replace").split("\n")


def as_json(kind: Kind, body: bytes) -> bytes:
    """Readings as the JSON array that may be posted; what is no lawful value stays unlawful.

    Raises ValueError for columns that cannot be unpacked.
    """
    if not isinstance(body, Packed):
        return body
    sent = unpack(kind, body)
    values = zip(*(column.tolist() for column in sent.values), strict=True)
    rows = zip(device_ids(sent.roster), sent.recorded_us.tolist(), values, strict=True)
    return msgspec.json.encode([as_posted(kind, *row) for row in rows])


def as_posted(
    kind: Kind, device_id: str, recorded_us: int, values: Sequence[float]
) -> dict[str, Any]:
    """One reading as it may be posted; what is no lawful value is said in words."""
    measured = {m.field: _finite(v) for m, v in zip(kind.measures, values, strict=True)}
    return {kind.id_field: device_id, **measured, "timestamp": _spelled(recorded_us)}


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no such numbers


def _spelled(micros: int) -> str:
    try:
        return rfc3339(from_us(micros))
    except OverflowError:  # before the year 1 or after 9999: only by hand past the door
        return f"{micros} us since 1970"
