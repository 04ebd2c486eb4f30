"""Ports: the clear error line of a taken one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import ports
from stack.errors import StackError


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def taken(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port that this very process listens on, at either address of localhost."""
    family, address = request.param
    try:
        listener = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {address}")
    with listener:
        yield listener.getsockname()[1]


def test_a_taken_port_is_named_with_its_holder(taken: int) -> None:
    with pytest.raises(StackError) as raised:
        ports.require_free(taken, "the API", "API_PORT")
    message = str(raised.value)
    assert f"Port {taken} (the API) is taken by" in message
    assert f"process {os.getpid()}" in message
    assert "API_PORT=PORT make run" in message
    assert "\n" not in message


def test_a_free_port_passes() -> None:
    ports.require_free(ports.free_port(), "the API", "API_PORT")


def test_connections_that_linger_are_no_obstacle() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listener.accept()
            accepted.close()  # this end goes into TIME_WAIT
    assert ports.is_free(port)


def test_ports_are_remembered_and_chosen_anew_when_taken(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    first = ports.remembered(file, ("postgres", "stream"))
    assert ports.remembered(file, ("postgres", "stream")) == first
    with socket.create_server(("127.0.0.1", first["stream"])):
        second = ports.remembered(file, ("postgres", "stream"))
    assert second["postgres"] == first["postgres"]
    assert second["stream"] != first["stream"]


def test_the_environment_overrides_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "8080")
    assert ports.from_environment("API_PORT", 3000) == 8080
    monkeypatch.setenv("API_PORT", "")
    assert ports.from_environment("API_PORT", 3000) == 3000


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1", "3000.5", "²"])
def test_what_is_not_a_port_is_refused_by_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", text)
    with pytest.raises(StackError, match="API_PORT is"):
        ports.from_environment("API_PORT", 3000)
