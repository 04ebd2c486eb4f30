"""Dockerfile and .dockerignore against the checkout: what is in the image, who runs it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def _read(name: str) -> str:
    return (ROOT / name).read_text()


DOCKERFILE = _read("Dockerfile")
COPIED = {
    source
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
    for source in line.split()[:-1]
}


def test_the_image_is_pinned_hashed_and_not_roots() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert set(bases) == {"python:3.13-slim"}
    services = yaml.safe_load(_read("docker-compose.yml"))["services"]
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.M)[-1] == services["web"]["user"]
    assert not services["web"]["user"].startswith(("0", "root"))
    assert "--require-hashes" in DOCKERFILE
    gone = re.search(r"uninstall --yes (.+)", DOCKERFILE)
    assert gone
    assert set(gone[1].split()) <= set(re.findall(r"^[\w-]+", _read("requirements.in"), re.M))


def test_the_image_holds_the_product_and_the_context_nothing_else() -> None:
    allowed = {line[1:] for line in _read(".dockerignore").splitlines() if line.startswith("!")}
    assert allowed == COPIED
    assert all((ROOT / source).exists() for source in COPIED)
    rooms = tomllib.loads(_read("pyproject.toml"))["tool"]["importlinter"]["root_packages"]
    assert {*rooms, "celeryconfig.py", "settings.py"} - {"stack"} <= COPIED


def test_what_the_commands_read_at_run_time_is_in_the_image() -> None:
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    for name in ("pyproject.toml", "migrations", "celeryconfig.py", "deploy/alive.py"):
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", final, re.M), name
    assert "requirements.txt" not in final
