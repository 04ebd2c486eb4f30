"""The decoder accepts only lawful readings, and its errors are the ones the flush expects."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models import codec
from models.clock import from_us, rfc3339, to_us
from models.kinds import DEVICE_ID_PATTERN, KINDS, MAX_KWH, METER, VEHICLE, Kind

LAWFUL = {
    "meter": {
        "meterId": "m",
        "timestamp": "2026-01-10T10:00:00Z",
        "kwhConsumedAc": 1,
        "voltage": 2,
    },
    "vehicle": {
        "vehicleId": "v",
        "timestamp": "2026-01-10T10:00:00Z",
        "soc": 1,
        "kwhDeliveredDc": 2,
        "batteryTemp": 3,
    },
}


def body(kind: Kind = METER, **fields: object) -> bytes:
    return json.dumps([LAWFUL[kind.name] | fields]).encode()


def decode(kind: Kind, raw: bytes) -> tuple[object, ...]:
    (reading,) = codec.decoder(kind).decode(raw)
    return codec.parts_of(kind)(reading)


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_a_reading_comes_out_in_the_order_of_its_measures(kind: Kind) -> None:
    values = [float(LAWFUL[kind.name][measure.field]) for measure in kind.measures]
    device_id = LAWFUL[kind.name][kind.id_field]
    ten = datetime(2026, 1, 10, 10, tzinfo=UTC)
    assert decode(kind, body(kind)) == (device_id, ten, *values)


def test_two_spellings_of_an_instant_are_one_instant() -> None:
    spellings = ["2026-01-10T10:00:00Z", "2026-01-10T12:00:00+02:00", "2026-01-10T04:30:00.0-05:30"]
    (instant,) = {to_us(decode(METER, body(timestamp=t))[1]) for t in spellings}
    assert from_us(instant) == datetime(2026, 1, 10, 10, tzinfo=UTC)


EDGES = [(kind, m) for kind in KINDS.values() for m in kind.measures]


@pytest.mark.parametrize(("kind", "measure"), EDGES, ids=[m.field for _, m in EDGES])
def test_the_ends_of_a_range_are_lawful_and_what_lies_beyond_is_not(kind, measure) -> None:
    position = kind.measures.index(measure)
    for value in (measure.low, measure.high):
        assert decode(kind, body(kind, **{measure.field: value}))[2 + position] == value
    for value in (measure.low - 0.001, measure.high * 1.001):
        with pytest.raises(codec.DECODE_ERRORS):
            decode(kind, body(kind, **{measure.field: value}))


def spelled(number: str) -> bytes:
    return body(kwhConsumedAc="@").replace(b'"@"', number.encode())


@pytest.mark.parametrize(
    "unlawful",
    [
        spelled("NaN"),
        spelled("Infinity"),
        spelled("1e400"),
        spelled("9" * 400),
        spelled("true"),
        spelled("null"),
        spelled('"1"'),
        spelled("1_000"),
        spelled("\u0661\u0662"),  # Arabic digits
        spelled("{}"),
        body(timestamp="2026-01-10T10:00:00"),  # whose ten o'clock?
        body(timestamp="2026-02-30T10:00:00Z"),
        body(timestamp="2026-01-10T10:00:60Z"),
        body(timestamp="2026-01-10T10:00:00+24:00"),
        body(timestamp=1768039200),
        body(meterId=""),
        body(meterId="m" * 65),
        body(meterId="m\n"),
        body(meterId="m\x00"),
        body(meterId="meter 1"),
        body(meterId="z\u00e4hler"),
        body(meterId=7),
        body(unit="kWh"),
        b'[{"meterId": "m", "timestamp": "2026-01-10T10:00:00Z", "voltage": 230}]',
        b'[{"meterId": "m\\ud800"}]',
        b'[{"meterId": "m\xff"}]',
        b"\xef\xbb\xbf[]",
        b"[" * 100_000,
        b"[[]]",
        b"{}",
        b"null",
        b"",
        b"[] []",
    ],
)
def test_what_is_not_lawful_raises_a_decode_error(unlawful: bytes) -> None:
    with pytest.raises(codec.DECODE_ERRORS):
        codec.decoder(METER).decode(unlawful)


def test_one_object_is_decoded_by_the_same_law() -> None:
    assert codec.one_decoder(VEHICLE).decode(body(VEHICLE)[1:-1]).soc == 1
    with pytest.raises(codec.DECODE_ERRORS):
        codec.one_decoder(VEHICLE).decode(body(VEHICLE, soc=101)[1:-1])


# --- readings as they are spelled -----------------------------------------------------------------

some_ids = st.lists(
    st.text("Az09._:-\n \u0661", max_size=3) | st.just("m" * 64) | st.just("m" * 65), min_size=1
)


@given(some_ids, st.sampled_from([0, 20, 300]))
@example(["m\nm"], 0)
def test_device_ids_are_lawful_together_if_each_of_them_is(ids: list[str], more: int) -> None:
    ids = [*ids, *["m" * 64] * more]  # few, so many that they are remembered, too many for that
    each = [re.fullmatch(DEVICE_ID_PATTERN, text, re.ASCII) is not None for text in ids]
    for _ in ("at first", "again"):
        assert codec.are_device_ids("\n".join(ids), len(ids)) is all(each)


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_a_plain_reading_leaves_id_and_timestamp_as_they_are_spelled(kind: Kind) -> None:
    (reading,) = codec.plain_decoder(kind).decode(body(kind, timestamp="noon"))
    assert (reading.device_id, reading.timestamp) == (LAWFUL[kind.name][kind.id_field], "noon")
    for of, measure in zip(codec.MEASURES_OF, kind.measures, strict=False):
        assert of([reading]) == [LAWFUL[kind.name][measure.field]]
        with pytest.raises(codec.DECODE_ERRORS):
            codec.plain_decoder(kind).decode(body(kind, **{measure.field: measure.high * 1.001}))


def test_instants_are_told_by_what_says_them() -> None:
    ten, noon = datetime(2026, 1, 10, 10, tzinfo=UTC), datetime(2026, 1, 10, 12, tzinfo=UTC)
    spelled = ["2026-01-10T12:00:00Z", "2026-01-10T12:00:00.000001+02:00"]
    assert codec.instants(spelled) == {spelled[0]: to_us(noon), spelled[1]: to_us(ten) + 1}
    for one in spelled * 2:  # alone, at first and again
        assert codec.instants([one]) == {one: codec.instants(spelled)[one]}
    for unlawful in ([*spelled, "2026-01-10T12:00:00"], ["2026-01-10T12:00:00"]):
        with pytest.raises(codec.DECODE_ERRORS):
            codec.instants(unlawful)


# --- instants -------------------------------------------------------------------------------------

aware = st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(aware)
def test_every_instant_survives_as_microseconds(instant: datetime) -> None:
    assert from_us(to_us(instant)) == instant


def test_microseconds_count_from_1970() -> None:
    assert to_us(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert to_us(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1
    assert to_us(datetime(2000, 1, 1, tzinfo=UTC)) == 946_684_800 * 10**6


def test_a_naive_datetime_is_no_instant() -> None:
    with pytest.raises(TypeError):
        to_us(datetime(2026, 1, 10))  # noqa: DTZ001


def test_instants_are_spelled_in_utc_with_a_z() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert rfc3339(datetime(2026, 1, 10, 9, tzinfo=tokyo)) == "2026-01-10T00:00:00Z"
    assert rfc3339(datetime(2026, 1, 10, 0, 0, 0, 5, tzinfo=UTC)) == "2026-01-10T00:00:00.000005Z"


def test_no_sum_of_registers_overflows() -> None:
    assert float("1e308") > MAX_KWH * 1e9
