"""The folder that holds everything a stack keeps: data, secrets, logs. `.local/` by default.

Two stacks never share a home: one process holds its lock for as long as its stack runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError

#: All that is ever written into a home.
_CONTENTS = (
    *("postgres", "postgres.unfinished", "stream", "broker", "logs", "metrics", "lock"),
    *("ports.json", "secrets.json", "credentials.env", "supervisord.conf", "supervisord.pid"),
)

#: The checkout.
ROOT = Path(__file__).resolve().parent.parent


def default_path() -> Path:
    """ENERGY_HOME, or `.local/` in the checkout."""
    return Path(os.environ.get("ENERGY_HOME") or ROOT / ".local")


@dataclass(frozen=True, slots=True)
class Home:
    """Where things are. `path` is absolute; call `prepare()` before anything is written."""

    path: Path

    @classmethod
    def at(cls, path: Path | str) -> Home:
        """The home at `path`, relative to the current folder if need be."""
        return cls(Path(path).absolute())

    @property
    def postgres(self) -> Path:
        """The cluster's data folder."""
        return self.path / "postgres"

    @property
    def stream(self) -> Path:
        """The data folder of the server that holds accepted readings."""
        return self.path / "stream"

    @property
    def broker(self) -> Path:
        """The data folder of the server that carries Celery's messages."""
        return self.path / "broker"

    @property
    def logs(self) -> Path:
        """One log per process, rotated by the supervisor."""
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        """PROMETHEUS_MULTIPROC_DIR: counters of the processes of this start."""
        return self.path / "metrics"

    @property
    def ports(self) -> Path:
        """The remembered ports of the servers that need no fixed one."""
        return self.path / "ports.json"

    @property
    def credentials(self) -> Path:
        """API_URL and API_KEY of the first fleet, for `make seed` and for people."""
        return self.path / "credentials.env"

    @property
    def supervisor_config(self) -> Path:
        """Written at each start."""
        return self.path / "supervisord.conf"

    def prepare(self) -> None:
        """Make the folders, for their owner only; empty the metrics of an earlier start.

        Raises StackError when the home belongs to someone else.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.path.stat().st_uid != os.geteuid():
            raise self._not_ours()
        shutil.rmtree(self.metrics, ignore_errors=True)
        for folder in (self.logs, self.metrics):
            folder.mkdir(exist_ok=True, mode=0o700)

    def delete(self) -> list[str]:
        """Delete what a stack keeps here and nothing else; returns the names of what remains."""
        for name in _CONTENTS:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
                draft_of(path).unlink(missing_ok=True)
        remaining = sorted(path.name for path in self.path.iterdir())
        if not remaining:
            self.path.rmdir()
        return remaining

    def secret(self, name: str) -> str:
        """A random password, the same one every time."""
        file = self.path / "secrets.json"
        known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        if name not in known:
            known[name] = secrets.token_urlsafe(24)
            write_private(file, json.dumps(known, indent=1))
        return known[name]

    def _refuse_other_things(self) -> None:
        theirs = sorted({path.name for path in self.path.iterdir()} - set(_CONTENTS))
        if theirs and not (self.path / "lock").exists():
            raise StackError(
                f"{self.path} already holds other things ({', '.join(theirs[:3])} ...): "
                "choose an empty folder, or one that does not exist yet, for ENERGY_HOME."
            )

    def _not_ours(self) -> StackError:
        return StackError(
            f"{self.path} cannot be used by this user (number {os.geteuid()}). Start as its owner, "
            "or choose another folder: ENERGY_HOME=DIR"
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this home, made if need be. Raises StackError when another process does.

        A folder that holds other things is refused: `make clean` must be safe anywhere.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._refuse_other_things()
            file = (self.path / "lock").open("a+")
        except PermissionError as error:
            raise self._not_ours() from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise StackError(
                    f"`make run` is running here already (process {file.read().strip()}, "
                    f"home {self.path}). `make status` shows its parts."
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield


def write_private(file: Path, text: str) -> None:
    """Replace `file` in one step, readable for its owner only."""
    draft = draft_of(file)
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.replace(file)


def draft_of(file: Path) -> Path:
    """Where `file` is written before it takes its place."""
    return file.with_name(file.name + ".draft")
