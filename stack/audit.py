"""`make lint`'s last check: does anything that is pinned have a known vulnerability?

pip-audit asks an advisory service about every pinned requirement. A machine without a way to that
service cannot know, and says so: nobody should be kept from working by somebody else's server.
Where not knowing must fail (a release), set AUDIT=required.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import NamedTuple

from stack.home import ROOT

#: Vulnerabilities that do not concern this product: id -> why. Look again with each `make lock`.
ACCEPTED: dict[str, str] = {}

#: Everything: what runs, and what builds and tests it.
REQUIREMENTS = "requirements-dev.txt"
TIMEOUT_SECONDS = 120

#: What pip-audit and the libraries below it say when nobody answers.
_UNREACHABLE = (
    "ConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "Could not connect",
    "timed out",
)


class Verdict(NamedTuple):
    """What to say, and whether it is a reason to stop."""

    text: str
    failed: bool


def main() -> int:
    """Audit, say what was found, return the exit code."""
    required = os.environ.get("AUDIT") == "required"
    try:
        done = subprocess.run(
            command(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
        found = verdict(done.stdout, done.stderr, required=required)
    except subprocess.TimeoutExpired:
        found = verdict("", "timed out", required=required)
    print(found.text, file=sys.stderr if found.failed else sys.stdout)
    return int(found.failed)


def command(*more: str) -> list[str]:
    """pip-audit over the lock file as it stands: nothing is resolved or installed."""
    options = ["--disable-pip", "--require-hashes", "--vulnerability-service", "osv"]
    options += ["--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    ignored = [part for name in ACCEPTED for part in ("--ignore-vuln", name)]
    file = ["--requirement", REQUIREMENTS]
    return [sys.executable, "-m", "pip_audit", *file, *options, *ignored, *more]


def verdict(output: str, errors: str, *, required: bool) -> Verdict:
    """What pip-audit's output means. Its exit code is 1 for a finding and for a failure alike."""
    try:
        audited = json.loads(output)["dependencies"]
    except ValueError:
        return _not_audited(errors, required=required)
    flaws = [(one, flaw) for one in audited for flaw in one.get("vulns", [])]
    if not flaws:
        return Verdict(f"Audit: no known vulnerability in {len(audited)} requirements.", False)
    lines = [_line(one, flaw) for one, flaw in flaws]
    return Verdict("\n".join(["Audit: known vulnerabilities.", *lines]), True)


def _not_audited(errors: str, *, required: bool) -> Verdict:
    last = errors.strip().splitlines()[-1] if errors.strip() else "it said nothing"
    if not any(sign in errors for sign in _UNREACHABLE):
        return Verdict(f"Audit: pip-audit failed: {last}", True)
    text = "Audit: NOT DONE, the advisory service cannot be reached from here"
    if required:
        return Verdict(f"{text}, and AUDIT=required.", True)
    return Verdict(f"{text} (AUDIT=required makes this an error).", False)


def _line(one: dict[str, str], flaw: dict[str, object]) -> str:
    versions = flaw.get("fix_versions")
    fixed = (
        ", ".join(map(str, versions)) if isinstance(versions, list) and versions else "no version"
    )
    return f"  {one['name']} {one['version']}: {flaw['id']}, mended in {fixed}"


if __name__ == "__main__":
    sys.exit(main())
