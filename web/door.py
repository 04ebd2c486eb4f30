"""The door: the bytes of a request become a verdict on each of its readings.

marshmallow (web/schemas.py) is the law. It costs 17 microseconds a reading, so what is lawful takes
a faster way: a decoder made from the same definitions (models/codec.py) accepts a whole body at
once, in 0.5. It only ever accepts; whatever it does not, however small the doubt, goes to
marshmallow for the verdict. tests/web/test_door.py holds the two equal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from marshmallow import ValidationError

from models import codec
from models.clock import rfc3339, to_us
from models.kinds import Kind
from models.packed import MAX_READINGS, MIN_READINGS, Sent, numbers_of, pack
from web.body import Shape
from web.refusals import Refused, Rejected
from web.schemas import Message, schema_of

#: An object with more fields is no reading, and not looked at closer: half a million unknown fields
#: would cost seconds, and an answer several times the body's size.
MAX_FIELDS = 16
#: Bytes of a request per reading above which it is written anew, without what stands between: a
#: sender of 4 MiB of blanks must not fill the stream's memory, and then a worker's, with them.
MAX_BYTES_PER_READING = 512
#: From here on numpy counts a character that is frequent faster than Python, by far: it takes its
#: time to begin.
NUMPY_COUNTS_BYTES = 2_048
#: Characters of an unknown field's name in the answer.
MAX_SHOWN_NAME = 64


@dataclass(frozen=True, slots=True)
class Lawful:
    """What a reading must satisfy beyond its own fields."""

    oldest: datetime
    newest: datetime
    max_readings: int
    #: The only devices that may send, when the fleet can have no further ones.
    devices: frozenset[str] | None = None

    @classmethod
    def at(
        cls,
        now: datetime,
        *,
        age_days: int,
        future_seconds: int,
        readings: int,
        devices: frozenset[str] | None = None,
    ) -> Lawful:
        """The limits as of `now` (aware)."""
        oldest, newest = now - timedelta(days=age_days), now + timedelta(seconds=future_seconds)
        return cls(oldest, newest, readings, devices)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The accepted readings as a stream entry's body, and the rejected ones."""

    accepted: int
    #: A JSON array; `Packed` if they are many and came the fast way.
    body: bytes
    rejected: list[Rejected]


def judge(kind: Kind, shape: Shape, body: bytes, lawful: Lawful) -> Verdict:
    """The verdict on each reading. Raises Refused when the body as a whole is unlawful."""
    return accept_all(kind, shape, body, lawful) or _judge_each(kind, shape, body, lawful)


# --- the fast way: everything is lawful ---------------------------------------------------------

#: What the decoder lets pass and the law does not: more than microseconds, an offset without colon.
_DOUBTFUL_TIMESTAMP = re.compile(r":\d\d:\d\d(?:\.\d{7}|(?:\.\d+)?[+-]\d{4}$)", re.MULTILINE)


def accept_all(kind: Kind, shape: Shape, body: bytes, lawful: Lawful) -> Verdict | None:
    """A verdict when every reading is lawful beyond doubt, else None."""
    try:
        readings, entry = _decode(kind, shape, body)
        count = len(readings)
        bounded = 0 < count <= lawful.max_readings and len(entry) <= MAX_BYTES_PER_READING * count
        if not bounded or not _each_field_once(kind, body, count):
            return None
        instants = _lawful_instants({reading.timestamp for reading in readings}, lawful)
        device_ids = "\n".join([reading.device_id for reading in readings])
        if not instants or not _are_lawful_devices(device_ids, count, lawful):
            return None
    except codec.DECODE_ERRORS:
        return None
    if MIN_READINGS <= count <= MAX_READINGS:
        entry = pack(Sent(device_ids.encode(), *numbers_of(kind, readings, instants)))
    return Verdict(count, entry, [])


def _are_lawful_devices(lines: str, count: int, lawful: Lawful) -> bool:
    if not codec.are_device_ids(lines, count):
        return False
    return lawful.devices is None or lawful.devices.issuperset(lines.split("\n"))


def _lawful_instants(spelled: Collection[str], lawful: Lawful) -> dict[str, int]:
    """Microseconds since 1970 by what says them; nothing if one is not lawful beyond doubt.

    Raises `codec.DECODE_ERRORS` for what is no timestamp.
    """
    if _DOUBTFUL_TIMESTAMP.search("\n".join(spelled)):
        return {}
    instants = codec.instants(spelled)
    first, last = min(instants.values()), max(instants.values())
    return instants if to_us(lawful.oldest) <= first and last <= to_us(lawful.newest) else {}


def _decode(kind: Kind, shape: Shape, body: bytes) -> tuple[Sequence[Any], bytes]:
    """(the readings, the same bytes as a JSON array); raises `codec.DECODE_ERRORS`.

    No readings when there is more than one object and no array around them.
    """
    if shape is Shape.NDJSON:
        return _decode_lines(kind, body)
    entry = b"[" + body + b"]" if body[:1] == b"{" else body
    readings = codec.plain_decoder(kind).decode(entry)
    return (readings, entry) if entry is body or len(readings) == 1 else ([], b"")


