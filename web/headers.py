"""The headers on every answer, whoever made it: added in one place, outside of Flask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: A WSGI answer's headers, and the function that a WSGI server begins an answer with.
Headers = list[tuple[str, str]]
StartResponse = Callable[..., Any]

#: TLS, and with it Strict-Transport-Security, is the proxy's.
_ALWAYS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
]
#: Data of a fleet; what may be kept says so itself.
_NOT_KEPT = ("Cache-Control", "no-store")
#: For pages: our own files only. Swagger UI sets styles in its markup.
_PAGE = (
    "Content-Security-Policy",
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
)
#: For everything else: data is no page, and if a browser takes it for one it may load nothing.
_DATA = ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")

#: What an answer with JSON has beside its length, if it may not be kept.
JSON: Headers = [("Content-Type", "application/json"), *_ALWAYS, _NOT_KEPT, _DATA]


def kept(cache_control: str) -> Headers:
    """The same for an answer that may be kept as `cache_control` says."""
    return [("Content-Type", "application/json"), *_ALWAYS, ("Cache-Control", cache_control), _DATA]


def completed(application: Callable[..., Any]) -> Callable[..., Any]:
    """A WSGI application whose answers have them all."""

    def answering(environ: dict[str, Any], start_response: StartResponse) -> Any:
        return application(environ, completing(start_response))

    return answering


def completing(start_response: StartResponse) -> StartResponse:
    """`start_response`, with the headers that the answer does not have itself."""

    def start(status: str, headers: Headers, *more: Any) -> Any:
        return start_response(status, complete(headers), *more)

    return start


def complete(headers: Headers) -> Headers:
    """An answer's headers, with those that it does not have itself."""
    own = {name.lower(): value for name, value in headers}
    policy = _PAGE if own.get("content-type", "").startswith("text/html") else _DATA
    return [*headers, *(one for one in (*_ALWAYS, _NOT_KEPT, policy) if one[0].lower() not in own)]
