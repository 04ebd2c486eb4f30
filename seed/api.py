"""Where the API is, with which key, and one kept-alive connection to it."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

#: Written by `make run`.
CREDENTIALS = Path(".local/credentials.env")
#: Seconds without an answer before a request counts as lost.
TIMEOUT_S = 30.0


class SeedError(click.ClickException):
    """Something that the person at the terminal must know; ends the program."""


class NoTargetError(SeedError):
    """It isn't known where the API is, or with which key."""


class UnreachableError(SeedError):
    """Nobody answers at the API's address."""


class RefusedError(SeedError):
    """The API says no, and sending again would not help."""


@dataclass(frozen=True, slots=True)
class Target:
    """An API and the key for it."""

    url: str
    key: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What each request carries."""
        return {"Authorization": f"Bearer {self.key}", "User-Agent": "energy-seed"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The answer's JSON object; empty if it isn't one."""
        try:
            value = json.loads(self.body)
        except ValueError:
            # A proxy's HTML page, for instance: the status must do.
            return {}
        return value if isinstance(value, dict) else {}

    def retry_after_s(self, now: float) -> float | None:
        """Seconds that the API asks to wait; `now` in seconds since 1970, for the date form."""
        text = self.headers.get("retry-after", "")
        if text.isdecimal():
            return float(text)
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - now)
        except ValueError:
            return None

    def problem(self) -> str:
        """Problem details in one line: status, code, and what the API says about it."""
        said = self.json()
        words = [said.get("code"), said.get("detail") or said.get("title")]
        return ": ".join([f"HTTP {self.status}", *(str(word) for word in words if word)])


class Connection:
    """One connection that is kept alive between requests. For one thread."""

    def __init__(self, target: Target, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(target.url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._http = kind(parts.hostname or "", parts.port, timeout=timeout_s)
        self._base = parts.path.rstrip("/")
        self._headers = target.headers

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> Answer | None:
        """The answer, or None if the connection broke: it isn't known whether the request arrived.

        Header names are given with underscores for hyphens.
        """
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self._http.request(method, self._base + path, body, self._headers | extra)
            response = self._http.getresponse()
            answer_headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, answer_headers, response.read())
        except (OSError, http.client.HTTPException):
            # The next request opens a new connection.
            self._http.close()
            return None

    def close(self) -> None:
        """Hangs up."""
        self._http.close()


def resolve(url: str | None, key: str | None, file: Path = CREDENTIALS) -> Target:
    """The target from options or environment, and what is missing there from the file.

    Raises NoTargetError.
    """
    found = _read_env_file(file) if file.is_file() else {}
    url, key = url or found.get("API_URL"), key or found.get("API_KEY")
    if not url or not key:
        missing = " and ".join(n for n, v in (("API_URL", url), ("API_KEY", key)) if not v)
        raise NoTargetError(
            f"no {missing}: start the product with `make run` (it writes {file} here), "
            "set the environment variables, or give --api-url and --api-key"
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NoTargetError(f"API_URL must look like http://localhost:3000, not {url!r}")
    return Target(url, key)


def check_reachable(target: Target) -> None:
    """Raises UnreachableError if nobody listens at the target's address."""
    with closing(Connection(target, timeout_s=5.0)) as connection:
        answer = connection.request("GET", "/")
    if answer is None:
        raise UnreachableError(
            f"no API answers at {target.url}: is the product running (`make run`)?"
        )
    connection.close()


def _read_env_file(file: Path) -> dict[str, str]:
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}
