"""What comes out of the stream is checked again, and what cannot be read loses no neighbour."""

from __future__ import annotations

import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import codec
from models.clock import to_us
from models.codec import Row
from models.kinds import METER, VEHICLE, Kind
from models.packed import Packed, Sent, pack, unpack
from models.registry import Device
from tests.factories import at, meter_reading, packed_body, vehicle_reading
from workers.devices import DeviceKeys
from workers.entries import WHOLE_ENTRY, decode, decode_plain
from workers.stream import Entry

HALF_A_DAY = timedelta(hours=12)


def entry(*items: object, entry_id: str = "1768003200000-0", fleet: int | None = 7) -> Entry:
    raw = json.dumps(items, default=lambda instant: instant.isoformat()).encode()
    return Entry(entry_id, fleet, len(items), raw, b"")


def test_readings_carry_where_they_came_from() -> None:
    readings, dead = decode(METER, [entry(meter_reading(), meter_reading(meterId="meter-002"))])
    assert [(r.device_id, r.position) for r in readings] == [("meter-001", 0), ("meter-002", 1)]
    first = readings[0]
    assert (first.fleet_id, first.entry_id) == (7, "1768003200000-0")
    assert (first.recorded_us, first.received_us) == (to_us(at(12)), 1_768_003_200_000_000)
    assert first.values == (100.5, 230.1)
    assert not dead


# --- by columns -----------------------------------------------------------------------------------

#: Bodies as requests carry them, lawful for the greater part.
some_readings = st.lists(
    st.fixed_dictionaries(
        {
            "vehicleId": st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True)
            | st.sampled_from(["v", "v", "v\n", "v\nv", "\u0661", ""]),
            "timestamp": st.datetimes(
                timezones=st.just(UTC) | st.builds(timezone, st.timedeltas(-HALF_A_DAY, HALF_A_DAY))
            ).map(lambda instant: instant.isoformat())
            | st.sampled_from(["2026-01-10T12:00:00Z", "2026-01-10T12:00:00"]),
            "soc": st.floats(0, 100) | st.integers(0, 101),
            "kwhDeliveredDc": st.floats(0, 1e12),
            "batteryTemp": st.floats(-60, 120) | st.just("warm"),
        }
    ),
    min_size=1,
    max_size=4,
)


