"""Stream entries back into readings. The stream is input too: what is read is checked again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from models import codec
from models.clock import from_us, rfc3339, to_us
from models.deadletters import Dead
from models.kinds import Kind
from workers.stream import Entry

WHOLE_ENTRY = -1


class Reading(NamedTuple):
    """A reading out of the stream, with where it came from."""

    fleet_id: int
    device_id: str
    recorded_us: int
    received_us: int
    values: tuple[float, ...]
    entry_id: str
    position: int

    def dead(self, kind: Kind, reason: str, detail: str) -> Dead:
        """This reading as a dead letter; its bytes can be posted again as they are."""
        raw: dict[str, Any] = {
            kind.id_field: self.device_id,
            **{m.field: v for m, v in zip(kind.measures, self.values, strict=True)},
            "timestamp": _spelled(self.recorded_us),
        }
        encoded = msgspec.json.encode(raw)
        return Dead(kind.name, self.entry_id, self.position, self.fleet_id, encoded, reason, detail)


def _spelled(micros: int) -> str:
    try:
        return rfc3339(from_us(micros))
    except OverflowError:  # before the year 1 or after 9999: only by hand past the door
        return f"{micros} us since 1970"


def decode(kind: Kind, entries: Sequence[Entry]) -> tuple[list[Reading], list[Dead]]:
    """(the readings of `entries`, what could not be read)."""
    readings: list[Reading] = []
    dead: list[Dead] = []
    for entry in entries:
        if entry.body is None or entry.fleet_id is None:
            dead.append(_unreadable(kind, entry, entry.raw, WHOLE_ENTRY, "unknown entry format"))
            continue
        try:
            decoded = list(enumerate(codec.decoder(kind).decode(entry.body)))
        except codec.DECODE_ERRORS:
            decoded = list(_one_by_one(kind, entry, dead))
        readings.extend(_readings(kind, entry, decoded))
    return readings, dead


def _readings(kind: Kind, entry: Entry, decoded: list[tuple[int, Any]]) -> Iterator[Reading]:
    parts_of, fleet_id, received_us = codec.parts_of(kind), entry.fleet_id or 0, entry.received_us
    for position, struct in decoded:
        device_id, timestamp, *values = parts_of(struct)
        yield Reading(
            fleet_id, device_id, to_us(timestamp), received_us, tuple(values), entry.id, position
        )


def _one_by_one(kind: Kind, entry: Entry, dead: list[Dead]) -> Iterator[tuple[int, Any]]:
    """The readable readings of a body that does not decode as a whole."""
    body = entry.body or b""
    try:
        items = msgspec.json.decode(body, type=list[msgspec.Raw])
    except codec.DECODE_ERRORS as error:
        dead.append(_unreadable(kind, entry, body, WHOLE_ENTRY, str(error)))
        return
    for position, item in enumerate(items):
        try:
            yield position, codec.one_decoder(kind).decode(item)
        except codec.DECODE_ERRORS as error:
            dead.append(_unreadable(kind, entry, bytes(item), position, str(error)))


def _unreadable(kind: Kind, entry: Entry, raw: bytes, position: int, detail: str) -> Dead:
    return Dead(kind.name, entry.id, position, entry.fleet_id, raw, "UNREADABLE", detail)
