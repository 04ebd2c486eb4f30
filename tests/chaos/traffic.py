"""What one sender sends. Pure: the same seed and number give the same requests in the same order.

Each sender owns a few pairs of a meter and a vehicle whose registers move once a second, restart at
zero now and then, and are sent in requests of all shapes: one reading, a batch, NDJSON, gzip. Some
readings are held back and come late, some requests repeat what was sent before, some contradict it
(the same device and instant with another value), some are bad and have a known refusal.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

PAIRS = 3
#: Between two readings of a device.
SPACING_US = 1_000_000
#: What flows in a second: 3.6 kW into the meter, nine tenths of it into the battery.
STEP_KWH = {"meter": 0.001, "vehicle": 0.0009}
#: A contradicting reading differs by this: less than a step, so that the register still rises.
CONTRADICTION_KWH = 0.0003
#: A register restarts at zero after this many readings (between .. and ..), and not before 1 kWh.
RESTART_AFTER = (3_000, 20_000)
#: Held-back readings are sent when there are so many.
LATE_BATCH = 40

P_LATE, P_REPEAT, P_CONTRADICT, P_BAD = 0.05, 0.10, 0.04, 0.06
RECENT = 300

JSON, NDJSON = "application/json", "application/x-ndjson"


class Reading(NamedTuple):
    """A reading as the ledger keeps it; `values` in the order of the kind's measures."""

    device: str
    at_us: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A POST, what of it must be kept, and how it must be refused if it must."""

    kind: str
    body: bytes
    content_type: str
    readings: tuple[Reading, ...]
    gzipped: bool = False
    #: Codes by index of the readings that must be rejected; the others are kept.
    rejected: dict[int, str] = field(default_factory=dict)
    #: (status, code) when the request as a whole must be refused.
    refusal: tuple[int, str] | None = None
    wrong_key: bool = False


@dataclass(slots=True)
class Device:
    """A register that moves."""

    kind: str
    name: str
    at_us: int
    kwh: float
    left: int
    count: int = 0
    recent: list[Reading] = field(default_factory=list)

    def next(self, rng: random.Random) -> Reading:
        """Its next reading in time."""
        self.at_us += SPACING_US
        self.left -= 1
        self.count += 1
        self.kwh = round(self.kwh + STEP_KWH[self.kind], 6)
        if self.left <= 0 and self.kwh > 1:
            self.kwh, self.left = STEP_KWH[self.kind], rng.randint(*RESTART_AFTER)
        reading = Reading(self.name, self.at_us, self._values(self.kwh))
        self.recent.append(reading)
        del self.recent[:-RECENT]
        return reading

    def _values(self, kwh: float) -> tuple[float, ...]:
        wobble = self.count % 40 / 4
        if self.kind == "meter":
            return (kwh, 225 + wobble)
        return (40 + self.count % 100 / 2, kwh, 20 + wobble)


def contradiction(kind: str, reading: Reading) -> Reading:
    """The same device and instant with a register that shows a little more."""
    place = 0 if kind == "meter" else 1
    values = list(reading.values)
    values[place] = round(values[place] + CONTRADICTION_KWH, 6)
    return reading._replace(values=tuple(values))


def spelled(kind: str, reading: Reading) -> dict[str, Any]:
    """A reading as it is posted."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=reading.at_us)
    device = {f"{kind}Id": reading.device, "timestamp": at.isoformat()}
    names = (
        ("kwhConsumedAc", "voltage")
        if kind == "meter"
        else ("soc", "kwhDeliveredDc", "batteryTemp")
    )
    return device | dict(zip(names, reading.values, strict=True))


