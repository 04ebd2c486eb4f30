"""Make the virtual environment when it is needed, then become the module that was asked for.

    python3 stack/bootstrap.py [--dev] MODULE [ARGUMENT ...]

Standard library only, and old syntax only: a Python that is too old must get as far as its message.
Nothing is downloaded when the requirements are the ones that were installed last time.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OLDEST = (3, 11)

#: What each of the two kinds of environment can stand in for: the larger one holds the smaller.
RUN, DEV = "requirements.txt", "requirements-dev.txt"
_ALSO = {RUN: (RUN,), DEV: (DEV, RUN)}

_NO_PIP = (
    "This Python cannot make a virtual environment with pip: its module ensurepip is missing.\n"
    "On Debian and Ubuntu: apt install python{0}.{1}-venv   (or put uv on the PATH)"
)


class CannotStartError(Exception):
    """The message says what to do."""


def main(arguments: list[str]) -> None:
    """Prepare, then exec; does not return. Raises CannotStartError."""
    require_version(sys.version_info[:2])
    dev = arguments[:1] == ["--dev"]
    module = arguments[1:] if dev else arguments
    if not module:
        raise CannotStartError(__doc__ or "")
    python = prepare(DEV if dev else RUN)
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execv(python, [python, "-m", *module])  # noqa: S606  (one process, one signal to stop it)


def require_version(version: tuple[int, ...]) -> None:
    """Raise CannotStartError for a Python that is too old."""
    if version < OLDEST:
        raise CannotStartError(
            "This is Python {}.{}; {}.{} or newer is needed. ".format(*version, *OLDEST)
            + "Name one: make run PYTHON=python3.11"
        )


def prepare(requirements: str) -> str:
    """The virtual environment's Python, after installing into it what `requirements` lists."""
    with open(__file__) as only_one_installs_at_a_time:
        fcntl.flock(only_one_installs_at_a_time, fcntl.LOCK_EX)
        reason = unfit(VENV)
        if reason:
            print(f"Making {VENV} with Python {sys.version.split()[0]}: {reason}.", flush=True)
            remove(VENV)
            create(VENV)
        hold(VENV)
        if not is_current(VENV, requirements):
            install(VENV, requirements)
    return str(python_of(VENV))


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / "bin" / "python"


def unfit(folder: Path) -> str:
    """Why the virtual environment cannot be used with this Python; empty when it can."""
    if not (folder / "pyvenv.cfg").exists():
        return "there is none yet" if not folder.exists() else "the one there is incomplete"
    version = version_of(folder)
    if not version:
        return "the interpreter of the one there does not run"
    same = version.split(".")[:2] == [str(number) for number in sys.version_info[:2]]
    return "" if same else f"the one there is for Python {version}"


def version_of(folder: Path) -> str:
    """Of the environment's interpreter, like 3.11.2; empty when it does not run."""
    ask = "import platform; print(platform.python_version())"
    command = [str(python_of(folder)), "-I", "-c", ask]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def remove(folder: Path) -> None:
    """Delete an unfit environment. Raises CannotStartError while a program runs from it."""
    if folder.is_symlink():  # only the name is ours; it may lead nowhere, or into a circle
        folder.unlink()
    if not folder.exists():
        return
    config = folder / "pyvenv.cfg"
    try:
        if config.exists():
            with config.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:
        raise CannotStartError(
            f"{folder} must be made anew, but a running program uses it (`make run`?). "
            "Stop that first, or start with the same Python: PYTHON=python3.x"
        ) from None
    except PermissionError as error:
        raise CannotStartError(f"{folder} must be made anew, but: {error}") from error


def hold(folder: Path) -> None:
    """Keep a shared lock that outlives exec, so that nobody deletes what we run from."""
    config = os.open(folder / "pyvenv.cfg", os.O_RDONLY)
    fcntl.flock(config, fcntl.LOCK_SH)
    os.set_inheritable(config, True)


def create(folder: Path) -> None:
    """An empty virtual environment of this Python."""
    uv = find_uv()
    if uv and run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)]):
        return
    if importlib.util.find_spec("ensurepip") is None:
        raise CannotStartError(_NO_PIP.format(*sys.version_info[:2]))
    venv.create(folder, symlinks=True, with_pip=True, clear=True)


def find_uv() -> str | None:
    """uv, when it is there and runs: a version manager's shim may be a name without a program."""
    uv = shutil.which("uv")
    return uv if uv and run([uv, "--version"], quiet=True) else None


def stamp_of(folder: Path, requirements: str) -> Path:
    """The file that says: this requirement file, with this content, is installed."""
    return folder / f"{requirements}.sha256"


def fingerprint(folder: Path, requirements: str) -> str:
    """What the stamp holds. Even 3.11.2 and 3.11.7 need different packages."""
    content = (ROOT / requirements).read_bytes()
    return f"{hashlib.sha256(content).hexdigest()} for Python {version_of(folder)}\n"


def is_current(folder: Path, requirements: str) -> bool:
    """Whether exactly this requirement file was installed completely, for this interpreter."""
    stamp = stamp_of(folder, requirements)
    return stamp.exists() and stamp.read_text() == fingerprint(folder, requirements)


def install(folder: Path, requirements: str) -> None:
    """Install and stamp. Interrupted there is no stamp, so the next start does it again."""
    for name in _ALSO:
        if stamp_of(folder, name).exists():
            stamp_of(folder, name).unlink()
    print(f"Installing {requirements} into {folder} (once) ...", flush=True)
    # The files name everything. Left to resolve, pip looks at what a package with an extra could
    # be today, and refuses: that version stands in no file.
    target = ["--no-deps", "--require-hashes", "-r", str(ROOT / requirements)]
    uv, python = find_uv(), str(python_of(folder))
    # uv does not compile unless told to; seven processes would do it at the first start instead.
    how = ["pip", "install", "--quiet", "--compile-bytecode", "--python", python]
    if not (uv and run([uv, *how, *target])):
        install_with_pip(python, target)
    for name in _ALSO[requirements]:
        stamp_of(folder, name).write_text(fingerprint(folder, name))


def install_with_pip(python: str, target: list[str]) -> None:
    """By pip, which keeps what it downloads: the next environment is made from its cache."""
    if not run([python, "-m", "pip", "--version"], quiet=True) and not run(
        [python, "-m", "ensurepip"], quiet=True
    ):
        raise CannotStartError(_NO_PIP.format(*sys.version_info[:2]))
    # -qq leaves errors only: its warnings are about the machine's configuration, not about us.
    if not run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *target]):
        raise CannotStartError("The requirements could not be installed; the reason is above.")


def run(command: list[str], quiet: bool = False) -> bool:
    """Whether the command succeeds."""
    output = subprocess.DEVNULL if quiet else None
    # A user's configuration may say "install for me alone", which no virtual environment can do.
    environment = dict(os.environ, PIP_USER="0")
    done = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except CannotStartError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the next start goes on from here.")
