"""Readings in: every shape a body may have, what 202 says, where the readings are afterwards."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime

import pytest

import settings
from models.kinds import METER, VEHICLE, Kind
from tests.factories import at, flush_all, meter_reading, rows, vehicle_reading
from tests.web.calls import (
    BOTH,
    LAWFUL,
    NDJSON,
    Api,
    accepted,
    counted,
    encoded,
    entries,
    ndjson,
    refused,
    waiting,
)

# The bodies of the API that this product replaces, to the letter.
METER_EXAMPLE = (
    '{"meterId":"meter-001","kwhConsumedAc":100.5,"voltage":230,"timestamp":"2023-10-27T10:00:00Z"}'
)
VEHICLE_EXAMPLE = """{
  "vehicleId": "vehicle-001",
  "soc": 55,
  "kwhDeliveredDc": 98.0,
  "batteryTemp": 32.5,
  "timestamp": "2023-10-27T10:00:00Z"
}"""
EXAMPLES = [(METER, METER_EXAMPLE), (VEHICLE, VEHICLE_EXAMPLE)]
EXAMPLE_IDS = ["meter", "vehicle"]


@pytest.mark.parametrize(("kind", "body"), EXAMPLES, ids=EXAMPLE_IDS)
def test_the_examples_are_accepted_and_can_be_read_back(api: Api, kind: Kind, body: str) -> None:
    accepted(api.send(kind, body))
    flush_all()
    sent = json.loads(body)
    status = api.get(f"/v1/{kind}s/{sent[kind.id_field]}/status").json
    assert datetime.fromisoformat(status.pop("receivedAt")).tzinfo is not None
    assert status == sent


def three(kind: Kind) -> list[dict[str, object]]:
    return [LAWFUL[kind.name](timestamp=at(12, seconds=n)) for n in range(3)]


SHAPES = {
    "an array": (encoded, "application/json"),
    "an array with white space around": (lambda r: b" \r\n\t" + encoded(r) + b"\n ", None),
    "a charset": (encoded, "application/json; charset=utf-8"),
    "capitals": (encoded, "Application/JSON"),
    "lines": (lambda r: ndjson(r) + b"\n", NDJSON),
    "lines without a last newline": (ndjson, NDJSON),
    "lines with CRLF": (lambda r: ndjson(r, b"\r\n") + b"\r\n", NDJSON),
    "blank lines": (lambda r: b"\n\n" + ndjson(r, b"\n \n\t\r\n\n") + b"\n\n", NDJSON),
}


@pytest.mark.parametrize("kind", BOTH, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_one_request_is_one_entry_with_its_readings(api: Api, kind: Kind, shape: str) -> None:
    spell, content_type = SHAPES[shape]
    readings = three(kind)
    before = counted("energy_readings_accepted_total", kind=kind.name)
    accepted(api.send(kind, spell(readings), content_type=content_type or "application/json"), 3)
    assert entries(kind) == [(3, json.loads(encoded(readings)))]
    assert waiting() == 1
    assert counted("energy_readings_accepted_total", kind=kind.name) == before + 3


@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_may_come_as_gzip(api: Api, shape: str) -> None:
    spell, content_type = SHAPES[shape]
    body = spell(three(METER))
    accepted(api.send_gzip(METER, body, content_type=content_type or "application/json"), 3)
    assert entries(METER) == [(3, json.loads(encoded(three(METER))))]


@pytest.mark.parametrize(("kind", "body"), EXAMPLES, ids=EXAMPLE_IDS)
def test_a_single_reading_may_come_as_gzip(api: Api, kind: Kind, body: str) -> None:
    accepted(api.send_gzip(kind, body.encode()))
    assert entries(kind) == [(1, [json.loads(body)])]


def test_encodings_are_named_in_any_case_and_identity_is_one(api: Api) -> None:
    accepted(api.send(METER, METER_EXAMPLE, Content_Encoding="identity"))
    accepted(api.send(METER, gzip.compress(METER_EXAMPLE.encode()), Content_Encoding=" GZIP "))


@pytest.mark.parametrize("kind", BOTH, ids=str)
def test_what_was_sent_is_what_is_read(api: Api, kind: Kind) -> None:
    readings = json.loads(encoded(three(kind)))
    accepted(api.send(kind, encoded(readings)), 3)
    flush_all()
    device = readings[0][kind.id_field]
    stored = api.get(f"/v1/{kind}s/{device}/telemetry", from_at=at(0), to_at=at(24)).json["items"]
    assert [{k: v for k, v in item.items() if k != "receivedAt"} for item in stored] == readings
    assert api.get(f"/v1/{kind}s/{device}/status").json == stored[-1]


def test_instants_are_read_in_utc_whatever_offset_they_came_with(api: Api) -> None:
    accepted(api.send(METER, meter_reading(timestamp="2026-01-10T01:30:00.25+05:30")))
    flush_all()
    assert api.get("/v1/meters/meter-001/status").json["timestamp"] == "2026-01-09T20:00:00.250000Z"


def test_received_at_is_the_moment_of_acceptance(api: Api) -> None:
    before = datetime.now(UTC)
    accepted(api.send(METER, meter_reading()))
    after = datetime.now(UTC)
    flush_all()
    received = datetime.fromisoformat(api.get("/v1/meters/meter-001/status").json["receivedAt"])
    assert before.replace(microsecond=before.microsecond // 1000 * 1000) <= received <= after


# --- in part --------------------------------------------------------------------------------------


def test_row_42_a_bad_reading_among_good_ones_is_named_and_the_good_ones_are_stored(
    api: Api,
) -> None:
    batch = [meter_reading(timestamp=at(n)) for n in range(5)]
    batch[2]["voltage"] = "230"
    before = counted("energy_readings_rejected_total", kind="meter", code="NOT_A_NUMBER")
    response = api.send(METER, batch)
    assert response.status_code == 202
    assert response.json == {
        "accepted": 4,
        "rejected": [
            {
                "index": 2,
                "code": "NOT_A_NUMBER",
                "errors": {
                    "voltage": [
                        "A measured value must be a JSON number: no string, boolean or null."
                    ]
                },
            }
        ],
    }
    after = counted("energy_readings_rejected_total", kind="meter", code="NOT_A_NUMBER")
    assert after == before + 1
    flush_all()
    stored = rows("SELECT recorded_at FROM meter_telemetry_history ORDER BY 1")
    assert [row["recorded_at"] for row in stored] == [at(0), at(1), at(3), at(4)]


def test_lines_are_judged_one_by_one(api: Api) -> None:
    lines = [encoded(meter_reading()), b"{", b"", b"[]", encoded(meter_reading(meterId=""))]
    response = api.send(METER, b"\n".join(lines), content_type=NDJSON)
    assert response.status_code == 202
    assert response.json["accepted"] == 1
    # The index counts readings: blank lines are none.
    verdicts = [(r["index"], r["code"], [*r["errors"]]) for r in response.json["rejected"]]
    assert verdicts == [
        (1, "MALFORMED_JSON", ["reading"]),
        (2, "NOT_AN_OBJECT", ["reading"]),
        (3, "BAD_ID", ["meterId"]),
    ]


def test_a_verdict_does_not_depend_on_the_neighbours(api: Api) -> None:
    bad = vehicle_reading(soc=101, batteryTemp=None)
    alone = api.send(VEHICLE, bad).json["rejected"]
    among = api.send(VEHICLE, [bad, vehicle_reading()]).json["rejected"]
    assert alone == among


def test_all_bad_is_refused_with_every_verdict(api: Api) -> None:
    problem = refused(api.send(METER, [{}, 5, meter_reading(voltage=-1)]), "NO_VALID_READING")
    assert [(r["index"], r["code"]) for r in problem["rejected"]] == [
        (0, "MISSING_FIELD"),
        (1, "NOT_AN_OBJECT"),
        (2, "OUT_OF_RANGE"),
    ]
    assert "errors" not in problem
    assert waiting() == 0


def test_a_lone_bad_reading_has_its_errors_in_front(api: Api) -> None:
    problem = refused(api.send(METER, meter_reading(voltage=-1)), "NO_VALID_READING")
    assert problem["errors"] == {"voltage": ["Grid voltage lies between 0 and 1000 V."]}
    assert problem["rejected"] == [
        {"index": 0, "code": "OUT_OF_RANGE", "errors": problem["errors"]},
    ]
    assert waiting() == 0


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"[]", "application/json"),
        (b" [ ] ", "application/json"),
        (b"", NDJSON),
        (b"\n \r\n", NDJSON),
    ],
)
def test_a_batch_without_readings_is_refused(api: Api, body: bytes, content_type: str) -> None:
    refused(api.send(METER, body, content_type=content_type), "EMPTY_BATCH")
    assert waiting() == 0


@pytest.mark.parametrize("spell", [encoded, ndjson], ids=["array", "lines"])
def test_a_batch_may_be_full_and_not_fuller(
    api: Api, monkeypatch: pytest.MonkeyPatch, spell
) -> None:
    monkeypatch.setenv("MAX_BATCH_READINGS", "3")
    settings.load.cache_clear()
    content_type = NDJSON if spell is ndjson else "application/json"
    accepted(api.send(METER, spell(three(METER)), content_type=content_type), 3)
    fourth = meter_reading(timestamp=at(13))
    response = api.send(METER, spell([*three(METER), fourth]), content_type=content_type)
    refused(response, "TOO_MANY_READINGS")
    assert waiting() == 1


def test_an_answer_names_a_bounded_number_of_fields(api: Api) -> None:
    batch = [{f"{n}{'x' * 100}": n for n in range(fields)} for fields in (16, 17)]
    some, many = refused(api.send(METER, batch), "NO_VALID_READING")["rejected"]
    assert (some["code"], len(some["errors"])) == ("MISSING_FIELD", 16 + 4)
    assert {len(field) for field in some["errors"]} <= {*range(65)}
    assert (many["code"], [*many["errors"]]) == ("UNKNOWN_FIELD", ["reading"])
