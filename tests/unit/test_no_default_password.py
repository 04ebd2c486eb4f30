"""No password is written down anywhere: each is made up on the machine where it is used."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stack import env
from stack.home import ROOT

COMPOSE = (ROOT / "docker-compose.yml").read_text()
SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|_AUTH$|CLI_AUTH|API_KEY", re.IGNORECASE)
#: What servers are delivered with, and what people type first.
WELL_KNOWN = re.compile(
    r"(?<![\w-])(admin:admin|postgres:postgres|guest:guest|root:root|changeme|hunter2"
    r"|letmein|passw0rd|password123|s3cret)(?![\w-])",
    re.IGNORECASE,
)


def tracked() -> Iterator[Path]:
    """Every text file of the repository, this one excepted."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],  # noqa: S607  (whichever git there is)
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a checkout of git")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path != Path(__file__):
            yield path


def test_no_file_holds_a_password_that_everybody_knows() -> None:
    found = {
        str(path.relative_to(ROOT)): WELL_KNOWN.findall(text)
        for path in tracked()
        if WELL_KNOWN.search(text := path.read_text(errors="replace"))
    }
    assert found == {}


def test_compose_has_no_secret_with_a_default() -> None:
    """`${X:-y}` and `${X}` start without X; `${X:?}` does not."""
    lenient = re.findall(r"\$\{(\w+)(?::-[^}]*|-[^}]*)?\}", COMPOSE)
    assert [name for name in lenient if SECRET.search(name)] == []


def test_every_secret_of_every_service_comes_from_a_required_variable() -> None:
    for name, service in yaml.safe_load(COMPOSE)["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            if SECRET.search(variable) and value is not None:
                assert re.search(r"\$\{\w+:\?", str(value)), (name, variable)
        if re.search(r"postgres|pgadmin|valkey|redis|flower", str(service), re.IGNORECASE):
            assert "trust" not in str(service.get("environment")), name


def test_the_example_leaves_every_secret_empty_and_make_env_fills_it() -> None:
    example = (ROOT / ".env.example").read_text()
    given = env.assignments(example)
    assert {name for name in given if SECRET.search(name)} == set(env.secret_names(example))
    assert not [name for name, value in given.items() if SECRET.search(name) and value]
    one, two = (
        env.assignments(env.completed(example, env.secret_names(example))[0]) for _ in range(2)
    )
    for name in env.secret_names(example):
        assert len(one[name]) >= 43, "256 bits"
        assert one[name] != two[name]
    assert len({one[name] for name in env.secret_names(example)}) == len(env.secret_names(example))


def test_settings_have_no_default_for_an_address_with_a_password() -> None:
    text = (ROOT / "settings.py").read_text()
    for name in ("DATABASE_URL", "STREAM_URL", "CELERY_BROKER_URL"):
        assert f'env.str("{name}")' in text, name
