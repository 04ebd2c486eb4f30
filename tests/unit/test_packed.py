"""What a batch is packed into says the same readings, and nothing else can be unpacked."""

from __future__ import annotations

import json
import struct
from datetime import UTC

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models import codec
from models.clock import rfc3339
from models.kinds import METER, VEHICLE
from models.packed import Packed, as_json, unpack
from tests.factories import at, packed_body, vehicle_reading
from tests.web.calls import encoded

vehicle_readings = st.lists(
    st.fixed_dictionaries(
        {
            "vehicleId": st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True),
            "soc": st.floats(0, 100),
            "kwhDeliveredDc": st.floats(0, 1e12),
            "batteryTemp": st.floats(-60, 120),
            "timestamp": st.datetimes(timezones=st.just(UTC)).map(rfc3339),
        }
    ),
    min_size=1,
    max_size=5,
)


@given(vehicle_readings)
def test_readings_come_back_as_they_were(readings: list[dict[str, object]]) -> None:
    body = json.dumps(readings).encode()
    again = as_json(VEHICLE, packed_body(VEHICLE, body))
    assert codec.decoder(VEHICLE).decode(again) == codec.decoder(VEHICLE).decode(body)


def test_the_form_is_the_one_that_is_documented() -> None:
    packed = packed_body(
        VEHICLE,
        b'[{"vehicleId":"v1","soc":1,"kwhDeliveredDc":2.5,"batteryTemp":-3,'
        b'"timestamp":"1970-01-01T00:00:01Z"},'
        b'{"vehicleId":"v-2","soc":4,"kwhDeliveredDc":5,"batteryTemp":6,'
        b'"timestamp":"1969-12-31T23:59:59Z"}]',
    )
    numbers = 2, 3, 1_000_000, -1_000_000, 1, 4, 2.5, 5, -3, 6
    assert packed == struct.pack("<IIqqdddddd", *numbers) + b"v1\nv-2"


PACKED = packed_body(
    VEHICLE, encoded([vehicle_reading(vehicleId="v", timestamp=at(n)) for n in range(3)])
)


@given(st.binary())
@example(b"")
@example(bytes(8))
@example(b"\xff" * 100)
@example(struct.pack("<I", 2**32 - 1) + PACKED[4:])
@example(PACKED[:4] + struct.pack("<I", 2) + PACKED[8:])
@example(PACKED + b"\nv")
@example(PACKED[:-2])
def test_anything_else_raises_a_value_error(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(VEHICLE, packed)


def test_json_stays_as_it_is() -> None:
    assert as_json(VEHICLE, b'[{"as": "it came"}]') == b'[{"as": "it came"}]'


def test_what_is_unlawful_stays_unlawful_in_json() -> None:
    numbers = 1, 2, 2**62, float("nan"), float("inf")
    packed = Packed(struct.pack("<IIqdd", *numbers) + b"m\xff")
    (reading,) = json.loads(as_json(METER, packed))
    assert reading == {
        "meterId": "m\ufffd",
        "kwhConsumedAc": "nan",
        "voltage": "inf",
        "timestamp": f"{2**62} us since 1970",
    }
