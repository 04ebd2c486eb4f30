"""How the product is, seen from outside: does a new reading get through to the end?"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg

from stack.errors import StackError
from stack.launcher import Stack
from tests.chaos.client import Sender
from tests.chaos.ledger import Ledger
from tests.chaos.traffic import JSON, SPACING_US, Reading, Request, spelled

DEVICE = "meter-probe"
#: A product that is not well again after so long has not recovered.
RECOVERY_SECONDS = 90.0


class NotRecovered(Exception):
    """A fault's effect did not go away by itself."""


class Probe:
    """Sends a reading of its own and waits until it can be read back."""

    def __init__(self, stack: Stack, ledger: Ledger, begin_us: int) -> None:
        self.stack, self.at_us, self.kwh = stack, begin_us, 1.0
        self.sender = Sender(stack.api_url, stack.api_key, ledger)

    def recovered(self, program: str, since: float) -> float:
        """Seconds from `since` (of time.time) until `program` works and a reading got through.

        Raises NotRecovered.
        """
        deadline = time.monotonic() + RECOVERY_SECONDS
        self._until(lambda: self._runs(program), deadline, f"{program} does not run")
        self.at_us += SPACING_US
        self.kwh += 0.001
        reading = Reading(DEVICE, self.at_us, (round(self.kwh, 6), 230.0))
        body = json.dumps(spelled("meter", reading)).encode()
        self.sender.deliver(Request("meter", body, JSON, (reading,)))
        stamp = spelled("meter", reading)["timestamp"]
        self._until(lambda: self._newest() == stamp, deadline, "a reading does not get through")
        if program in ("beat", "worker-rollup"):
            self._until(lambda: self._computed() > since, deadline, "no summary is computed")
        return time.time() - since

    def _until(self, condition: Callable[[], bool], deadline: float, what: str) -> None:
        while not condition():
            if time.monotonic() > deadline:
                raise NotRecovered(f"{what} {RECOVERY_SECONDS:.0f} s after the fault")
            time.sleep(0.1)

    def _runs(self, program: str) -> bool:
        try:
            processes = self.stack.supervisor.processes()
        except StackError:
            return False
        return any(p["name"] == program and p["statename"] == "RUNNING" for p in processes)

    def _newest(self) -> str | None:
        """The timestamp of the probe's newest reading, as it was spelled."""
        connection = http.client.HTTPConnection(self.sender.netloc, timeout=5)
        try:
            headers = {"Authorization": f"Bearer {self.sender.key}"}
            connection.request("GET", f"/v1/meters/{DEVICE}/status", headers=headers)
            response = connection.getresponse()
            body: Any = json.loads(response.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        if response.status != 200:
            return None
        return datetime.fromisoformat(body["timestamp"]).isoformat()

    def _computed(self) -> float:
        """When the newest summary was computed, seconds since 1970."""
        try:
            with psycopg.connect(
                self.stack.environment["DATABASE_URL"], connect_timeout=2, autocommit=True
            ) as conn:
                query = "SELECT extract(epoch FROM max(computed_at)) FROM vehicle_performance_24h"
                row = conn.execute(query).fetchone()
        except psycopg.Error:
            return 0.0
        return float(row[0]) if row and row[0] is not None else 0.0
