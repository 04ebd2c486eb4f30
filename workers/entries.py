"""Stream entries back into readings. The stream is input too: what is read is checked again.

There are two ways. Where every reading of a batch is lawful, which is the rule, the batch becomes
columns (`decode_plain`). Where one is not, readings come out one by one, each with the entry and
the place that a dead letter names (`decode`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

import msgspec
import numpy as np

from models import codec
from models.clock import from_us, to_us
from models.columns import Columns, Floats, Ints
from models.deadletters import Dead
from models.kinds import Kind
from models.packed import Packed, Sent, as_json, as_posted, unpack
from models.registry import Device
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

    #: Of each entry its fleet, and the device ids of its readings.
    senders: list[tuple[int, list[str]]]
    #: By fleet, each device id once.
    ids_of: Mapping[int, set[str]]
    recorded_us: Ints
    received_us: Ints
    values: tuple[Floats, ...]

    def devices(self) -> set[Device]:
        """Whoever sent one of them."""
        return {(fleet, device_id) for fleet, ids in self.ids_of.items() for device_id in ids}

    def columns(self, keys: Mapping[Device, int]) -> Columns:
        """With the devices' keys; each must have one."""
        keys_of: defaultdict[int, dict[str, int]] = defaultdict(dict)
        for (fleet, device_id), key in keys.items():
            keys_of[fleet][device_id] = key
        found = (map(keys_of[fleet].__getitem__, ids) for fleet, ids in self.senders)
        device_key = np.fromiter(chain.from_iterable(found), np.int32, len(self.recorded_us))
        return Columns(device_key, self.recorded_us, self.received_us, self.values)


def decode_plain(kind: Kind, entries: Sequence[Entry]) -> Plain | None:
    """The readings of some entries; None if one is not lawful: `decode` says which, and why."""
    try:
        parts = list(_parts(kind, entries))
    except (*codec.DECODE_ERRORS, ValueError, OverflowError):
        return None
    ids = list(chain.from_iterable(part.device_ids for part in parts))
    senders = [
        (entry.fleet_id, sent)
        for entry, sent in zip(entries, ids, strict=True)
        if entry.fleet_id is not None
    ]
    ids_of = _ids_by_fleet(senders)
    values = tuple(map(np.concatenate, zip(*(part.values for part in parts), strict=True)))
    lawful = all(map(codec.are_device_ids, ids_of.values())) and _are_in_range(kind, values)
    if len(senders) < len(entries) or not lawful:
        return None
    return Plain(
        senders,
        ids_of,
        np.concatenate([part.recorded_us for part in parts]),
        np.repeat([entry.received_us for entry in entries], list(map(len, ids))),
        values,
    )


class _Part(NamedTuple):
    """The readings of consecutive entries by columns, and the device ids of each entry."""

    device_ids: list[list[str]]
    recorded_us: Ints
    values: tuple[Floats, ...]


def _parts(kind: Kind, entries: Sequence[Entry]) -> Iterator[_Part]:
    """In the order of the entries. Raises `codec.DECODE_ERRORS`, ValueError and OverflowError."""
    for form, bodies in groupby([entry.body or b"" for entry in entries], type):
        if form is Packed:
            yield from (_out_of_columns(kind, body) for body in bodies)
        else:
            yield _out_of_json(kind, list(bodies))


def _out_of_columns(kind: Kind, body: bytes) -> _Part:
    sent = unpack(kind, body)
    for instant in (sent.recorded_us.min(), sent.recorded_us.max()):
        from_us(int(instant))  # raises OverflowError for what no calendar has
    return _Part([sent.device_ids], sent.recorded_us, sent.values)


def _out_of_json(kind: Kind, bodies: Sequence[bytes]) -> _Part:
    """All at once: most are small, and numpy takes its time for each array."""
    decoded = list(map(codec.plain_decoder(kind).decode, bodies))
    readings = list(chain.from_iterable(decoded))
    sent = Sent.of(kind, readings, codec.instants({reading.timestamp for reading in readings}))
    rest = iter(sent.device_ids)
    ids = [list(islice(rest, len(body))) for body in decoded]
    return _Part(ids, sent.recorded_us, sent.values)


def _are_in_range(kind: Kind, values: Sequence[Floats]) -> bool:
    """Whether each value lies in its measure's range. NaN does not."""
    columns = zip(kind.measures, values, strict=True)
    return all(bool(np.all((m.low <= column) & (column <= m.high))) for m, column in columns)


def _ids_by_fleet(senders: Iterable[tuple[int, list[str]]]) -> dict[int, set[str]]:
    ids_of: defaultdict[int, set[str]] = defaultdict(set)
    for fleet, ids in senders:
        ids_of[fleet].update(ids)
    return ids_of


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
