"""Ports: find a free one, remember it, name who holds a taken one."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from stack.errors import StackError
from stack.home import write_private

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether nobody listens on `port`, on either of the addresses that localhost may mean."""
    return _can_listen(socket.AF_INET, LOOPBACK, port) and _can_listen(socket.AF_INET6, "::1", port)


def _can_listen(family: socket.AddressFamily, address: str, port: int) -> bool:
    try:
        with socket.socket(family) as probe:
            # Connections of an earlier start that linger in TIME_WAIT are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            probe.listen(1)
            return True
    except PermissionError as error:
        raise StackError(f"Port {port} is reserved for root; choose one above 1023.") from error
    except OSError:
        # Without IPv6 there is no one to be in the way there.
        return family == socket.AF_INET6 and not _has_ipv6()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            return True
    except OSError:
        return False


def require_free(port: int, purpose: str, variable: str) -> None:
    """Raise a StackError that names the port, and its holder if that can be seen, when taken."""
    if is_free(port):
        return
    raise StackError(
        f"Port {port} ({purpose}) is taken{_holder(port)}. "
        f"Stop that, or choose another port: {variable}=PORT make run"
    )


def _holder(port: int) -> str:
    """ " by NAME (process PID)", or nothing when the system does not tell."""
    try:
        for connection in psutil.net_connections("tcp"):
            listening = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            if listening and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        return ""
    return ""


def remembered(file: Path, names: Iterable[str]) -> dict[str, int]:
    """A free port for each name: the one of last time where nobody has taken it since."""
    known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    for name in names:
        if name not in known or not is_free(known[name]):
            known[name] = free_port()
    write_private(file, json.dumps(known, indent=1))
    return known


def from_environment(variable: str, default: int) -> int:
    """The port that `variable` names. Raises StackError when it is not a port."""
    text = os.environ.get(variable, "") or str(default)
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:  # noqa: PLR2004
        raise StackError(f"{variable} is {text!r}; a port is a number from 1 to 65535.")
    return int(text)
