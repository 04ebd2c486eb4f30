"""What is said in two places is compared here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from models.kinds import KINDS, Kind
from workers import metrics

ROOT = Path(__file__).resolve().parents[1]

_DOCUMENTED = re.compile(r"^\| `(energy_\w+)` \| (\w+) \| (.*?) ?\|", re.MULTILINE)


def declared() -> dict[str, tuple[str, set[str]]]:
    """Type and labels of each metric, by the name under which Prometheus finds it."""
    found = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            suffix = "_total" if metric._type == "counter" else ""
            found[metric._name + suffix] = (metric._type, set(metric._labelnames))
    return found


def test_every_metric_is_documented_as_it_is() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    documented = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in _DOCUMENTED.findall(page)
    }
    assert documented == declared()


def test_every_alert_is_about_a_metric_that_exists() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    named = set(re.findall(r"energy_\w+?(?=_bucket|_count|\b)", page))
    assert named == set(declared())


def test_metrics_are_declared_in_one_place() -> None:
    ours = {name for name in REGISTRY._names_to_collectors if name.startswith("energy_")}
    known = tuple(name.removesuffix("_total") for name in declared())
    assert all(name.startswith(known) for name in ours)


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_a_kinds_measures_are_the_columns_of_its_tables(kind: Kind) -> None:
    measured = {measure.column for measure in kind.measures}
    assert kind.counter in kind.measures
    for table in (kind.history, kind.latest):
        columns = {column.name for column in table.columns}
        assert columns == measured | {"device_key", "recorded_at", "received_at"}


def test_history_can_be_sharded_by_device() -> None:
    for kind in KINDS.values():
        for table in (kind.history, kind.latest, kind.hourly):
            assert next(iter(table.primary_key.columns)).name == "device_key"
            assert not table.foreign_keys


_ROW = re.compile(r"^\| (\d\d) \| .* \| ([^|]*) \|$", re.MULTILINE)


def test_every_row_of_the_fault_matrix_has_a_test_or_a_reason() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = {int(number): said for number, said in _ROW.findall(page)}
    tested = {
        int(number)
        for file in (ROOT / "tests").rglob("test_*.py")
        for number in re.findall(r"^def test_row_(\d\d)_", file.read_text(), re.MULTILINE)
    }
    assert set(rows) == set(range(1, 53))
    promised = {number for number, said in rows.items() if said.startswith("tests")}
    assert {number for number, said in rows.items() if not said.strip()} == set()
    assert promised == tested
