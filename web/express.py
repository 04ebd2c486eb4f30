"""The express way: what is asked thousands of times a second is answered without Flask.

Flask takes longer to find a route and to make a response than the door takes for a reading
(docs/adr/0016). An express does what its route in Flask does, by the same functions. It only ever
answers: what it does not know it leaves to Flask, and what goes wrong in it is raised in Flask, so
that refusals are told in one place (web/errors.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from flask import Flask, request

from web.headers import Headers, StartResponse, completing

#: A WSGI request.
Environ = dict[str, Any]
Wsgi = Callable[[Environ, StartResponse], Iterable[bytes]]

#: Where in a request Flask finds what went wrong in an express.
_TROUBLE = "energy.trouble"


class Answer(NamedTuple):
    """A whole answer."""

    status: str
    headers: Headers
    body: bytes


#: Answers a request, given the last part of its path. None: it is Flask's, nothing was done about
#: it. Raises what the route would raise.
Express = Callable[[Environ, str], Answer | None]


def install(app: Flask, expresses: Mapping[tuple[str, str], Express]) -> None:
    """Let `expresses` answer before `app` does: by method and path without its last part."""
    app.wsgi_app = _Switch(app.wsgi_app, expresses)  # type: ignore[method-assign]
    app.before_request(_raise_trouble)


class _Switch:
    """The WSGI application: an express where there is one, else Flask."""

    def __init__(self, flask: Wsgi, expresses: Mapping[tuple[str, str], Express]) -> None:
        self._flask, self._expresses = flask, expresses

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        road, _, last = environ.get("PATH_INFO", "").rpartition("/")
        express = self._expresses.get((environ["REQUEST_METHOD"], road))
        answer = _try(express, environ, last) if express else None
        if answer is None:
            return self._flask(environ, completing(start_response))
        start_response(answer.status, answer.headers)
        return (answer.body,)


def _try(express: Express, environ: Environ, last: str) -> Answer | None:
    try:
        return express(environ, last)
    except Exception as error:
        environ[_TROUBLE] = error
        return None


def _raise_trouble() -> None:
    trouble: Exception | None = request.environ.get(_TROUBLE)
    if trouble is not None:
        raise trouble
