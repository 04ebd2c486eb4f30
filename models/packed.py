"""Many readings of one request as bytes, by columns: how a batch waits in the stream.

The door has every value in its hands; written down as they are in memory they need not be read out
of JSON a second time, and take a third of the room (docs/adr/0022). The form, little-endian:

    count       uint64
    instants    int64[count]        microseconds since 1970
    values      float64[count]      for each measure, in the order of its kind's
    device ids  UTF-8, one a line   as the sender calls its devices
"""

from __future__ import annotations

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

#: Fewer readings are not worth the packing: as JSON an operator can read them.
MIN_READINGS = 32

_COUNT = struct.Struct("<Q")
_INSTANT, _VALUE = np.dtype("<i8"), np.dtype("<f8")


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A request's readings by columns; `values` in the order of the kind's measures."""

    device_ids: list[str]
    recorded_us: Ints
    values: tuple[Floats, ...]

    @classmethod
    def of(cls, kind: Kind, readings: Sequence[Any], instants: Mapping[str, int]) -> Sent:
        """What `codec.plain_decoder` decoded; `instants` in microseconds, by what says them."""
        count = len(readings)
        return cls(
            [reading.device_id for reading in readings],
            _instants(readings, instants),
            tuple(
                np.fromiter(of(readings), np.float64, count)
                for of, _ in zip(MEASURES_OF, kind.measures, strict=False)
            ),
        )


def _instants(readings: Sequence[Any], instants: Mapping[str, int]) -> Ints:
    if len(instants) == 1:  # what a gateway has read, at one moment
        (only,) = instants.values()
        return np.full(len(readings), only, np.int64)
    said = map(instants.__getitem__, [reading.timestamp for reading in readings])
    return np.fromiter(said, np.int64, len(readings))


def pack(sent: Sent) -> bytes:
    """Bytes that `unpack` understands; device ids must be lawful (codec.are_device_ids)."""
    numbers = [sent.recorded_us.astype(_INSTANT, copy=False).tobytes()]
    numbers += [column.astype(_VALUE, copy=False).tobytes() for column in sent.values]
    ids = "\n".join(sent.device_ids).encode()
    return b"".join([_COUNT.pack(len(sent.device_ids)), *numbers, ids])


def unpack(kind: Kind, packed: bytes) -> Sent:
    """Raises ValueError for what `pack` has not made; what was in it is not judged again."""
    try:
        (count,) = _COUNT.unpack_from(packed)
    except struct.error as error:
        raise ValueError(f"not packed: {error}") from error
    if not 0 < count <= len(packed):
        raise ValueError(f"{count} readings in {len(packed)} bytes")
    begins = [_COUNT.size + count * 8 * place for place in range(len(kind.measures) + 2)]
    instants = np.frombuffer(packed, _INSTANT, count, begins[0])
    values = (np.frombuffer(packed, _VALUE, count, begin) for begin in begins[1:-1])
    device_ids = packed[begins[-1] :].decode().split("\n")
    if len(device_ids) != count:
        raise ValueError(f"{len(device_ids)} devices for {count} readings")
    return Sent(device_ids, instants, tuple(values))


def to_json(kind: Kind, sent: Sent) -> bytes:
    """The same as the JSON array that may be posted; what is no lawful value stays unlawful."""
    fields = kind.id_field, *(m.field for m in kind.measures), "timestamp"
    values = (column.tolist() for column in sent.values)
    spelled_instants = map(spelled, sent.recorded_us.tolist())
    rows = zip(sent.device_ids, *values, spelled_instants, strict=True)
    return msgspec.json.encode([dict(zip(fields, row, strict=True)) for row in rows])


def spelled(micros: int) -> str:
    """An instant as a reading says it; in words when no calendar has it."""
    try:
        return rfc3339(from_us(micros))
    except OverflowError:  # before the year 1 or after 9999: only by hand past the door
        return f"{micros} us since 1970"
