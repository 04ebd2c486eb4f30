"""Every refusal by name: the same string is the answer's `code`, the metric's label and the heading
in docs/refusals.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Of a request as a whole: code -> (status, what it means).
REQUEST_REFUSALS: dict[str, tuple[int, str]] = {
    "MALFORMED_JSON": (400, "The body is not the JSON its content type says."),
    "NOT_UTF8": (400, "The body is not UTF-8, or begins with a byte order mark."),
    "BAD_GZIP": (400, "The body is not the gzip its Content-Encoding says."),
    "BODY_INCOMPLETE": (400, "The connection ended before the body did."),
    "KEY_MISSING": (401, "No `Authorization: Bearer <key>` header."),
    "KEY_INVALID": (401, "The key is unknown, expired or revoked."),
    "SCOPE_MISSING": (403, "The key does not have the scope this needs."),
    "NOT_FOUND": (404, "There is nothing at this address."),
    "UNKNOWN_ALARM": (404, "The fleet of this key has no such alarm."),
    "UNKNOWN_ASSIGNMENT": (404, "The fleet of this key has no such assignment."),
    "UNKNOWN_DEVICE": (404, "The fleet of this key has no such device."),
    "UNKNOWN_WEBHOOK": (404, "The fleet of this key has no such webhook."),
    "UNKNOWN_DELIVERY": (404, "This event was never meant for this webhook."),
    "METHOD_NOT_ALLOWED": (405, "This address does not answer this method."),
    "LENGTH_REQUIRED": (411, "NDJSON in chunks can be cut off unnoticed: send Content-Length."),
    "BODY_TOO_LARGE": (413, "The body is larger, once inflated, than MAX_BODY_BYTES."),
    "TOO_MANY_READINGS": (413, "The batch has more readings than MAX_BATCH_READINGS."),
    "UNSUPPORTED_MEDIA_TYPE": (415, "Send application/json or application/x-ndjson."),
    "UNSUPPORTED_ENCODING": (415, "Content-Encoding may be gzip or identity."),
    "EMPTY_BATCH": (422, "The batch holds no reading."),
    "NO_VALID_READING": (422, "No reading of the batch is acceptable; `rejected` says why."),
    "BAD_QUERY": (422, "A query parameter is unknown or unlawful; `errors` names it."),
    "BAD_FIELD": (422, "A field of the body is unknown or unlawful; `errors` names it."),
    "WEBHOOK_TARGET_REFUSED": (422, "No webhook is sent to this URL; `errors` says why."),
    "TOO_MANY_WEBHOOKS": (409, "The fleet has as many webhooks as it may."),
    "WEBHOOK_DISABLED": (409, "The receiver answered 410 Gone; register it anew."),
    "ASSIGNMENT_OVERLAPS": (409, "The vehicle or the meter is assigned already in that time."),
    "ALARM_STATE": (409, "The alarm is in a state in which that cannot be done."),
    "RATE_LIMITED": (429, "This key has used up its share; send again after Retry-After."),
    "BACKLOG_FULL": (503, "More readings wait than may; send again after Retry-After."),
    "STREAM_UNAVAILABLE": (503, "The stream did not confirm; send again after Retry-After."),
    "DATABASE_UNAVAILABLE": (503, "PostgreSQL does not answer; try again after Retry-After."),
    "BAD_REQUEST": (400, "The request is not well-formed HTTP."),
    "INTERNAL_ERROR": (500, "A defect of ours; it is in the log under the request's path."),
}

#: Of a single reading: code -> what it means.
READING_REFUSALS: dict[str, str] = {
    "MALFORMED_JSON": "The line is not JSON.",
    "NOT_AN_OBJECT": "A reading is a JSON object.",
    "DUPLICATE_KEY": "A field stands in the object twice.",
    "MISSING_FIELD": "A field is missing.",
    "UNKNOWN_FIELD": "A field is not part of a reading.",
    "NOT_A_NUMBER": "A measured value must be a JSON number: no string, boolean or null.",
    "NOT_FINITE": "NaN, Infinity, or a number too large to hold.",
    "NEGATIVE": "A register cannot be below zero.",
    "OUT_OF_RANGE": "A measured value is outside what is physically possible.",
    "BAD_ID": "A device id has 1 to 64 letters, digits and . _ : -",
    "TOO_MANY_DEVICES": "A new device, and the fleet has MAX_DEVICES_PER_FLEET already.",
    "BAD_TIMESTAMP": "A timestamp is RFC 3339, e.g. 2026-01-10T10:00:00Z.",
    "TS_WITHOUT_OFFSET": "A timestamp needs its offset from UTC (Z or +01:00).",
    "TS_TOO_PRECISE": "A timestamp has at most six decimals: microseconds.",
    "TS_IN_FUTURE": "The timestamp is further in the future than MAX_FUTURE_SECONDS.",
    "TS_TOO_OLD": "The timestamp is older than MAX_READING_AGE_DAYS.",
}


class Refused(Exception):  # noqa: N818  (a verdict, not an error of ours)
    """This request is refused; `more` stands in the answer beside code, title and detail."""

    def __init__(
        self, code: str, detail: str | None = None, *, retry_after: int | None = None, **more: Any
    ) -> None:
        self.code = code
        self.status, self.title = REQUEST_REFUSALS[code]
        self.detail = detail or self.title
        self.retry_after = retry_after
        self.more = more
        super().__init__(self.detail)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One reading of a batch that is not accepted: its place, why, and which fields."""

    index: int
    code: str
    errors: dict[str, list[str]]
