"""What the processes of each program use: CPU seconds, and the most memory they ever held."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

#: Seconds between two looks at memory.
_LOOK_SECONDS = 1.0
_MB = 1_000_000

#: Program -> its topmost processes; asked anew each time, since a program may be restarted.
Roots = Callable[[], Mapping[str, Iterable[int]]]


@dataclass(slots=True)
class Memory:
    """The most that was seen of one program, MB."""

    processes: int = 0
    #: Resident memory of its largest process; of all at one moment, with shared pages counted once.
    largest: float = 0.0
    together: float = 0.0


class Usage:
    """A view of the programs' process trees."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self.memory: defaultdict[str, Memory] = defaultdict(Memory)

    def cpu_seconds(self) -> dict[str, float]:
        """User and system time by program, of children alive and of those that have ended."""
        used: dict[str, float] = {}
        for name, processes in self._trees().items():
            times = [process.info["cpu_times"] for process in processes]
            used[name] = sum(
                t.user
                + t.system
                + getattr(t, "children_user", 0)
                + getattr(t, "children_system", 0)
                for t in times
                if t is not None
            )
        return used

    def look(self) -> None:
        """Note the memory in use now where it is more than ever."""
        for name, processes in self._trees().items():
            held = [p.info["memory_info"] for p in processes if p.info["memory_info"]]
            sizes = [memory.rss for memory in held]
            shared = [getattr(memory, "shared", 0) for memory in held]  # Linux tells
            together = sum(sizes) - sum(shared) + max(shared, default=0)
            seen = self.memory[name]
            seen.processes = max(seen.processes, len(sizes))
            seen.largest = max(seen.largest, max(sizes, default=0) / _MB)
            seen.together = max(seen.together, together / _MB)

    @contextmanager
    def afresh(self, seconds: float) -> Iterator[Mapping[str, Memory]]:
        """The most that is held during the block alone, looked at every so often."""
        view = Usage(self._roots)
        with view.watching(seconds):
            yield view.memory

    @contextmanager
    def watching(self, seconds: float = _LOOK_SECONDS) -> Iterator[None]:
        """Look every so often until the block ends, and once more then."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(seconds):
                self.look()
            self.look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _trees(self) -> dict[str, list[psutil.Process]]:
        """Each program's processes, found in one pass over the process table."""
        roots = self._roots()
        owner = {pid: name for name, pids in roots.items() for pid in pids}
        found: dict[str, list[psutil.Process]] = {name: [] for name in roots}
        everyone = psutil.process_iter(["ppid", "create_time", "cpu_times", "memory_info"])
        for process in sorted(
            everyone, key=lambda p: float(p.info["create_time"])
        ):  # parents first
            name = owner.get(process.pid) or owner.get(process.info["ppid"])
            if name is not None:
                owner[process.pid] = name
                found[name].append(process)
        return found


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """CPU seconds used in between, by program."""
    return {name: max(0.0, after[name] - before.get(name, 0.0)) for name in after}
