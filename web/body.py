"""A request's body: its type, its encoding, and never more of it than is allowed."""

from __future__ import annotations

import zlib
from enum import Enum

from flask import Request

from web.refusals import Refused


class Shape(Enum):
    """How a body lists its readings."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"


_GZIP = zlib.MAX_WBITS | 16


def shape(request: Request) -> Shape:
    """The body's shape by its content type."""
    try:
        return Shape(request.mimetype)
    except ValueError:
        raise Refused("UNSUPPORTED_MEDIA_TYPE") from None


def read(request: Request, limit: int) -> bytes:
    """The body, inflated, at most `limit` bytes of it; more is refused as soon as that is known."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"gzip", "identity"}:
        raise Refused("UNSUPPORTED_ENCODING")
    in_chunks = request.content_length is None and request.environ.get("wsgi.input_terminated")
    if in_chunks and encoding == "identity" and shape(request) is Shape.NDJSON:
        # The HTTP server takes chunks that were cut off for the whole body. Half an array is no
        # JSON and half a gzip no gzip, but some of the lines are as lawful as all of them.
        raise Refused("LENGTH_REQUIRED")
    sent = _raw(request, limit)
    return _inflate(sent, limit) if encoding == "gzip" else sent


def _raw(request: Request, limit: int) -> bytes:
    declared = request.content_length
    if declared is not None and declared > limit:
        raise Refused("BODY_TOO_LARGE")
    stream = request.environ["wsgi.input"]
    if declared is None and not request.environ.get("wsgi.input_terminated"):
        return b""  # neither a length nor an end: by HTTP's rules there is no body
    body: bytes = stream.read(limit + 1 if declared is None else declared)
    if len(body) > limit:
        raise Refused("BODY_TOO_LARGE")
    if declared is not None and len(body) < declared:
        raise Refused("BODY_INCOMPLETE")
    return body


def _inflate(sent: bytes, limit: int) -> bytes:
    """Bounded: a bomb costs `limit` bytes of memory and no more."""
    inflater = zlib.decompressobj(_GZIP)
    try:
        body = inflater.decompress(sent, limit + 1)
    except zlib.error as error:
        raise Refused("BAD_GZIP") from error
    if len(body) > limit:
        raise Refused("BODY_TOO_LARGE")
    if not inflater.eof or inflater.unused_data:
        raise Refused("BAD_GZIP")
    return body
