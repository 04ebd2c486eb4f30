"""`.local/credentials.env`: where the API is and a key for it, for `make seed` and for people."""

from __future__ import annotations

from stack.home import Home, write_private


def read_key(home: Home) -> str | None:
    """The key that an earlier start wrote, if any."""
    if not home.credentials.exists():
        return None
    for line in home.credentials.read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "API_KEY" and value:
            return value
    return None


def write(home: Home, api_url: str, key: str) -> None:
    """Remember both; the port may be another than last time."""
    write_private(home.credentials, f"API_URL={api_url}\nAPI_KEY={key}\n")
