"""What comes out of the stream is checked again, and what cannot be read loses no neighbour."""

from __future__ import annotations

import json

from models.clock import to_us
from models.kinds import METER, VEHICLE
from tests.factories import at, meter_reading, vehicle_reading
from workers.entries import WHOLE_ENTRY, decode
from workers.stream import Entry


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


def test_one_unreadable_reading_leaves_its_neighbours() -> None:
    spoilt = meter_reading(voltage="high")
    readings, dead = decode(METER, [entry(meter_reading(), spoilt, meter_reading(meterId="m3"))])
    assert [(r.device_id, r.position) for r in readings] == [("meter-001", 0), ("m3", 2)]
    (letter,) = dead
    assert (letter.reason, letter.position, letter.fleet_id) == ("UNREADABLE", 1, 7)
    assert json.loads(letter.raw)["voltage"] == "high"


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
