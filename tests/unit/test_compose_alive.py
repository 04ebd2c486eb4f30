"""deploy/alive.py, the health check of worker and beat: a made-up /proc, real processes."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="runs in a container only, where /proc is"
)

BROKER = "redis://:secret@redis-broker:6380/0"
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue\n"
BROKER_ROW = "   0: 0200120A:D2F0 0300120A:18EC 01 00000000:00000000\n"  # 18EC = 6380, 01 = up
LISTEN_ROW = "   1: 00000000:18EC 00000000:0000 0A 00000000:00000000\n"


@pytest.fixture(scope="module")
def alive() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "deploy" / "alive.py"
    spec = importlib.util.spec_from_file_location("alive", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A real process with a loop that turns ten times a second."""
    loop = "import time\nwhile True: time.sleep(0.1)"
    with subprocess.Popen([sys.executable, "-c", loop]) as process:
        yield process.pid
        process.kill()


def proc(folder: Path, pid: int | None = None, tcp: str = BROKER_ROW) -> Path:
    """A /proc in which `pid`, if any, is celery's main process."""
    (folder / "net").mkdir()
    (folder / "net" / "tcp").write_text(HEAD + tcp)
    for number, name in ((1, "docker-init"), (pid or 0, "celery"), (2**22 + 1, "celery")):
        if number and (pid or number == 1):
            (folder / str(number)).mkdir()
            (folder / str(number) / "comm").write_text(f"{name}\n")
    if pid:
        (folder / str(pid) / "status").symlink_to(f"/proc/{pid}/status")
    return folder


def test_a_turning_loop_with_a_broker_is_alive(
    alive: ModuleType, tmp_path: Path, sleeper: int
) -> None:
    assert alive.trouble(proc(tmp_path, sleeper), BROKER, 5) is None


def test_a_stopped_process_is_not(alive: ModuleType, tmp_path: Path, sleeper: int) -> None:
    os.kill(sleeper, signal.SIGSTOP)
    os.waitpid(sleeper, os.WUNTRACED)  # until it has stopped
    assert "not a turn" in alive.trouble(proc(tmp_path, sleeper), BROKER, 0.5)


@pytest.mark.parametrize(
    "rows", ["", LISTEN_ROW, BROKER_ROW.replace(" 01 ", " 02 "), BROKER_ROW.replace("C 01", "B 01")]
)
def test_no_established_connection_to_the_broker_is_trouble(
    alive: ModuleType, tmp_path: Path, sleeper: int, rows: str
) -> None:
    trouble = alive.trouble(proc(tmp_path, sleeper, rows), BROKER, 5)
    assert trouble == "no connection to the broker's port 6380"


def test_no_celery_is_trouble(alive: ModuleType, tmp_path: Path) -> None:
    assert alive.trouble(proc(tmp_path), BROKER, 5) == "no process called celery"


def test_the_brokers_scheme_tells_its_port(alive: ModuleType, tmp_path: Path, sleeper: int) -> None:
    row = BROKER_ROW.replace("18EC", f"{5672:04X}")
    assert alive.trouble(proc(tmp_path, sleeper, row), "amqp://u:p@rabbit/v", 5) is None
