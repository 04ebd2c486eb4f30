"""Stream entries back into readings. The stream is input too: what is read is checked again.

There are two ways. Where every reading of a batch is lawful, which is the rule, the batch becomes
columns (`decode_plain`). Where one is not, readings come out one by one, each with the entry and
the place that a dead letter names (`decode`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, NamedTuple

import msgspec
import numpy as np

from models import codec
from models.clock import from_us, to_us
from models.columns import Columns, Floats, Ints
from models.deadletters import Dead
from models.kinds import Kind
from models.packed import Packed, as_json, as_posted, numbers_of, unpack
from workers.devices import Roster
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
        posted = as_posted(kind, self.device_id, self.recorded_us, self.values)
        encoded = msgspec.json.encode(posted)
        return Dead(kind.name, self.entry_id, self.position, self.fleet_id, encoded, reason, detail)


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """The readings of entries with which nothing is wrong, by columns."""

    #: Whose they are, in the order of the readings.
    rosters: list[Roster]
    recorded_us: Ints
    received_us: Ints
    values: tuple[Floats, ...]

    def columns(self, device_key: Ints) -> Columns:
        """With the devices' keys, one for each reading."""
        return Columns(device_key, self.recorded_us, self.received_us, self.values)


def decode_plain(kind: Kind, entries: Sequence[Entry]) -> Plain | None:
    """The readings of some entries; None if one is not lawful: `decode` says which, and why.

    Device ids are not judged here, but where their keys are found (workers/devices.py).
    """
    if any(entry.body is None or entry.fleet_id is None for entry in entries):
        return None
    try:
        parts = list(_parts(kind, entries))
    except (*codec.DECODE_ERRORS, ValueError, OverflowError):
        return None
    values = tuple(map(np.concatenate, zip(*(part.values for part in parts), strict=True)))
    if not _are_in_range(kind, values):
        return None
    counts = list(chain.from_iterable(part.counts for part in parts))
    return Plain(
        list(chain.from_iterable(part.rosters for part in parts)),
        np.concatenate([part.recorded_us for part in parts]),
        np.repeat([entry.received_us for entry in entries], counts),
        values,
    )


class _Part(NamedTuple):
    """The readings of consecutive entries by columns, and how many each entry has."""

    rosters: list[Roster]
    counts: list[int]
    recorded_us: Ints
    values: tuple[Floats, ...]


def _parts(kind: Kind, entries: Sequence[Entry]) -> Iterator[_Part]:
    """In the order of the entries. Raises `codec.DECODE_ERRORS`, ValueError and OverflowError."""
    for form, some in groupby(entries, lambda entry: type(entry.body)):
        if form is Packed:
            yield from (_out_of_columns(kind, entry) for entry in some)
        else:
            yield _out_of_json(kind, list(some))


def _out_of_columns(kind: Kind, entry: Entry) -> _Part:
    sent = unpack(kind, entry.body or b"")
    for instant in (sent.recorded_us.min(), sent.recorded_us.max()):
        from_us(int(instant))  # raises OverflowError for what no calendar has
    roster = Roster(entry.fleet_id or 0, sent.roster)
    return _Part([roster], [len(sent.recorded_us)], sent.recorded_us, sent.values)


def _out_of_json(kind: Kind, entries: Sequence[Entry]) -> _Part:
    """All at once: most are small, and numpy takes its time for each array."""
    decode_one = codec.plain_decoder(kind).decode
    decoded = [decode_one(entry.body or b"") for entry in entries]
    readings = list(chain.from_iterable(decoded))
    instants = codec.instants({reading.timestamp for reading in readings})
    pairs = zip(entries, decoded, strict=True)
    rosters = [
        _roster(fleet_id or 0, [reading.device_id for _, sent in some for reading in sent])
        for fleet_id, some in groupby(pairs, lambda pair: pair[0].fleet_id)
    ]
    return _Part(rosters, list(map(len, decoded)), *numbers_of(kind, readings, instants))


def _roster(fleet_id: int, device_ids: Sequence[str]) -> Roster:
    """Raises ValueError when an id is so unlawful that it would be taken for two."""
    lines = "\n".join(device_ids)
    if lines.count("\n") + 1 != len(device_ids):
        raise ValueError(f"{len(device_ids)} device ids are not one a line")
    return Roster(fleet_id, lines.encode())


def _are_in_range(kind: Kind, values: Sequence[Floats]) -> bool:
    """Whether each value lies in its measure's range. NaN does not."""
    columns = zip(kind.measures, values, strict=True)
    return all(bool(np.all((m.low <= column) & (column <= m.high))) for m, column in columns)


def decode(kind: Kind, entries: Sequence[Entry]) -> tuple[list[Reading], list[Dead]]:
    """(the readings of `entries`, what could not be read)."""
    readings: list[Reading] = []
    dead: list[Dead] = []
    for entry in entries:
        if entry.body is None or entry.fleet_id is None:
            dead.append(_unreadable(kind, entry, entry.raw, WHOLE_ENTRY, "unknown entry format"))
            continue
        try:
            body = as_json(kind, entry.body)
        except ValueError as error:
            dead.append(_unreadable(kind, entry, entry.raw, WHOLE_ENTRY, str(error)))
            continue
        try:
            decoded = list(enumerate(codec.decoder(kind).decode(body)))
        except codec.DECODE_ERRORS:
            decoded = list(_one_by_one(kind, entry, body, dead))
        readings.extend(_readings(kind, entry, decoded))
    return readings, dead


def _readings(kind: Kind, entry: Entry, decoded: list[tuple[int, Any]]) -> Iterator[Reading]:
    parts_of, fleet_id, received_us = codec.parts_of(kind), entry.fleet_id or 0, entry.received_us
    for position, struct in decoded:
        device_id, timestamp, *values = parts_of(struct)
        yield Reading(
            fleet_id, device_id, to_us(timestamp), received_us, tuple(values), entry.id, position
        )


def _one_by_one(
    kind: Kind, entry: Entry, body: bytes, dead: list[Dead]
) -> Iterator[tuple[int, Any]]:
    """The readable readings of a body that does not decode as a whole."""
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
