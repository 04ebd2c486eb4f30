"""What is documented is true: settings, reasons, links, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
NUMBERS = (ROOT / "docs" / "numbers.md").read_text()

#: env.int("NAME", 4 * 1024 * 1024) -> NAME, "4 * 1024 * 1024"
_READ = re.compile(r'env\.\w+\("(?P<name>[A-Z_]+)"(?:, (?P<default>[^)]+))?\)')
_ROW = re.compile(r"^\| `(?P<name>[A-Z_]+)` \| (?P<default>\S*) ?\|", re.MULTILINE)
_REASON = re.compile(r'"((?:[A-Z]+_)+[A-Z]+|UNASSIGNED)"')


def _value(expression: str | None) -> str:
    """A default as the table spells it: products multiplied, 10.0 as 10, strings bare."""
    if expression in (None, "None"):
        return ""
    factors = expression.replace("_", "").split(" * ")
    if all(re.fullmatch(r"[\d.]+", factor) for factor in factors):
        product = 1.0
        for factor in factors:
            product *= float(factor)
        return f"{product:.12g}"
    return expression.strip('"')


def test_the_readme_lists_every_setting_with_its_default() -> None:
    settings = (ROOT / "settings.py").read_text()
    read = {m["name"]: _value(m["default"]) for m in _READ.finditer(settings)}
    documented = {m["name"]: m["default"] for m in _ROW.finditer(README)}
    assert read == documented


@pytest.mark.parametrize(
    "source", ["workers/energy.py", "workers/performance.py", "web/answers.py"]
)
def test_every_reason_is_explained(source: str) -> None:
    reasons = set(_REASON.findall((ROOT / source).read_text()))
    assert reasons
    assert not {reason for reason in reasons if f"`{reason}`" not in NUMBERS}


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_commands_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z]+)", README)) <= targets
