"""Celery's settings hold together: what ticks is a task, what is a task has a queue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import celeryconfig
from workers import app

PACKAGE = Path(__file__).resolve().parents[2] / "workers"


@pytest.fixture(autouse=True)
def _modules_of_tasks_are_loaded() -> None:
    app.loader.import_default_modules()


def tasks() -> set[str]:
    return {name for name in app.tasks if not name.startswith("celery.")}


def test_everything_that_ticks_is_a_task() -> None:
    ticking = {entry["task"] for entry in celeryconfig.beat_schedule.values()}
    assert ticking <= tasks()


def test_every_task_is_routed_to_a_queue_that_exists() -> None:
    assert set(celeryconfig.task_routes) == tasks()
    queues = {route["queue"] for route in celeryconfig.task_routes.values()}
    assert queues == set(celeryconfig.QUEUE_NAMES)
    assert {queue.name for queue in celeryconfig.task_queues} == set(celeryconfig.QUEUE_NAMES)
    assert celeryconfig.task_default_queue in celeryconfig.QUEUE_NAMES


def test_no_task_is_named_after_its_module() -> None:
    assert not [name for name in tasks() if "." in name]
    for source in PACKAGE.glob("*.py"):
        for decorator in re.findall(r"@app\.task.*", source.read_text()):
            assert 'name="' in decorator, f"{source.name}: {decorator}"


def test_every_module_with_tasks_is_imported_by_the_worker() -> None:
    with_tasks = {
        f"workers.{source.stem}"
        for source in PACKAGE.glob("*.py")
        if "@app.task" in source.read_text()
    }
    assert set(celeryconfig.imports) == with_tasks


def test_no_tick_waits_longer_than_it_is_worth() -> None:
    for entry in celeryconfig.beat_schedule.values():
        assert entry["options"]["expires"] >= entry["schedule"]


def test_messages_are_json_and_losing_one_costs_nothing() -> None:
    assert celeryconfig.accept_content == ["json"]
    assert celeryconfig.result_backend is None
    assert celeryconfig.task_acks_late is False
    assert celeryconfig.task_publish_retry is False


def test_a_dead_connection_to_the_broker_is_noticed() -> None:
    options = celeryconfig.broker_transport_options
    assert {"socket_timeout", "socket_keepalive", "health_check_interval"} <= set(options)
    assert celeryconfig.broker_connection_max_retries is None
