"""`make env`: writes .env for docker-compose.yml, with a random value for every secret.

Standard library only: it runs before anything is installed (`python3 stack/env.py`). The list of
secrets is .env.example: a variable without a value there is one.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*?)\s*$")


def assignments(text: str) -> dict[str, str]:
    """The variables that a .env text sets; the last one wins, as in Docker Compose."""
    found = (_ASSIGNMENT.match(line) for line in text.splitlines())
    return {match[1]: match[2] for match in found if match}


def secret_names(example: str) -> list[str]:
    """What has to be made up: the variables that .env.example leaves empty."""
    return [name for name, value in assignments(example).items() if not value]


def completed(text: str, names: list[str]) -> tuple[str, list[str]]:
    """`text` with a random value for each of `names` that has none, and which those were."""
    given = assignments(text)
    missing = [name for name in names if given.get(name, "") in {"", '""', "''"}]
    lines = text.splitlines()
    for name in missing:
        # Letters, digits, "-" and "_": safe in URLs, in Valkey's configuration and in .env itself.
        line = f"{name}={secrets.token_urlsafe(32)}"
        empty = [
            number
            for number, old in enumerate(lines)
            if (match := _ASSIGNMENT.match(old)) and match[1] == name
        ]
        if empty:
            lines[empty[-1]] = line
        else:
            lines.append(line)
    return "".join(f"{line}\n" for line in lines), missing


def write(example: Path, target: Path) -> list[str]:
    """Make `target` from `example`, or complete it; returns one sentence for each thing done.

    What a variable is set to in an existing `target` stays as it is.
    """
    template = example.read_text(encoding="utf-8")
    exists = target.exists()
    before = target.read_text(encoding="utf-8") if exists else template
    after, added = completed(before, secret_names(template))
    said = []
    if not exists:
        said.append(f"Wrote {target.name} with {len(added)} random secrets: {', '.join(added)}.")
    elif added:
        said.append(f"Added to {target.name}: {', '.join(added)}. The rest is as it was.")
        said.append("A server whose volume exists keeps the password that it was made with.")
    else:
        said.append(f"{target.name} has every secret already; nothing was changed.")
    if exists and target.stat().st_mode & 0o077:
        target.chmod(0o600)
        said.append(f"{target.name} could be read by others; now only you can (mode 0600).")
    if added or not exists:
        _replace(target.resolve(), after)
    return said


def _replace(target: Path, text: str) -> None:
    """Write all or nothing, and never for a moment readable by others."""
    draft = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def main(root: Path = ROOT) -> int:
    """Do it and say it."""
    try:
        for sentence in write(root / ".env.example", root / ".env"):
            print(sentence)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
