"""Calling the API, and what every refusal must look like."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from prometheus_client import REGISTRY
from werkzeug.test import Client, TestResponse

from models.kinds import KINDS, Kind
from models.packed import as_json
from tests.factories import Reading, meter_reading, vehicle_reading
from web.errors import PROBLEM_JSON
from web.refusals import REQUEST_REFUSALS
from workers import stream

FLEET = "Northern depot"
JSON, NDJSON = "application/json", "application/x-ndjson"

LAWFUL = {"meter": meter_reading, "vehicle": vehicle_reading}
BOTH = list(KINDS.values())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def encoded(readings: Reading | Sequence[Reading]) -> bytes:
    """As JSON; datetimes become RFC 3339."""
    return msgspec.json.encode(readings)


def ndjson(readings: Iterable[Reading], newline: bytes = b"\n") -> bytes:
    return newline.join(map(encoded, readings))


def spelled(text: str, *, field: str = "kwhConsumedAc") -> bytes:
    """A meter reading whose `field` is spelled exactly `text`."""
    return encoded(meter_reading(**{field: "@"})).replace(b'"@"', text.encode("utf-8"))


class Api:
    """The API as one fleet's sender and reader uses it."""

    def __init__(self, client: Client, headers: dict[str, str]) -> None:
        self.client, self.headers = client, headers

    def send(
        self,
        kind: Kind | str,
        body: bytes | str | Reading | Sequence[Reading],
        *,
        content_type: str | None = JSON,
        **headers: str,
    ) -> TestResponse:
        """POST readings; bytes and text go as they are."""
        data = body if isinstance(body, bytes | str) else encoded(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(
            f"/ingestion/{kind}",
            data=data,
            content_type=content_type,
            headers=self.headers | named,
        )

    def send_gzip(self, kind: Kind | str, body: bytes, **more: Any) -> TestResponse:
        return self.send(kind, gzip.compress(body), Content_Encoding="gzip", **more)

    def patch(self, path: str, body: Any) -> TestResponse:
        return self.client.patch(path, json=body, headers=self.headers)

    def post(self, path: str, body: Any) -> TestResponse:
        return self.client.post(path, data=encoded(body), content_type=JSON, headers=self.headers)

    def delete(self, path: str) -> TestResponse:
        return self.client.delete(path, headers=self.headers)

    def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> TestResponse:
        """GET with a query; `from_at` and `to_at` stand for from and to."""
        asked = {name.removesuffix("_at"): value for name, value in query.items()}
        everything = self.headers | (headers or {})
        return self.client.get(path, query_string=asked or None, headers=everything)

    def pages(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """The items of all pages, followed by their cursors."""
        items: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        for _ in range(1000):
            answer = self.get(path, **query, **cursor).json
            items += answer["items"]
            if answer["next"] is None:
                return items
            cursor = {"cursor": answer["next"]}
        raise AssertionError("the pages do not end")


def accepted(response: TestResponse, count: int = 1) -> None:
    """202 for all readings, in exactly these bytes."""
    assert response.status_code == 202, response.text
    assert response.get_data() == b'{"accepted":%d,"rejected":[]}' % count


def refused(response: TestResponse, code: str) -> dict[str, Any]:
    """The problem details of a refusal with this code."""
    assert response.content_type == PROBLEM_JSON, response.text
    problem: dict[str, Any] = json.loads(response.get_data())
    assert problem["code"] == code
    status, title = REQUEST_REFUSALS[code]
    assert (response.status_code, problem["status"], problem["title"]) == (status, status, title)
    assert problem["type"] == "about:blank"
    assert problem["detail"]
    assert problem["instance"] == response.request.path
    assert ("Retry-After" in response.headers) == (status in {429, 503})
    return problem


def counted(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(metric, labels) or 0.0


def waiting() -> int:
    """Entries in both streams."""
    return sum(map(stream.waiting, BOTH))


def entries(kind: Kind) -> list[tuple[int, list[dict[str, Any]]]]:
    """What waits in a kind's stream: (readings counted, the readings) of each entry."""
    stream.ensure_group(kind)
    found = stream.claim(kind, "test", 1000)  # the consumer of factories.flush_all()
    return [(entry.count, json.loads(as_json(kind, entry.body or b"null"))) for entry in found]