def _decode_lines(kind: Kind, body: bytes) -> tuple[Sequence[Any], bytes]:
    """As `_decode`; no readings when a line is anything but one object.

    The lines are decoded as the array that goes into the stream. Every line begins and ends with a
    brace, so the commas put between them can only stand between objects; as many readings as lines
    then means one on each.
    """
    lines = [line for ended in body.split(b"\n") if (line := ended.strip(b" \t\r"))]
    entry = b"[" + b",".join(lines) + b"]"
    readings = codec.plain_decoder(kind).decode(entry)
    braced = all(line[:1] == b"{" and line[-1:] == b"}" for line in lines)
    return (readings, entry) if braced and len(readings) == len(lines) else ([], b"")


def _each_field_once(kind: Kind, body: bytes, count: int) -> bool:
    """A decoder takes the last of two equal keys; counting quotation marks finds the second.

    Every reading was found complete, so each has a pair of quotes around every field's name and
    two more pairs around id and timestamp. Any surplus is a key that stands twice; an escape could
    hide a quote.
    """
    quotes = 2 * (len(kind.measures) + 2) + 4
    return _quotation_marks(body) == quotes * count and b"\\" not in body


def _quotation_marks(body: bytes) -> int:
    if len(body) < NUMPY_COUNTS_BYTES:
        return body.count(b'"')
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord('"')))


# --- the law --------------------------------------------------------------------------------------


class _Twice(dict[str, Any]):
    """An object in which a key stands twice."""


class _BadLine:
    """A line that is not JSON."""


def _judge_each(kind: Kind, shape: Shape, body: bytes, lawful: Lawful) -> Verdict:
    items = _parse(shape, body, lawful.max_readings)
    accepted: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    for index, item in enumerate(items):
        try:
            accepted.append(_canonical(_lawful_reading(kind, item, lawful)))
        except ValidationError as error:
            rejected.append(_rejected(index, error))
    return Verdict(len(accepted), msgspec.json.encode(accepted), rejected)


def _parse(shape: Shape, body: bytes, most: int) -> list[Any]:
    """Between one and `most` items; raises Refused when there are fewer or more."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("NOT_UTF8") from error
    if text.startswith("\ufeff"):
        raise Refused("NOT_UTF8")
    if shape is Shape.NDJSON:
        lines = [line for line in text.split("\n") if line.strip()]
        return [_line(line) for line in _some(lines, most)]
    try:
        parsed = _loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused("MALFORMED_JSON", f"The body is not JSON: {_short(error)}") from error
    return _some(parsed, most) if isinstance(parsed, list) else [parsed]


def _some(items: list[Any], most: int) -> list[Any]:
    if not items:
        raise Refused("EMPTY_BATCH")
    if len(items) > most:
        raise Refused("TOO_MANY_READINGS")
    return items


def _line(line: str) -> Any:
    try:
        return _loads(line)
    except (ValueError, RecursionError):
        return _BadLine()


def _loads(text: str) -> Any:
    # NaN and Infinity are not JSON; they pass here so that the verdict can name their field.
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Twice(found)


def _lawful_reading(kind: Kind, item: Any, lawful: Lawful) -> dict[str, Any]:
    """The loaded reading; raises ValidationError with `Message`s."""
    if isinstance(item, _BadLine):
        raise ValidationError([Message("MALFORMED_JSON")])
    if isinstance(item, _Twice):
        raise ValidationError([Message("DUPLICATE_KEY")])
    if isinstance(item, dict) and len(item) > MAX_FIELDS:
        raise ValidationError([Message("UNKNOWN_FIELD")])
    reading: dict[str, Any] = schema_of(kind).load(item)
    if reading["timestamp"] > lawful.newest:
        raise ValidationError([Message("TS_IN_FUTURE")], "timestamp")
    if reading["timestamp"] < lawful.oldest:
        raise ValidationError([Message("TS_TOO_OLD")], "timestamp")
    if lawful.devices is not None and reading[kind.id_field] not in lawful.devices:
        raise ValidationError([Message("TOO_MANY_DEVICES")], kind.id_field)
    return reading


def _canonical(reading: dict[str, Any]) -> dict[str, Any]:
    return {**reading, "timestamp": rfc3339(reading["timestamp"])}


def _rejected(index: int, error: ValidationError) -> Rejected:
    errors = error.normalized_messages()  # type: ignore[no-untyped-call]
    first = next(_messages(errors))
    code = first.code if isinstance(first, Message) else "NOT_AN_OBJECT"
    return Rejected(index, code, {_shown(field): [*map(str, errors[field])] for field in errors})


def _shown(field: str) -> str:
    """A field's name as an answer can hold it: a sender may call an unknown one anything."""
    if field == "_schema":
        return "reading"
    return field[:MAX_SHOWN_NAME].encode(errors="replace").decode()


def _messages(errors: dict[str, list[str]]) -> Iterator[str]:
    return chain.from_iterable(errors.values())


def _short(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return str(error)
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
