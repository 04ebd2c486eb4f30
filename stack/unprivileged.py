"""PostgreSQL refuses to run as root; this is how root runs it all the same.

First choice is a user namespace of one process in which root is called nobody: no account is made,
no file changes hands, the pid stays the same. Where namespaces are refused (a container with the
default seccomp profile) the server really becomes nobody, and its data folder is given to nobody.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

from stack.errors import StackError

#: nobody: initdb looks its own user up, and this one is in the passwd file everywhere.
NOBODY = 65534
_NAMESPACE = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--")
_SETPRIV = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")

_NO_WAY = """\
PostgreSQL does not run as root, and this machine allows neither of the two ways around it:
no user namespace of its own ({namespace}), and not as the user nobody ({nobody}).
Run as an ordinary user, or set DATABASE_URL to a PostgreSQL that is already running."""


def prefix(program: Path, data_dir: Path) -> tuple[str, ...]:
    """What to put before `program` so that it may run, owning `data_dir`; empty for ordinary users.

    Raises StackError when root has no way to become someone else here.
    """
    if os.geteuid() != 0:
        return ()
    namespace_trouble = _trouble_of((*_NAMESPACE, str(program), "--version"))
    if not namespace_trouble:
        return _NAMESPACE
    # Asked from within: setpriv itself may start what nobody then cannot read.
    nobody_trouble = _trouble_of((*_SETPRIV, "test", "-x", str(program))) or _give_away(data_dir)
    if not nobody_trouble:
        return _SETPRIV
    raise StackError(_NO_WAY.format(namespace=namespace_trouble, nobody=nobody_trouble))


def _give_away(folder: Path) -> str:
    """Hand `folder` with all it holds to nobody; why nobody cannot use it, or empty."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return _trouble_of((*_SETPRIV, "test", "-w", str(folder)))


@cache
def _trouble_of(command: tuple[str, ...]) -> str:
    """Why `command` does not succeed, empty when it does. Asked once for each command."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return f"{command[0]} is not installed"
    return "" if done.returncode == 0 else done.stderr.strip() or f"{command[-1]} is out of reach"
