"""Walks /openapi.json: every operation is called with what its schemas allow, and with what they do
not. No answer is a 5xx, and every answer is what the document says of its status.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from models.kinds import METER, VEHICLE
from tests.factories import at, flush_all, register, roll_up
from tests.web.calls import JSON, Api

Document = dict[str, Any]
Schema = dict[str, Any]

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
#: Names that exist, so that more than 404 is seen.
KNOWN = ("meter-001", "vehicle-001", "2026-01-10T12:00:00Z", "2026-01-09T00:00:00Z")

RECENT = st.datetimes(datetime(2010, 1, 1), datetime(2026, 1, 11), timezones=st.just(UTC))  # noqa: DTZ001
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
words = st.text(max_size=30) | st.integers().map(str) | st.sampled_from(KNOWN)


# --- what the document allows ---------------------------------------------------------------------


def resolve(document: Document, node: Schema) -> Schema:
    while "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def lawful(document: Document, schema: Schema) -> st.SearchStrategy[Any]:
    """Values that a schema describes."""
    schema = resolve(document, schema)
    if options := _options(schema):
        return st.one_of([lawful(document, option) for option in options])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    names = schema.get("type", "object")
    kinds = [names] if isinstance(names, str) else names
    return st.one_of([_of_type(document, schema, kind) for kind in kinds])


def _of_type(document: Document, schema: Schema, kind: str) -> st.SearchStrategy[Any]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if kind == "object":
        properties = schema.get("properties", {})
        must = set(schema.get("required", []))
        strategies = {name: lawful(document, inner) for name, inner in properties.items()}
        return st.fixed_dictionaries(
            {name: made for name, made in strategies.items() if name in must},
            optional={name: made for name, made in strategies.items() if name not in must},
        )
    if kind == "array":
        return st.lists(lawful(document, schema.get("items", {})), max_size=4)
    simple: dict[str, st.SearchStrategy[Any]] = {
        "string": _text(schema),
        "integer": st.integers(low, high),
        "number": st.floats(low, high, allow_nan=False, allow_infinity=False),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return simple[kind]


def _text(schema: Schema) -> st.SearchStrategy[str]:
    if schema.get("format") == "date-time":
        anywhen = st.datetimes(timezones=st.timezones())
        return (RECENT | RECENT | anywhen).map(lambda t: t.isoformat())
    if "pattern" in schema:
        return st.sampled_from(KNOWN[:2]) | st.from_regex(schema["pattern"], fullmatch=True)
    return words


# --- what an answer must be -----------------------------------------------------------------------


def misfits(document: Document, schema: Schema, value: Any, where: str = "answer") -> Iterator[str]:
    """Every way in which `value` is not what `schema` says."""
    schema = resolve(document, schema)
    options = [list(misfits(document, s, value, where)) for s in _options(schema)]
    if options and all(options):
        yield f"{where} fits no option: {options}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is {value!r}, not one of {schema['enum']}"
    if "type" in schema and not _is_of(schema["type"], value):
        yield f"{where} is {value!r}, not {schema['type']}"
    elif isinstance(value, dict):
        yield from _object_misfits(document, schema, value, where)
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from misfits(document, schema["items"], item, f"{where}[{index}]")
    elif isinstance(value, int | float) and not _within(schema, value):
        yield f"{where} is {value}, beyond its limits"


def _options(schema: Schema) -> list[Schema]:
    return [*schema.get("oneOf", []), *schema.get("anyOf", [])]


def _object_misfits(
    document: Document, schema: Schema, value: dict[str, Any], where: str
) -> Iterator[str]:
    properties = schema.get("properties", {})
    yield from (f"{where} lacks {name}" for name in schema.get("required", []) if name not in value)
    if schema.get("additionalProperties") is False:
        yield from (f"{where} has {name}" for name in value if name not in properties)
    for name, inner in properties.items():
        if name in value:
            yield from misfits(document, inner, value[name], f"{where}.{name}")


def _within(schema: Schema, value: float) -> bool:
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    return bool(low <= value <= high)


def _is_of(names: str | list[str], value: Any) -> bool:
    kinds = [names] if isinstance(names, str) else names
    if isinstance(value, bool):
        return "boolean" in kinds
    return any(isinstance(value, TYPES[kind]) for kind in kinds)


def test_the_checker_finds_what_does_not_fit() -> None:
    schema = {
        "type": "object",
        "required": ["a"],
        "additionalProperties": False,
        "properties": {"a": {"type": ["number", "null"], "minimum": 0}, "b": {"enum": ["x"]}},
    }
    for fitting in ({"a": 1}, {"a": None}, {"a": 0.5, "b": "x"}):
        assert list(misfits({}, schema, fitting)) == []
    for misfit in ({}, {"a": -1}, {"a": "1"}, {"a": True}, {"a": 1, "b": "y"}, {"a": 1, "c": 2}, 5):
        assert list(misfits({}, schema, misfit)) != []


# --- the walk -------------------------------------------------------------------------------------


@pytest.fixture
def furnished(admin: Api) -> Api:
    """A pair with a day of readings and its summary."""
    for kind in (METER, VEHICLE):
        samples = [(at(hour), 100.0 + hour) for hour in range(25)]
        assert admin.send(kind, register(kind, samples)).status_code == 202
    flush_all()
    roll_up()
    return admin


def walked(document: Document) -> list[tuple[str, str]]:
    return [
        (method, path)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    ]


def call(document: Document, api: Api, data: st.DataObject, where: tuple[str, str]) -> TestResponse:
    """One call of an operation, lawful or not."""
    method, path = where
    item = document["paths"][path]
    operation = item[method]
    query: dict[str, str] = {}
    for parameter in (*item.get("parameters", []), *operation.get("parameters", [])):
        described = resolve(document, parameter)
        asked = lawful(document, described.get("schema", {})).map(_spelled) | words
        if described["in"] == "path":
            asked = st.sampled_from(KNOWN[:2]) | asked
        value = data.draw(asked, label=described["name"])
        if described["in"] == "path":
            path = path.replace(f"{{{described['name']}}}", _quoted(value))
        elif data.draw(st.booleans(), label=f"with {described['name']}"):
            query[described["name"]] = value
    body: bytes | None = None
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"][JSON]["schema"]
        drawn = data.draw(lawful(document, schema) | junk, label="body")
        body = json.dumps(drawn).encode()
    return api.client.open(
        path,
        method=method.upper(),
        query_string=query,
        data=body,
        content_type=JSON if body is not None else None,
        headers=api.headers,
    )


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _quoted(value: str) -> str:
    """As a path's part: not empty, no slash."""
    kept = re.sub(r"[^A-Za-z0-9._:-]", lambda m: "".join(f"%{b:02X}" for b in m[0].encode()), value)
    return kept if kept.strip(".") else "x"


