"""The machine line: without it no figure means anything."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil  # type: ignore[import-untyped]
import psycopg

from workers import stream


def describe(folder: Path, database_url: str) -> str:
    """Cores, processor, memory, disk, and the versions of what did the work."""
    memory = psutil.virtual_memory().total / 1e9
    with psycopg.connect(database_url) as conn:
        postgres = conn.info.parameter_status("server_version") or "?"
    valkey = stream.client().info("server")
    return "\n".join(
        (
            f"Machine: {os.cpu_count()} cores ({_processor()}), {memory:.0f} GB, "
            f"{platform.system()}; one fsync of the disk takes {_fsync_ms(folder):.2f} ms.",
            f"Software: Python {platform.python_version()}, PostgreSQL {postgres.split()[0]}, "
            f"Valkey {valkey.get('valkey_version', valkey['redis_version'])}; "
            "fsync on, appendfsync always.",
        )
    )


def load_average() -> str:
    """What else the machine has to do: the last minute's, for the reader to judge."""
    return f"{os.getloadavg()[0]:.1f}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _fsync_ms(folder: Path, times: int = 50) -> float:
    """Median time to bring 8 kB to the disk: the floor under every promise."""
    taken = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(times):
            began = time.perf_counter()
            file.write(bytes(8192))
            os.fsync(file.fileno())
            taken.append(1000 * (time.perf_counter() - began))
    return median(taken)
