"""The law: what a lawful reading is, in marshmallow, made from models/kinds.py.

Pure: a schema never touches a database or a clock. Messages carry the refusal's code, so that the
verdict on a reading names it (web/refusals.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields

from models.kinds import DEVICE_ID_PATTERN, Kind, Measure
from web.refusals import READING_REFUSALS

_DEVICE_ID = re.compile(DEVICE_ID_PATTERN)
#: RFC 3339 section 5.6, with at most microseconds.
_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?P<fraction>\.\d+)?"
    r"(?P<offset>[Zz]|[+-]\d{2}:[0-5]\d)?",
    re.ASCII,
)
_MICROSECONDS = 7  # a point and six digits


class Message(str):
    """An error message that remembers its refusal code."""

    __slots__ = ("code",)
    code: str

    def __new__(cls, code: str, text: str | None = None) -> Message:
        message = super().__new__(cls, text or READING_REFUSALS[code])
        message.code = code
        return message

    def __deepcopy__(self, _: dict[int, Any]) -> Message:
        return self  # immutable; marshmallow copies fields with their messages


def _error(code: str, text: str | None = None) -> ValidationError:
    return ValidationError([Message(code, text)])


def _messages(wrong: str) -> dict[str, Any]:
    """marshmallow's own checks, under our codes. Lists pass through it unformatted."""
    return {"required": [Message("MISSING_FIELD")], "null": [Message(wrong)]}


def is_device_id(text: str) -> bool:
    """Whether a device could have this id; PostgreSQL cannot even be asked about some others."""
    return _DEVICE_ID.fullmatch(text) is not None


class DeviceId(fields.Field[str]):
    """A device's own id."""

    def __init__(self) -> None:
        super().__init__(
            required=True,
            error_messages=_messages("BAD_ID"),
            metadata={"pattern": f"^{DEVICE_ID_PATTERN}$", "type": "string"},
        )

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> str:
        if not isinstance(value, str) or not is_device_id(value):
            raise _error("BAD_ID")
        return value


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:  # an integer of four hundred digits
        raise _error("NOT_FINITE") from None
    if not math.isfinite(number):
        raise _error("NOT_FINITE")
    return number


class MeasuredNumber(fields.Field[float]):
    """A JSON number within its measure's lawful range, and nothing that merely looks like one."""

    def __init__(self, measure: Measure, **kwargs: Any) -> None:
        super().__init__(
            error_messages=_messages("NOT_A_NUMBER"),
            metadata={
                "type": "number",
                "minimum": measure.low,
                "maximum": measure.high,
                "description": f"{measure.description} ({measure.unit})",
            },
            **kwargs,
        )
        self.measure = measure

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> float:
        if type(value) not in (int, float):  # bool is an int to isinstance
            raise _error("NOT_A_NUMBER")
        number, low, high = _finite(value), self.measure.low, self.measure.high
        if number < low == 0 and self.measure.unit == "kWh":
            raise _error("NEGATIVE")
        if not low <= number <= high:
            text = (
                f"{self.measure.description} lies between {low:g} and {high:g} {self.measure.unit}."
            )
            raise _error("OUT_OF_RANGE", text)
        return number


class Timestamp(fields.Field[datetime]):
    """RFC 3339 with an offset and at most microseconds; becomes aware UTC."""

    def __init__(self, *, optional: bool = False, **kwargs: Any) -> None:
        super().__init__(
            required=not optional,
            allow_none=optional,
            error_messages=_messages("BAD_TIMESTAMP"),
            metadata={"type": "string", "format": "date-time"},
            **kwargs,
        )

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> datetime:
        match = _RFC3339.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise _error("BAD_TIMESTAMP")
        if match["offset"] is None:
            raise _error("TS_WITHOUT_OFFSET")
        if len(match["fraction"] or "") > _MICROSECONDS:
            raise _error("TS_TOO_PRECISE")
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except ValueError:  # the 31st of February, the 60th second, hour 25
            raise _error("BAD_TIMESTAMP") from None
        except OverflowError:  # lawful, and in UTC before the year 1 or after 9999
            raise _error("TS_TOO_OLD" if value < "5" else "TS_IN_FUTURE") from None


class ReadingSchema(Schema):
    """What every reading has; `schema_of` adds a kind's id and measures."""

    class Meta:
        unknown = RAISE

    timestamp = Timestamp()

    def __init__(self) -> None:
        super().__init__()
        self.error_messages |= {
            "unknown": Message("UNKNOWN_FIELD"),
            "type": Message("NOT_AN_OBJECT"),
        }


@cache
def schema_of(kind: Kind) -> Schema:
    """The kind's schema, compiled once per process."""
    measured: Mapping[str, fields.Field[Any]] = {
        m.field: MeasuredNumber(m, required=True) for m in kind.measures
    }
    named = f"{kind.name.title()}Reading"
    schema: type[Schema] = type(named, (ReadingSchema,), {kind.id_field: DeviceId(), **measured})
    return schema()