def check(document: Document, where: tuple[str, str], response: TestResponse) -> None:
    """No 5xx, and what the document says of this status."""
    method, path = where
    status = response.status_code
    assert status < 500, response.text
    responses = document["paths"][path][method]["responses"]
    assert str(status) in responses or status >= 400, (where, status)
    described = resolve(document, responses.get(str(status), responses["default"]))
    if "content" not in described:
        assert response.get_data() == b""
        return
    content_type = response.content_type.split(";")[0]
    assert content_type in described["content"]
    schema = described["content"][content_type]["schema"]
    assert list(misfits(document, schema, json.loads(response.get_data()))) == []


def walk(document: Document, api: Api, where: tuple[str, str]) -> set[int]:
    """Call one operation in many ways; the statuses that were seen."""
    seen: set[int] = set()

    @hypothesis_settings(max_examples=40)
    @given(st.data())
    def answers_as_documented(data: st.DataObject) -> None:
        response = call(document, api, data, where)
        seen.add(response.status_code)
        check(document, where, response)

    answers_as_documented()
    return seen


def hard_to_guess(method: str, path: str) -> bool:
    """Numbers of alarms and webhooks; two known devices that are free; a public address."""
    known = {"vehicle_id", "device_id"}
    unknown = set(re.findall(r"{(\w+)}", path)) - known
    return bool(unknown) or (method, path) in {
        ("post", "/v1/meter-assignments"),
        ("post", "/v1/webhooks"),
    }


def test_every_operation_answers_as_documented_whatever_it_is_asked(furnished: Api) -> None:
    document = furnished.get("/openapi.json").json
    for where in walked(document):
        seen = walk(document, furnished, where)
        # Through the door and not only to it.
        assert seen & {200, 201, 202} or hard_to_guess(*where), where
