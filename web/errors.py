"""Refusals as RFC 9457 problem details, whoever raised them: ours, Flask's, the driver's."""

from __future__ import annotations

import random
from http import HTTPStatus
from typing import Any

import msgspec
import psycopg
import structlog
from flask import Flask, Response, request
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from web.refusals import REQUEST_REFUSALS, Refused
from workers.metrics import REQUESTS_REFUSED
from workers.stream import StreamUnavailable

log = structlog.get_logger(__name__)

PROBLEM_JSON = "application/problem+json"

_BY_STATUS = {
    HTTPStatus.NOT_FOUND: "NOT_FOUND",
    HTTPStatus.METHOD_NOT_ALLOWED: "METHOD_NOT_ALLOWED",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "BODY_TOO_LARGE",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "UNSUPPORTED_MEDIA_TYPE",
    HTTPStatus.UNPROCESSABLE_ENTITY: "BAD_QUERY",
}


def retry_after_seconds() -> int:
    """Spread out, so that a thousand senders do not come back in the same second."""
    return random.randint(2, 8)  # noqa: S311  (no secret in it)


def problem(refused: Refused) -> Response:
    """The answer to a refused request."""
    REQUESTS_REFUSED.labels(refused.code).inc()
    body = {
        "type": "about:blank",
        "title": refused.title,
        "status": refused.status,
        "detail": refused.detail,
        "code": refused.code,
        "instance": request.path,
        **refused.more,
    }
    content = msgspec.json.encode(body, enc_hook=str)  # texts of fields are web.schemas.Message
    response = Response(content, refused.status, content_type=PROBLEM_JSON)
    if refused.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if refused.status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        response.headers["Retry-After"] = str(refused.retry_after or retry_after_seconds())
    return response


def from_http_exception(error: HTTPException) -> Response:
    """What Flask, werkzeug and webargs raise, under our names."""
    status = error.code or 500
    default = "BAD_REQUEST" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "INTERNAL_ERROR"
    messages: dict[str, Any] = (getattr(error, "data", None) or {}).get("messages", {})
    location, errors = next(iter(messages.items()), ("query", {}))
    code = _BY_STATUS.get(HTTPStatus(status), default)
    if location == "json":
        code = "BAD_FIELD" if isinstance(errors, dict) else "MALFORMED_JSON"
    more: dict[str, Any] = {"errors": errors} if isinstance(errors, dict) and errors else {}
    response = problem(Refused(code, **more))
    for name, value in error.get_headers():
        if name not in {"Content-Type", "Content-Length"}:
            response.headers[name] = value
    return response


def register(app: Flask) -> None:
    """Handlers for everything that can go wrong in a request."""
    app.register_error_handler(Refused, problem)
    app.register_error_handler(HTTPException, from_http_exception)
    app.register_error_handler(StreamUnavailable, _stream_unavailable)
    app.register_error_handler(DBAPIError, _database_error)
    app.register_error_handler(psycopg.Error, _database_error)
    app.register_error_handler(PoolTimeout, _database_error)
    app.register_error_handler(Exception, _defect)


def _stream_unavailable(error: StreamUnavailable) -> Response:
    log.warning("stream unavailable", error=str(error))
    return problem(Refused("STREAM_UNAVAILABLE"))


def _database_error(error: Exception) -> Response:
    """A server in trouble is 503; a statement it refuses is a defect of ours."""
    if isinstance(error, OperationalError | psycopg.OperationalError | PoolTimeout):
        log.warning("database unavailable", error=str(error))
        return problem(Refused("DATABASE_UNAVAILABLE"))
    return _defect(error)


def _defect(error: Exception) -> Response:
    log.error("unhandled", path=request.path, exc_info=error)
    return problem(Refused("INTERNAL_ERROR"))


assert set(_BY_STATUS.values()) <= REQUEST_REFUSALS.keys()  # noqa: S101  (checked at import)
