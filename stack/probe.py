"""Ask the running API: is it ready, does it know this key."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable

from stack.ports import LOOPBACK

#: After so many seconds a person wants to know what is waited for.
LONG_SECONDS = 10.0

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


def wait_ready(
    port: int,
    timeout: float,
    require_health: Callable[[], None],
    report: Callable[[str], None] = lambda _: None,
) -> None:
    """Return once GET /readyz says 200; what it says instead is reported when it takes long.

    Raises TimeoutError with the last answer after `timeout` seconds, or what `require_health` does.
    """
    started = time.monotonic()
    reported = ""
    while answer := _readiness(port):
        require_health()
        waited = time.monotonic() - started
        if waited > timeout:
            raise TimeoutError(f"The API is not ready after {timeout:.0f} s: {answer}")
        if waited > LONG_SECONDS and answer != reported:
            report(f"waiting for the API: {answer}")
            reported = answer
        time.sleep(0.1)


def _readiness(port: int) -> str:
    """Empty when ready, else why not."""
    try:
        status, body = get(port, "/readyz")
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    return "" if status == http.client.OK else f"{status} {body.strip()}"


def is_known(port: int, key: str) -> bool:
    """Whether the API accepts `key`."""
    status, _ = get(port, _GUARDED, {"Authorization": f"Bearer {key}"})
    return status != http.client.UNAUTHORIZED