class Registered(DeviceKeys):
    """Every device has a key, in the order in which they come."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[Device, int] = {}

    def resolve(self, _: Kind, devices: AbstractSet[Device]) -> dict[Device, int]:
        return {device: self.keys.setdefault(device, len(self.keys)) for device in devices}


def plain_rows(
    kind: Kind, entries: Sequence[Entry], keys: DeviceKeys | None = None
) -> list[Row] | None:
    """What the flush stores without a further look; None when it has to look."""
    plain = decode_plain(kind, entries)
    device_key = None if plain is None else (keys or Registered()).of_all(kind, plain.rosters)
    if plain is None or device_key is None:
        return None
    return list(plain.columns(device_key).rows())


def packed_entry(entry: Entry) -> Entry:
    """The same as the door packs it; as it was when it would not."""
    with suppress(*codec.DECODE_ERRORS, ValueError):
        packed = packed_body(VEHICLE, entry.body or b"")
        if codec.are_device_ids(unpack(VEHICLE, packed).roster.decode(), entry.count):
            return replace(entry, body=packed)
    return entry


@given(st.lists(st.tuples(st.integers(1, 3), some_readings, st.booleans()), min_size=1, max_size=4))
def test_columns_hold_what_the_readings_are_one_by_one(
    requests: list[tuple[int, list[dict[str, object]], bool]],
) -> None:
    as_json = [
        entry(*readings, entry_id=f"{number}-0", fleet=fleet)
        for number, (fleet, readings, _) in enumerate(requests)
    ]
    entries = [
        packed_entry(entry) if packs else entry
        for entry, (_, _, packs) in zip(as_json, requests, strict=True)
    ]
    readings, dead = decode(VEHICLE, entries)
    assert (readings, dead) == decode(VEHICLE, as_json)
    known = Registered()
    plain = plain_rows(VEHICLE, entries, known)
    assert (plain is None) is bool(dead)
    if plain is not None:
        assert known.keys.keys() == {(r.fleet_id, r.device_id) for r in readings}
        assert plain == [
            Row(known.keys[r.fleet_id, r.device_id], r.recorded_us, r.received_us, r.values)
            for r in readings
        ]


def test_an_id_of_two_lines_is_no_two_devices() -> None:
    """It must not register them, either."""
    known = Registered()
    assert plain_rows(METER, [entry(meter_reading(meterId="a\nb"))], known) is None
    assert plain_rows(METER, [entry(), entry(meter_reading(meterId="a\nb"))], known) is None
    assert not known.keys


def test_an_entry_of_no_known_format_is_not_plain() -> None:
    assert decode_plain(METER, [entry(meter_reading()), Entry("2-0", None, 1, None, b"")]) is None
    assert decode_plain(METER, [entry(meter_reading(), fleet=None)]) is None


def test_one_unreadable_reading_leaves_its_neighbours() -> None:
    spoilt = meter_reading(voltage="high")
    readings, dead = decode(METER, [entry(meter_reading(), spoilt, meter_reading(meterId="m3"))])
    assert [(r.device_id, r.position) for r in readings] == [("meter-001", 0), ("m3", 2)]
    (letter,) = dead
    assert (letter.reason, letter.position, letter.fleet_id) == ("UNREADABLE", 1, 7)
    assert json.loads(letter.raw)["voltage"] == "high"


@pytest.mark.parametrize(
    "spoilt",
    [
        {"voltage": float("nan")},
        {"kwhConsumedAc": float("inf")},
        {"voltage": -0.1},
        {"meterId": "m m"},
        {"meterId": "m\0"},
        {"recorded_us": 2**62},
    ],
)
def test_what_is_unlawful_among_columns_leaves_its_neighbours(spoilt: dict[str, Any]) -> None:
    """Columns are input too: by hand, or by a door with a fault, anything can stand in them."""
    noon = to_us(at(12))
    rows = [{"recorded_us": noon + n, **meter_reading(meterId=f"m{n}")} for n in range(3)]
    rows[1] |= spoilt
    of = {name: [row[name] for row in rows] for name in rows[0]}
    values = tuple(np.array(of[field], np.float64) for field in ("kwhConsumedAc", "voltage"))
    body = pack(Sent("\n".join(of["meterId"]).encode(), np.array(of["recorded_us"]), values))
    entries = [Entry("1-0", 7, 3, body, b"all of it")]
    assert plain_rows(METER, entries) is None
    readings, (letter,) = decode(METER, entries)
    assert [(r.device_id, r.recorded_us) for r in readings] == [("m0", noon), ("m2", noon + 2)]
    assert (letter.reason, letter.position, letter.fleet_id) == ("UNREADABLE", 1, 7)
    assert json.loads(letter.raw)["meterId"] == rows[1]["meterId"]


def test_columns_that_cannot_be_unpacked_are_kept_as_they_are() -> None:
    entries = [entry(meter_reading()), Entry("2-0", 7, 40, Packed(b"no columns"), b"all of it")]
    assert decode_plain(METER, entries) is None
    (reading,), (letter,) = decode(METER, entries)
    assert reading.device_id == "meter-001"
    assert (letter.raw, letter.position, letter.fleet_id) == (b"all of it", WHOLE_ENTRY, 7)


def test_an_unreadable_entry_is_kept_as_it_is() -> None:
    entries = [
        Entry("1-0", 7, 1, b"\xff garbage", b""),
        Entry("2-0", 7, 1, b"{}", b""),
        Entry("3-0", 7, 1, b"[" * 100_000, b""),
        Entry("4-0", None, 1, None, b"v=2 b=[]"),
    ]
    readings, dead = decode(METER, entries)
    assert not readings
    assert {d.position for d in dead} == {WHOLE_ENTRY}
    assert [d.raw for d in dead] == [b"\xff garbage", b"{}", b"[" * 100_000, b"v=2 b=[]"]


def test_an_entry_without_readings_is_nothing() -> None:
    assert decode(METER, [entry()]) == ([], [])
    assert plain_rows(METER, [entry()]) is None
    assert len(plain_rows(METER, [entry(), entry(meter_reading()), entry()]) or []) == 1


def test_a_dead_reading_can_be_posted_again_as_it_is() -> None:
    (reading,), _ = decode(VEHICLE, [entry(vehicle_reading())])
    letter = reading.dead(VEHICLE, "UNSTORABLE", "why")
    assert json.loads(letter.raw) == vehicle_reading(timestamp="2026-01-10T12:00:00Z")
    again, dead = decode(VEHICLE, [Entry(reading.entry_id, 7, 1, b"[" + letter.raw + b"]", b"")])
    assert (again, dead) == ([reading], [])


def test_a_dead_reading_from_beyond_the_calendar_can_be_spelled() -> None:
    early = meter_reading(timestamp="0001-01-01T00:00:00+14:00")
    (reading,), _ = decode(METER, [entry(early)])
    assert b"us since 1970" in reading.dead(METER, "UNSTORABLE", "why").raw
