"""The bytes of a body: type, encoding, size. Nothing here may cost more memory than is allowed."""

from __future__ import annotations

import gzip
import io
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest

import settings
from models.kinds import METER
from tests.factories import meter_reading
from tests.web.calls import NDJSON, Api, accepted, encoded, refused, waiting

ONE = encoded(meter_reading())
LIMIT = 50_000


@pytest.fixture
def small(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """An API whose bodies may have LIMIT bytes; whatever is tried, nothing is kept."""
    monkeypatch.setenv("MAX_BODY_BYTES", str(LIMIT))
    settings.load.cache_clear()
    yield api
    assert waiting() == 0


def padded(size: int) -> bytes:
    """A lawful body of exactly `size` bytes."""
    return ONE + b" " * (size - len(ONE))


def peak_bytes(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- type -----------------------------------------------------------------------------------------


def test_row_33_a_body_says_what_it_is(small: Api) -> None:
    for content_type in [None, "", "text/plain", "text/json", "application/xml", "json"]:
        response = small.send(METER, ONE, content_type=content_type)
        refused(response, "UNSUPPORTED_MEDIA_TYPE")
    form = "application/x-www-form-urlencoded"
    refused(small.send(METER, ONE, content_type=form), "UNSUPPORTED_MEDIA_TYPE")


def test_only_gzip_is_inflated(small: Api) -> None:
    for encoding in ["deflate", "br", "zstd", "gzip, gzip", "", "x"]:
        response = small.send(METER, zlib.compress(ONE), Content_Encoding=encoding)
        refused(response, "UNSUPPORTED_ENCODING")


@pytest.mark.parametrize("content_type", ["application/json", NDJSON])
def test_a_body_is_utf_8_without_a_mark(small: Api, content_type: str) -> None:
    text = ONE.decode()
    for body in [
        b"\xef\xbb\xbf" + ONE,
        text.encode("utf-16"),
        text.encode("utf-32"),
        ONE.replace(b"meter-001", b"meter-\xff"),
        ONE.replace(b"meter-001", b"\xed\xa0\x80"),  # a surrogate, as some encoders write it
        ONE.replace(b"meter-001", b"\xc0\xae"),  # a dot, longer than it need be
    ]:
        refused(small.send(METER, body, content_type=content_type), "NOT_UTF8")


def test_row_32_what_is_no_json_is_refused_as_a_whole(small: Api) -> None:
    bodies = [b"", b" ", b"{", ONE[:-1], ONE + b"}", ONE + ONE, b"[" + ONE, b"[" + ONE + b",]"]
    bodies += [ONE + b"\0", b"'a'", b"{'a':1}", b"// comment\n" + ONE, ONE.replace(b'"', b"'")]
    bodies += [ONE.decode().encode("utf-16-le")]  # lawful UTF-8, and full of NULs
    for body in bodies:
        refused(small.send(METER, body), "MALFORMED_JSON")


# --- depth and width ------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"meterId":'])
def test_row_37_endless_nesting_is_refused_at_once(api: Api, opening: bytes) -> None:
    began = time.process_time()
    problem = refused(api.send(METER, opening * 100_000), "MALFORMED_JSON")
    assert problem["detail"] == "The body is not JSON: nested too deeply"
    assert time.process_time() - began < 0.5


def test_an_object_with_a_million_fields_is_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_BODY_BYTES", "20000000")
    settings.load.cache_clear()
    body = b"{" + b",".join(b'"%d":1' % n for n in range(1_000_000)) + b"}"
    response = api.send(METER, body)
    assert refused(response, "NO_VALID_READING")["rejected"][0]["code"] == "UNKNOWN_FIELD"
    assert len(response.get_data()) < 1000


@pytest.mark.parametrize(
    ("line", "content_type"), [(b"1,", "application/json"), (b"1\n", NDJSON)], ids=["json", "lines"]
)
def test_a_million_items_are_counted_and_not_judged(
    api: Api, line: bytes, content_type: str
) -> None:
    items = line * 1_000_000
    body = b"[" + items + b"1]" if content_type != NDJSON else items
    began = time.process_time()
    refused(api.send(METER, body, content_type=content_type), "TOO_MANY_READINGS")
    assert time.process_time() - began < 2  # judged one by one, they would take four seconds


# --- size -----------------------------------------------------------------------------------------


def test_a_body_may_be_as_large_as_the_limit(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_BODY_BYTES", str(LIMIT))
    settings.load.cache_clear()
    accepted(api.send(METER, padded(LIMIT)))
    accepted(api.send_gzip(METER, padded(LIMIT)))
    refused(api.send(METER, padded(LIMIT + 1)), "BODY_TOO_LARGE")
    refused(api.send_gzip(METER, padded(LIMIT + 1)), "BODY_TOO_LARGE")


class Unread(io.RawIOBase):
    """A body that nobody may read further than `most` bytes."""

    def __init__(self, most: int) -> None:
        self.left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        self.left -= len(buffer)
        assert self.left >= 0, "read further than allowed"
        buffer[:] = b" " * len(buffer)
        return len(buffer)


def test_row_34_a_body_declared_too_large_is_not_read(small: Api) -> None:
    declared = {"CONTENT_LENGTH": str(LIMIT + 1), "wsgi.input": Unread(0)}
    response = small.client.post(
        "/ingestion/meter",
        content_type="application/json",
        headers=small.headers,
        environ_overrides=declared,
    )
    refused(response, "BODY_TOO_LARGE")


def test_row_34_a_chunked_body_is_read_up_to_the_limit(small: Api) -> None:
    chunked = {"wsgi.input_terminated": True, "wsgi.input": Unread(LIMIT + 1)}
    response = small.client.post(
        "/ingestion/meter",
        content_type="application/json",
        headers=small.headers | {"Transfer-Encoding": "chunked"},
        environ_overrides=chunked,
    )
    refused(response, "BODY_TOO_LARGE")


def test_without_a_length_and_an_end_there_is_no_body(small: Api) -> None:
    response = small.client.post(
        "/ingestion/meter",
        content_type="application/json",
        headers=small.headers,
        environ_overrides={"wsgi.input": Unread(0)},
    )
    refused(response, "MALFORMED_JSON")


def test_a_body_shorter_than_declared_is_incomplete(small: Api) -> None:
    response = small.client.post(
        "/ingestion/meter",
        data=ONE,
        content_type="application/json",
        headers=small.headers,
        environ_overrides={"CONTENT_LENGTH": str(len(ONE) + 1)},
    )
    refused(response, "BODY_INCOMPLETE")


# --- gzip -----------------------------------------------------------------------------------------


def test_row_35_a_bomb_costs_no_more_than_the_limit(small: Api) -> None:
    bomb = gzip.compress(b" " * 40_000_000)
    assert len(bomb) < LIMIT, "it passes the first gate"
    assert 900 * len(bomb) < 40_000_000

    def explode() -> None:
        refused(small.send(METER, bomb, Content_Encoding="gzip"), "BODY_TOO_LARGE")

    explode()  # what is only made once is not counted
    assert peak_bytes(explode) < 20 * LIMIT


def test_gzip_is_whole_and_nothing_else(small: Api) -> None:
    packed = gzip.compress(ONE)
    wrong_sum = packed[:-8] + bytes(8)
    for body in [
        b"",
        ONE,
        zlib.compress(ONE),
        packed[:5],
        packed[:-1],
        wrong_sum,
        packed + b"garbage",
        packed + b"\0",
        packed + gzip.compress(b" "),
        b"\x1f\x8b" + ONE,
    ]:
        refused(small.send(METER, body, Content_Encoding="gzip"), "BAD_GZIP")
