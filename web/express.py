"""The express way: what is asked thousands of times a second is answered without Flask or a thread.

Flask takes longer to find a route and to make a response than the door takes for a reading
(docs/adr/0016), and a thread that waits costs more than the waiting (0019). An express does what
its route in Flask does, by the same functions, on the server's event loop. So it must not block:
whatever could, it leaves to Flask. It only ever answers with a success: what it does not know it
leaves to Flask, and what goes wrong in it is raised in Flask, so that refusals are told in one
place (web/errors.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from web.headers import Headers
from web.rsgi import Asked


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


#: Answers a request, given the last part of its path. None: it is Flask's, and nothing was done
#: about it. Raises what the route would raise.
Express = Callable[[Asked, str], Awaitable[Answer | None]]
