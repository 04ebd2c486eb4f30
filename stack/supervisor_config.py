"""The configuration of supervisor, written anew at each start from the list of programs."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from stack.errors import StackError
from stack.home import ROOT, Home, write_private
from stack.ports import LOOPBACK
from stack.programs import GROUPS, Program

#: The account of supervisor's own port; the password is a secret of the home.
USER = "supervisor"

#: Tries before supervisor gives a program up. Each waits a second longer than the one before, so
#: this is over an hour: a full disk can be noticed and cleared.
START_RETRIES = 100

_LOG_BYTES = "10MB"
_LOG_BACKUPS = 3

_UNFIT = (
    "Supervisor's configuration cannot hold {!r}, which is part of {!r}. "
    "Move the checkout (or ENERGY_HOME) to a path without it."
)


def write(home: Home, programs: Sequence[Program], port: int) -> Path:
    """Write the file, which holds a password, and return where it is."""
    write_private(home.supervisor_config, render(home, programs, port))
    return home.supervisor_config


def render(home: Home, programs: Sequence[Program], port: int) -> str:
    """The file's text: the supervisor itself, then the groups, then their programs.

    Raises StackError for a path that the format cannot carry.
    """
    parts = [_supervisor(home, port)]
    parts += [_group(name, programs) for name in GROUPS if _names(name, programs)]
    parts += [_program(home, program) for program in programs]
    return "\n".join(parts)


def _supervisor(home: Home, port: int) -> str:
    # Over TCP, since the path of a Unix socket may have 107 bytes and a deep checkout has more.
    password = home.secret("supervisor")
    sections: dict[str, Mapping[str, object]] = {
        "supervisord": {
            "logfile": _path(home.logs / "processes.log"),
            "logfile_maxbytes": _LOG_BYTES,
            "logfile_backups": _LOG_BACKUPS,
            "pidfile": _path(home.path / "supervisord.pid"),
            "umask": "077",
            "silent": "true",
        }
        | ({"user": "root"} if os.geteuid() == 0 else {}),  # says that it is meant
        "inet_http_server": {
            "port": f"{LOOPBACK}:{port}",
            "username": USER,
            "password": password,
        },
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface",
        },
        # For people: supervisorctl -c .local/supervisord.conf status
        "supervisorctl": {
            "serverurl": f"http://{LOOPBACK}:{port}",
            "username": USER,
            "password": password,
        },
        "eventlistener:sweeper": {
            "command": _command((sys.executable, "-I", "-S", str(ROOT / "stack" / "sweeper.py"))),
            "events": "PROCESS_STATE_EXITED",
            "stderr_logfile": _path(home.logs / "sweeper.log"),
        },
    }
    return "\n".join(_section(name, settings) for name, settings in sections.items())


def _group(name: str, programs: Sequence[Program]) -> str:
    # What has the highest priority starts last and stops first.
    priority = 100 * (len(GROUPS) - GROUPS.index(name))
    return _section(
        f"group:{name}", {"programs": ",".join(_names(name, programs)), "priority": priority}
    )


def _names(group: str, programs: Sequence[Program]) -> list[str]:
    return [program.name for program in programs if program.group == group]


def _program(home: Home, program: Program) -> str:
    return _section(
        f"program:{program.name}",
        {
            "command": _command(program.command),
            "directory": _path(ROOT),
            # The launcher starts the application once the data servers answer.
            "autostart": "false" if program.group == "app" else "true",
            "autorestart": "true",
            "startretries": START_RETRIES,
            "stopsignal": program.stop_signal,
            "stopwaitsecs": program.stop_seconds,
            # Celery stops in peace when its parent alone is told to; what hangs is killed whole.
            "stopasgroup": "false",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": _path(home.logs / f"{program.name}.log"),
            "stdout_logfile_maxbytes": _LOG_BYTES,
            "stdout_logfile_backups": _LOG_BACKUPS,
        },
    )


def _section(name: str, settings: Mapping[str, object]) -> str:
    lines = (f"{key}={value}\n" for key, value in settings.items())
    return f"[{name}]\n{''.join(lines)}"


def _command(words: Sequence[str]) -> str:
    return _line(shlex.join(words)).replace("%", "%%")


def _path(path: Path) -> str:
    if "%" in str(path):  # of some values supervisor expands the escaped form a second time
        raise StackError(_UNFIT.format("%", str(path)))
    return _line(str(path))


def _line(text: str) -> str:
    for token in (" ;", " #", "\n"):
        if token in text:
            raise StackError(_UNFIT.format(token, text))
    return text
