"""Ask the running API: is it ready, does it know this key."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable

from stack.errors import StackError
from stack.ports import LOOPBACK

#: Any path that wants a key.
_GUARDED = "/v1/analytics/performance/vehicle-001"


def get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and body. Raises OSError or HTTPException when nobody answers."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def wait_ready(port: int, timeout: float, require_health: Callable[[], None]) -> None:
    """Return once GET /readyz says 200.

    Raises StackError with the last answer after `timeout` seconds, or what `require_health` raises.
    """
    deadline = time.monotonic() + timeout
    while True:
        require_health()
        answer = _readiness(port)
        if not answer:
            return
        if time.monotonic() > deadline:
            raise StackError(f"The API is not ready after {timeout:.0f} s: {answer}")
        time.sleep(0.1)


def _readiness(port: int) -> str:
    """Empty when ready, else why not."""
    try:
        status, body = get(port, "/readyz")
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    return "" if status == http.client.OK else f"{status} {body}"


def is_known(port: int, key: str) -> bool:
    """Whether the API accepts `key`."""
    status, _ = get(port, _GUARDED, {"Authorization": f"Bearer {key}"})
    return status != http.client.UNAUTHORIZED
