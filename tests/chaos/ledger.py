"""The truth of a run: what was sent, and what was promised. One file per sender, append-only.

S <number> <kind> <readings as JSON>     before the first try
A <number>                               after the 202, and on the disk before anything else
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.traffic import Reading

Values = tuple[float, ...]


class Ledger:
    """Written by one sender."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8")
        self.number = 0

    def sent(self, kind: str, readings: Iterable[Reading]) -> int:
        """Note what is about to be sent; the number by which to confirm it."""
        self.number += 1
        self.file.write(f"S {self.number} {kind} {json.dumps(list(readings))}\n")
        return self.number

    def acknowledged(self, number: int) -> None:
        """Note a 202. Returns when the note is on the disk."""
        self.file.write(f"A {number}\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Write what is buffered and close."""
        self.file.close()


@dataclass(slots=True)
class Device:
    """All that was sent of one device: values by instant, in the order of sending."""

    acknowledged: dict[int, list[Values]] = field(default_factory=dict)
    unconfirmed: dict[int, list[Values]] = field(default_factory=dict)

    def lawful(self, at_us: int) -> list[Values]:
        """The values that may stand in the database for this instant."""
        return self.acknowledged.get(at_us, []) + self.unconfirmed.get(at_us, [])


#: (kind, device id) -> what was sent of it
Sent = dict[tuple[str, str], Device]


def read(path: Path) -> Sent:
    """What a ledger says."""
    open_requests: dict[str, tuple[str, list[Reading]]] = {}
    found: Sent = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            what, number, *rest = line.split(" ", 3)
            if what == "S":
                readings = [Reading(d, at, tuple(values)) for d, at, values in json.loads(rest[1])]
                open_requests[number] = (rest[0], readings)
            else:
                _enter(found, *open_requests.pop(number.strip()), confirmed=True)
    for kind, readings in open_requests.values():
        _enter(found, kind, readings, confirmed=False)
    return found


def _enter(found: Sent, kind: str, readings: Iterable[Reading], *, confirmed: bool) -> None:
    for device_id, at_us, values in readings:
        device = found.setdefault((kind, device_id), Device())
        known = (device.acknowledged if confirmed else device.unconfirmed).setdefault(at_us, [])
        if values not in known:
            known.append(values)