class Traffic:
    """The endless requests of sender `number`; its first reading is at `begin_us`."""

    def __init__(self, seed: int, number: int, begin_us: int, group: int | None = None) -> None:
        """Senders of one `group` have devices of the same names; keep them in different fleets."""
        self.rng = random.Random(f"traffic {seed} {number}")
        name = number if group is None else group
        self.devices = [
            Device(kind, f"{kind}-c{name}p{pair}", begin_us + shift, 10.0 * pair, 5_000)
            for pair in range(PAIRS)
            for kind, shift in (("meter", 0), ("vehicle", SPACING_US // 2))
        ]
        self.late: dict[str, list[Reading]] = {"meter": [], "vehicle": []}

    def __iter__(self) -> Iterator[Request]:
        while True:
            yield self.next()

    def next(self) -> Request:
        """The next request."""
        rng = self.rng
        due = [kind for kind, held in self.late.items() if len(held) >= LATE_BATCH]
        if due:
            return self._release(due[0])
        if rng.random() < P_BAD:
            return self._bad()
        device = rng.choice(self.devices)
        readings = [device.next(rng) for _ in range(self._size())]
        kept: list[Reading] = []
        for reading in readings:
            (self.late[device.kind] if rng.random() < P_LATE else kept).append(reading)
        if rng.random() < P_REPEAT:
            kept += rng.sample(device.recent, min(len(device.recent), 20))
        if rng.random() < P_CONTRADICT or not kept:
            kept.append(contradiction(device.kind, rng.choice(device.recent)))
        if rng.random() < P_REPEAT:
            rng.shuffle(kept)
        return self._request(device.kind, kept)

    def rest(self) -> Iterator[Request]:
        """What is still held back."""
        for kind in self.late:
            if self.late[kind]:
                yield self._release(kind)

    def _release(self, kind: str) -> Request:
        held, self.late[kind] = self.late[kind], []
        self.rng.shuffle(held)
        return self._request(kind, held)

    def _size(self) -> int:
        draw = self.rng.random()
        if draw < 0.4:
            return 1
        return self.rng.randint(2, 50) if draw < 0.8 else self.rng.randint(50, 400)

    def _request(self, kind: str, readings: list[Reading]) -> Request:
        items = [json.dumps(spelled(kind, r)) for r in readings]
        lines = self.rng.random() < 0.3
        if lines:
            body = "\n".join(items)
        elif len(items) == 1 and self.rng.random() < 0.5:
            body = items[0]
        else:
            body = f"[{','.join(items)}]"
        raw, zipped = body.encode(), self.rng.random() < 0.3
        return Request(
            kind,
            gzip.compress(raw, 1) if zipped else raw,
            NDJSON if lines else JSON,
            tuple(readings),
            zipped,
        )

    def _bad(self) -> Request:
        """Something that must be refused, by a known name."""
        device = self.rng.choice(self.devices)
        kind, good = device.kind, device.next(self.rng)
        lawful = spelled(kind, good)
        kwh = "kwhConsumedAc" if kind == "meter" else "kwhDeliveredDc"
        faulty: list[tuple[dict[str, Any], str]] = [
            ({"timestamp": "2999-01-01T00:00:00Z"}, "TS_IN_FUTURE"),
            ({"timestamp": "2026-01-10T10:00:00"}, "TS_WITHOUT_OFFSET"),
            ({f"{kind}Id": "no spaces"}, "BAD_ID"),
            ({"colour": "green"}, "UNKNOWN_FIELD"),
            ({kwh: -1}, "NEGATIVE"),
            ({kwh: "7"}, "NOT_A_NUMBER"),
        ]
        change, code = self.rng.choice(faulty)
        bad = lawful | change
        whole = {
            "MALFORMED_JSON": Request(kind, b"{", JSON, (), refusal=(400, "MALFORMED_JSON")),
            "BAD_GZIP": Request(kind, b"no gzip", JSON, (), True, refusal=(400, "BAD_GZIP")),
            "UNSUPPORTED_MEDIA_TYPE": Request(
                kind, b"a,b", "text/csv", (), refusal=(415, "UNSUPPORTED_MEDIA_TYPE")
            ),
            "EMPTY_BATCH": Request(kind, b"[]", JSON, (), refusal=(422, "EMPTY_BATCH")),
            "KEY_INVALID": Request(
                kind,
                json.dumps(lawful).encode(),
                JSON,
                (),
                refusal=(401, "KEY_INVALID"),
                wrong_key=True,
            ),
        }
        draw = self.rng.random()
        if draw < 0.4:
            self.late[kind].append(good)
            return whole[self.rng.choice(sorted(whole))]
        if draw < 0.7:
            self.late[kind].append(good)
            return Request(
                kind, json.dumps(bad).encode(), JSON, (), refusal=(422, "NO_VALID_READING")
            )
        body = json.dumps([bad, lawful]).encode()  # of a mixed batch the good one is kept
        return Request(kind, body, JSON, (good,), rejected={0: code})
