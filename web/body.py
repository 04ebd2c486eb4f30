"""A request's body: its type, its encoding, and never more of it than is allowed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any

from werkzeug.http import parse_options_header
from werkzeug.sansio.utils import get_content_length

from web.refusals import Refused

#: A WSGI request.
Environ = Mapping[str, Any]


class Shape(Enum):
    """How a body lists its readings."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"


_GZIP = zlib.MAX_WBITS | 16


def shape(environ: Environ) -> Shape:
    """The body's shape by its content type."""
    found = shape_of(environ.get("CONTENT_TYPE", ""))
    if found is None:
        raise Refused("UNSUPPORTED_MEDIA_TYPE")
    return found


@lru_cache(maxsize=64)  # senders of a kind all say the same
def shape_of(content_type: str) -> Shape | None:
    """The shape of a content type; None when it is none that readings come in."""
    try:
        return Shape(parse_options_header(content_type)[0].lower())
    except ValueError:
        return None


def read(environ: Environ, limit: int) -> bytes:
    """The body, inflated, at most `limit` bytes of it; more is refused as soon as that is known."""
    encoding = environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
    if encoding not in {"gzip", "identity"}:
        raise Refused("UNSUPPORTED_ENCODING")
    declared = _declared(environ)
    in_chunks = declared is None and environ.get("wsgi.input_terminated")
    if in_chunks and encoding == "identity" and shape(environ) is Shape.NDJSON:
        # The HTTP server takes chunks that were cut off for the whole body. Half an array is no
        # JSON and half a gzip no gzip, but some of the lines are as lawful as all of them.
        raise Refused("LENGTH_REQUIRED")
    sent = _raw(environ, declared, limit)
    return _inflate(sent, limit) if encoding == "gzip" else sent


def _declared(environ: Environ) -> int | None:
    """The body's length as its sender says it; None when it does not, or comes in chunks."""
    return get_content_length(environ.get("CONTENT_LENGTH"), environ.get("HTTP_TRANSFER_ENCODING"))


def _raw(environ: Environ, declared: int | None, limit: int) -> bytes:
    if declared is not None and declared > limit:
        raise Refused("BODY_TOO_LARGE")
    stream = environ["wsgi.input"]
    if declared is None and not environ.get("wsgi.input_terminated"):
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
