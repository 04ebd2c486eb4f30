"""What is not a lawful reading, and the code each fault has. Every code is produced here.

A test sends all inputs of its kind, one request each: the servers are emptied once per test.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

import settings
from models.kinds import METER, VEHICLE
from tests.factories import flush_all, meter_reading, rows, vehicle_reading
from tests.web.calls import NDJSON, Api, accepted, encoded, refused, spelled, waiting
from web.refusals import READING_REFUSALS


def verdict(
    api: Api, body: bytes | dict[str, object], kind: str = "meter"
) -> tuple[str, list[str]]:
    """(code, the fields named) of a refused lone reading; nothing of it is kept."""
    problem = refused(api.send(kind, body), "NO_VALID_READING")
    (rejected,) = problem["rejected"]
    assert problem["errors"] == rejected["errors"]
    assert rejected["index"] == 0
    assert waiting() == 0
    return rejected["code"], [*rejected["errors"]]


# --- numbers --------------------------------------------------------------------------------------

NOT_NUMBERS = {
    '"55"': "a numeric string",
    '"1_000"': "what Python would read as 1000",
    '"\u0661\u0662"': "what Python would read as 12",
    '"nan"': "what float() would take",
    "true": "an int to Python",
    "null": "nothing",
    "[1]": "a list",
    '{"a":1}': "an object",
}
NOT_FINITE = {
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "1e400": "beyond a double",
    "-1e400": "beyond a double",
    "9" * 400: "400 digits",
    "-" + "9" * 400: "400 digits below zero",
    "9" * 4300: "as many digits as Python reads",
}


def test_row_38_what_merely_looks_like_a_number_is_none(api: Api) -> None:
    found = {number: verdict(api, spelled(number)) for number in NOT_NUMBERS}
    assert found == dict.fromkeys(NOT_NUMBERS, ("NOT_A_NUMBER", ["kwhConsumedAc"]))


def test_a_number_is_finite(api: Api) -> None:
    found = {number: verdict(api, spelled(number)) for number in NOT_FINITE}
    assert found == dict.fromkeys(NOT_FINITE, ("NOT_FINITE", ["kwhConsumedAc"]))


def test_what_is_no_json_number_makes_no_json(api: Api) -> None:
    for number in ["1_000", "0x10", "01", "1.", ".5", "+1", "1e", "\u0661", "--1", "1 2", "nan"]:
        refused(api.send(METER, spelled(number)), "MALFORMED_JSON")
    assert waiting() == 0


def test_a_number_of_5000_digits_makes_no_json(api: Api) -> None:
    problem = refused(api.send(METER, spelled("9" * 5000)), "MALFORMED_JSON")
    assert problem["detail"] == "The body is not JSON: a number is too long"


METER_LIMITS = [
    ("kwhConsumedAc", -0.001, "NEGATIVE"),
    ("kwhConsumedAc", -3, "NEGATIVE"),
    ("kwhConsumedAc", 1e12 + 1, "OUT_OF_RANGE"),
    ("kwhConsumedAc", 10**18, "OUT_OF_RANGE"),
    ("voltage", -1, "OUT_OF_RANGE"),
    ("voltage", 1000.5, "OUT_OF_RANGE"),
]
VEHICLE_LIMITS = [
    ("soc", 550, "OUT_OF_RANGE"),
    ("soc", -1, "OUT_OF_RANGE"),
    ("soc", 100.01, "OUT_OF_RANGE"),
    ("kwhDeliveredDc", -3, "NEGATIVE"),
    ("batteryTemp", 9999, "OUT_OF_RANGE"),
    ("batteryTemp", -60.1, "OUT_OF_RANGE"),
]


def test_measured_values_have_limits(api: Api) -> None:
    for field, value, code in METER_LIMITS:
        assert verdict(api, meter_reading(**{field: value})) == (code, [field])
    for field, value, code in VEHICLE_LIMITS:
        assert verdict(api, vehicle_reading(**{field: value}), "vehicle") == (code, [field])


def test_limits_themselves_are_lawful(api: Api) -> None:
    low = {"soc": 0, "kwhDeliveredDc": 0, "batteryTemp": -60}
    high = {"vehicleId": "v", "soc": 100, "kwhDeliveredDc": 1e12, "batteryTemp": 120}
    accepted(api.send(VEHICLE, [vehicle_reading(**low), vehicle_reading(**high)]), 2)


def test_every_json_spelling_of_a_number_is_lawful(api: Api) -> None:
    numbers = ["1e2", "1E+2", "100.0", "100", "10000e-2", "-0", "-0.0", "5e-324", "0.1" + "0" * 400]
    for place, number in enumerate(numbers):
        body = spelled(number).replace(b"meter-001", b"%d" % place)
        accepted(api.send(METER, body))
    flush_all()
    found = rows("SELECT kwh_consumed_ac FROM meter_telemetry_history ORDER BY device_key")
    assert [row["kwh_consumed_ac"] for row in found] == [float(number) for number in numbers]


# --- device ids -----------------------------------------------------------------------------------

BAD_IDS = {
    "empty": '""',
    "NUL": '"a\\u0000b"',
    "a lone surrogate": '"\\ud800"',
    "65 letters": '"%s"' % ("a" * 65),
    "SQL": '"x\'; DROP TABLE meters; --"',
    "a newline at the end": '"meter-001\\n"',
    "a space": '"meter 001"',
    "a slash": '"a/b"',
    "other digits": '"meter-\u0661"',
    "other letters": '"z\u00e4hler"',
    "markup": '"<b>"',
    "a number": "17",
    "null": "null",
    "a list": '["meter-001"]',
}


def test_row_39_a_device_id_is_printable_and_short(api: Api) -> None:
    found = {what: verdict(api, spelled(text, field="meterId")) for what, text in BAD_IDS.items()}
    assert found == dict.fromkeys(BAD_IDS, ("BAD_ID", ["meterId"]))


def test_other_ids_are_lawful(api: Api) -> None:
    ids = ["a", "a" * 64, "A.b_c:d-0", "..", "0"]
    accepted(api.send(METER, [meter_reading(meterId=device_id) for device_id in ids]), len(ids))


# --- timestamps -----------------------------------------------------------------------------------

BAD_TIMESTAMPS = {
    '"2026-01-10T10:00:00"': "TS_WITHOUT_OFFSET",
    '"2026-01-10 10:00:00.5"': "TS_WITHOUT_OFFSET",
    '"2026-01-10T10:00:00.1234567Z"': "TS_TOO_PRECISE",
    '"2026-01-10T10:00:00.123456789Z"': "TS_TOO_PRECISE",
    '"2026-01-10T10:00:00.000000000Z"': "TS_TOO_PRECISE",
    '"0001-01-01T00:00:00+14:00"': "TS_TOO_OLD",
    '"0001-01-01T00:00:00Z"': "TS_TOO_OLD",
    '"9999-12-31T23:59:59-14:00"': "TS_IN_FUTURE",
    '"9999-12-31T23:59:59.999999Z"': "TS_IN_FUTURE",
    "1768039200": "BAD_TIMESTAMP",
    '"1768039200"': "BAD_TIMESTAMP",
    "null": "BAD_TIMESTAMP",
    '""': "BAD_TIMESTAMP",
    '"2026-01-10"': "BAD_TIMESTAMP",
    '"2026-01-10T10:00Z"': "BAD_TIMESTAMP",
    '"2026-01-10T10:00:60Z"': "BAD_TIMESTAMP",
    '"2026-01-10T24:00:00Z"': "BAD_TIMESTAMP",
    '"2026-02-30T10:00:00Z"': "BAD_TIMESTAMP",
    '"2026-13-01T10:00:00Z"': "BAD_TIMESTAMP",
    '"0000-01-01T10:00:00Z"': "BAD_TIMESTAMP",
    '"2026-01-10T10:00:00+99:99"': "BAD_TIMESTAMP",
    '"2026-01-10T10:00:00+01:60"': "BAD_TIMESTAMP",
    '"2026-01-10T10:00:00+24:00"': "BAD_TIMESTAMP",
    '"2026-01-10T10:00:00+0200"': "BAD_TIMESTAMP",
    '"2026-01-10T10:00:00+02"': "BAD_TIMESTAMP",
    '"2026-01-10T10:00:00,5Z"': "BAD_TIMESTAMP",
    '"2026-01-10T10:00:00.Z"': "BAD_TIMESTAMP",
    '"2026-01-10T10:00:00Z "': "BAD_TIMESTAMP",
    '"2026-01-10T10:00:00Z\\n"': "BAD_TIMESTAMP",
    '"2026-W02-6T10:00:00Z"': "BAD_TIMESTAMP",
    '"20260110T100000Z"': "BAD_TIMESTAMP",
    '"\u0662\u0660\u0662\u0666-01-10T10:00:00Z"': "BAD_TIMESTAMP",
    '"2026-01-10T10:00:00Z\\u0000"': "BAD_TIMESTAMP",
    '"yesterday"': "BAD_TIMESTAMP",
}


def test_row_40_a_timestamp_is_exact_and_real(api: Api) -> None:
    found = {text: verdict(api, spelled(text, field="timestamp")) for text in BAD_TIMESTAMPS}
    assert found == {text: (code, ["timestamp"]) for text, code in BAD_TIMESTAMPS.items()}


GOOD_TIMESTAMPS = {
    "2015-01-01T00:00:00Z": "2015-01-01T00:00:00+00:00",
    "2024-02-29T00:00:00+23:59": "2024-02-28T00:01:00+00:00",
    "2026-01-10t10:00:00z": "2026-01-10T10:00:00+00:00",
    "2026-01-10 10:00:01Z": "2026-01-10T10:00:01+00:00",
    "2026-01-10T10:00:02.5Z": "2026-01-10T10:00:02.500000+00:00",
    "2026-01-10T10:00:03.123456-00:00": "2026-01-10T10:00:03.123456+00:00",
    "2026-01-10T23:59:59-14:00": "2026-01-11T13:59:59+00:00",
}


def test_every_rfc_3339_spelling_is_lawful(api: Api) -> None:
    for timestamp in GOOD_TIMESTAMPS:
        accepted(api.send(METER, meter_reading(timestamp=timestamp)))
    flush_all()
    found = rows("SELECT recorded_at FROM meter_telemetry_history ORDER BY 1")
    instants = [datetime.fromisoformat(instant) for instant in GOOD_TIMESTAMPS.values()]
    assert [row["recorded_at"] for row in found] == instants


def test_row_23_a_clock_may_be_nine_minutes_fast_and_not_eleven(api: Api) -> None:
    now = datetime.now(UTC)
    too_fast = meter_reading(timestamp=now + timedelta(minutes=11))
    assert verdict(api, too_fast) == ("TS_IN_FUTURE", ["timestamp"])
    accepted(api.send(METER, meter_reading(timestamp=now + timedelta(minutes=9))))


def test_what_is_too_old_is_the_operators_choice(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_READING_AGE_DAYS", "30")
    settings.load.cache_clear()
    now = datetime.now(UTC)
    too_old = meter_reading(timestamp=now - timedelta(days=31))
    assert verdict(api, too_old) == ("TS_TOO_OLD", ["timestamp"])
    accepted(api.send(METER, meter_reading(timestamp=now - timedelta(days=29))))


# --- objects --------------------------------------------------------------------------------------

TWICE = {
    "the same name": b'"voltage":1,"voltage":230',
    "an escape in it": b'"voltage":1,"\\u0076oltage":230',
    "the id": b'"voltage":230,"meterId":"other"',
    "the id, escaped": b'"voltage":230,"\\u006deterId":"other"',
    "an unknown one": b'"voltage":230,"x":1,"x":1',
    "equal values": b'"voltage":230,"voltage":230',
}


def twice(fields: bytes) -> bytes:
    return encoded(meter_reading(voltage="@")).replace(b'"voltage":"@"', fields)


def test_row_41_a_field_stands_once(api: Api) -> None:
    found = {what: verdict(api, twice(fields)) for what, fields in TWICE.items()}
    assert found == dict.fromkeys(TWICE, ("DUPLICATE_KEY", ["reading"]))


def test_a_field_stands_once_in_a_line(api: Api) -> None:
    lines = [encoded(meter_reading()), *map(twice, TWICE.values())]
    response = api.send(METER, b"\n".join(lines), content_type=NDJSON)
    assert response.json["accepted"] == 1
    assert [r["code"] for r in response.json["rejected"]] == ["DUPLICATE_KEY"] * len(TWICE)


def test_a_missing_field_is_named(api: Api) -> None:
    for field in meter_reading():
        reading = meter_reading()
        del reading[field]
        assert verdict(api, reading) == ("MISSING_FIELD", [field])


SHOWN_NAMES = {
    "fleetId": "fleetId",
    "meterid": "meterid",
    "": "",
    "_schema": "reading",
    "x" * 70: "x" * 64,
    "\0": "\0",
}


def test_an_unknown_field_is_named(api: Api) -> None:
    for name, shown in SHOWN_NAMES.items():
        assert verdict(api, meter_reading(**{name: 1})) == ("UNKNOWN_FIELD", [shown])


def test_a_name_that_no_text_can_hold_is_shown_as_well_as_it_goes(api: Api) -> None:
    body = encoded(meter_reading(name=1)).replace(b'"name"', b'"na\\ud800me"')
    assert verdict(api, body) == ("UNKNOWN_FIELD", ["na?me"])
    assert api.send(METER, b"[" + body + b"," + body + b"]").status_code == 422


def test_all_faults_of_a_reading_are_named_and_the_first_gives_the_code(api: Api) -> None:
    reading = {"meterId": "", "kwhConsumedAc": -1, "voltage": "230", "extra": 1}
    code, fields = verdict(api, reading)
    assert code == "MISSING_FIELD"
    assert sorted(fields) == ["extra", "kwhConsumedAc", "meterId", "timestamp", "voltage"]


def test_a_reading_is_an_object(api: Api) -> None:
    for body in [b"5", b'"text"', b"null", b"true", b"[[]]", b"[null]", b"[1.5]", b'["a"]']:
        assert verdict(api, body) == ("NOT_AN_OBJECT", ["reading"])


def test_one_kinds_reading_is_not_the_other_kinds(api: Api) -> None:
    code, fields = verdict(api, vehicle_reading(), "meter")
    assert code == "MISSING_FIELD"
    assert {"meterId", "vehicleId", "soc"} <= {*fields}


LINES = [
    b'{"meterId":"m"',
    encoded(meter_reading()) + b" " + encoded(meter_reading()),
    encoded(meter_reading()) + encoded(meter_reading()),
    encoded(meter_reading()) + b",",
    encoded(meter_reading()) + b"," + encoded(meter_reading()),
    encoded(meter_reading()) + b"\r" + encoded(meter_reading()),
    b"\xef\xbb\xbf" + encoded(meter_reading()),
    json.dumps(json.loads(encoded(meter_reading())), indent=1).encode(),
]


def test_a_line_is_one_object(api: Api) -> None:
    good = encoded(meter_reading(meterId="good"))
    for line in LINES:
        response = api.send(METER, b"\n".join([good, line, good]), content_type=NDJSON)
        assert response.status_code == 202
        assert response.json["accepted"] == 2
        codes = {r["code"] for r in response.json["rejected"]}
        assert codes == {"MALFORMED_JSON"}
        assert api.send(METER, line, content_type=NDJSON).status_code in {400, 422}
    flush_all()
    assert rows("SELECT detail FROM dead_letters") == []
    assert [row["device_id"] for row in rows("SELECT device_id FROM meters")] == ["good"]


def test_a_device_too_many_is_refused_and_the_others_are_not(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_DEVICES_PER_FLEET", "1")
    settings.load.cache_clear()
    accepted(api.send(METER, meter_reading(meterId="first")))
    flush_all()
    monkeypatch.setattr("web.auth.REMEMBER_SECONDS", 0)  # the door learns of it at once
    assert verdict(api, meter_reading(meterId="second")) == ("TOO_MANY_DEVICES", ["meterId"])
    both = [meter_reading(meterId="first"), meter_reading(meterId="second")]
    answer = api.send(METER, both)
    assert answer.json["accepted"] == 1
    assert [(r["index"], r["code"]) for r in answer.json["rejected"]] == [(1, "TOO_MANY_DEVICES")]
    accepted(api.send(VEHICLE, vehicle_reading()))  # counted apart


def test_every_code_of_a_reading_is_produced_here() -> None:
    with open(__file__) as me:
        text = me.read()
    assert [code for code in READING_REFUSALS if f'"{code}"' not in text] == []
