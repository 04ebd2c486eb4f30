"""A sender: a process that sends each request until it hears 202, and notes what it was told.

    python -m tests.chaos.client '{"url": ..., "key": ..., "seed": 1, "number": 0, ...}'

Prints its figures as one JSON line twice a second and once more at the end. SIGTERM: no new
requests; what is under way and what was held back is still delivered.
"""

from __future__ import annotations

import http.client
import json
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from tests.chaos.ledger import Ledger
from tests.chaos.traffic import Request, Traffic

#: A sender in a hurry: it does not wait as long as Retry-After says, so that faults meet load.
PATIENCE_SECONDS = 0.25
#: A request that is not accepted for so long never will be.
HOPELESS_SECONDS = 180.0
ANSWER_SECONDS = 10.0
TRY_AGAIN = (429, 503)


@dataclass(slots=True)
class Figures:
    """What a sender has seen; travels as JSON."""

    acknowledged: int = 0
    requests: int = 0
    tries: int = 0
    #: Planned bad input, by the code it was refused with.
    refused: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    #: [from, to] in seconds since 1970: told 503, or not answered at all.
    unavailable: list[tuple[float, float]] = field(default_factory=list)
    unanswered: list[tuple[float, float]] = field(default_factory=list)
    #: What must never happen.
    violations: list[str] = field(default_factory=list)
    done: bool = False


class Answer:
    """Status, headers and JSON of an answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.retry_after = response.headers.get("Retry-After")
        body = response.read()
        self.json: Any = json.loads(body) if body else None


class Sender:
    """Delivers requests to one API with one key."""

    def __init__(self, url: str, key: str, ledger: Ledger) -> None:
        self.netloc, self.key, self.ledger = urlsplit(url).netloc, key, ledger
        self.figures = Figures()
        self.connection: http.client.HTTPConnection | None = None

    def deliver(self, request: Request) -> bool:
        """Send until the answer is final; whether it was the one that had to come."""
        number = self.ledger.sent(request.kind, request.readings) if request.readings else 0
        deadline = time.monotonic() + HOPELESS_SECONDS
        while (answer := self._try(request)) is None:
            if time.monotonic() > deadline:
                self._violation(f"not accepted within {HOPELESS_SECONDS:.0f} s: {request.kind}")
                return False
            time.sleep(PATIENCE_SECONDS)
        self.figures.requests += 1
        wrong = _wrong(request, answer)
        if wrong:
            self._violation(wrong)
            return False
        if number:
            self.ledger.acknowledged(number)
            self.figures.acknowledged += len(request.readings)
        codes = [request.refusal[1]] if request.refusal else request.rejected.values()
        self.figures.refused.update(codes)
        return True

    def _try(self, request: Request) -> Answer | None:
        """The final answer, or None when the same bytes are to be sent again."""
        began = time.time()
        self.figures.tries += 1
        try:
            answer = self._post(request)
        except (OSError, http.client.HTTPException, ValueError):
            self._hang_up()
            self.figures.unanswered.append((began, time.time() + PATIENCE_SECONDS))
            return None
        self.figures.statuses[str(answer.status)] += 1
        if answer.status not in TRY_AGAIN:
            return answer
        if not answer.retry_after:
            self._violation(f"{answer.status} without Retry-After")
        self.figures.unavailable.append((began, time.time() + PATIENCE_SECONDS))
        return None

    def _post(self, request: Request) -> Answer:
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.netloc, timeout=ANSWER_SECONDS)
        key = "tm_live_0000000000" if request.wrong_key else self.key
        headers = {"Authorization": f"Bearer {key}", "Content-Type": request.content_type}
        if request.gzipped:
            headers["Content-Encoding"] = "gzip"
        self.connection.request("POST", f"/ingestion/{request.kind}", request.body, headers)
        return Answer(self.connection.getresponse())

    def _hang_up(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _violation(self, text: str) -> None:
        if len(self.figures.violations) < 20:
            self.figures.violations.append(text)


def _wrong(request: Request, answer: Answer) -> str:
    """What is wrong with a final answer; empty when nothing is."""
    if request.refusal:
        code = (answer.json or {}).get("code")
        told = (answer.status, code)
        return "" if told == request.refusal else f"{told} instead of {request.refusal}"
    rejected = {r["index"]: r["code"] for r in (answer.json or {}).get("rejected", [])}
    if answer.status != 202 or rejected != request.rejected:
        return f"{answer.status} {answer.json} for a lawful request of {len(request.readings)}"
    accepted = answer.json["accepted"]
    return "" if accepted == len(request.readings) else f"accepted {accepted} of {request}"


def main(options: dict[str, Any]) -> None:
    """Send until told to stop."""
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who tells us
    ledger = Ledger(Path(options["ledger"]))
    sender = Sender(options["url"], options["key"], ledger)
    traffic = Traffic(options["seed"], options["number"], options["begin_us"], options["group"])
    finished = threading.Event()
    teller = threading.Thread(target=_tell, args=(sender.figures, finished))
    teller.start()
    began = time.monotonic()
    try:
        for request in traffic:
            if stopping.is_set():
                break
            sender.deliver(request)
            ahead = sender.figures.acknowledged / options["rate"] - (time.monotonic() - began)
            if ahead > 0:
                stopping.wait(min(ahead, 1.0))
        for request in traffic.rest():
            sender.deliver(request)
    finally:
        ledger.close()
        finished.set()
        teller.join()
    sender.figures.done = True
    _show(sender.figures)


def _tell(figures: Figures, finished: threading.Event) -> None:
    while not finished.wait(0.5):
        _show(figures, briefly=True)


def _show(figures: Figures, *, briefly: bool = False) -> None:
    told = {f.name: getattr(figures, f.name) for f in fields(figures)}
    told |= {"refused": dict(figures.refused), "statuses": dict(figures.statuses)}
    if briefly:  # the intervals grow for ever; the parent needs them once
        told |= {"unavailable": figures.unavailable[-1:], "unanswered": []}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
