"""A vehicle with episodes, and the watcher run over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

import pytest

from models import episodes
from models.engine import transaction
from models.episodes import EpisodeRow
from tests.factories import execute, rows
from workers import watch
from workers.alarms.evaluation import Episode

Put = Callable[..., None]


def row_of(
    episode: Episode, fleet: int, key: int = 1, vehicle_id: str = "vehicle-001"
) -> EpisodeRow:
    """An episode of the vehicle with this key, as its producer stores it."""
    told = {f.name: getattr(episode, f.name) for f in fields(Episode)}
    return EpisodeRow(
        vehicle_key=key,
        fleet_id=fleet,
        vehicle_id=vehicle_id,
        reason=None,
        computed_at=episode.ended_at,
        **told,
    )


@pytest.fixture
def vehicle(fleet: int) -> int:
    """vehicle-001 of the fleet: key 1."""
    execute(
        "INSERT INTO vehicles (fleet_id, device_id) VALUES (:fleet, 'vehicle-001')", fleet=fleet
    )
    return 1


@pytest.fixture
def put(fleet: int, vehicle: int) -> Put:
    """Stores episodes one by one, as they come in."""

    def store(made: Sequence[Episode], *, fleet_id: int = fleet, key: int = vehicle) -> None:
        with transaction() as conn:
            for episode in made:
                row = row_of(episode, fleet_id, key)
                episodes.replace(conn, key, row.started_at, row.ended_at, [row])

    return store


def take_back(made: Sequence[Episode]) -> None:
    """What stood there is gone: late data said otherwise."""
    with transaction() as conn:
        for episode in made:
            episodes.replace(conn, 1, episode.started_at, episode.ended_at, [])


def watch_at(made: Sequence[Episode], later: timedelta = timedelta(minutes=1)) -> datetime:
    """Run the watcher shortly after the last of these episodes."""
    now = max(episode.ended_at for episode in made) + later
    watch.watch(now)
    return now


def stored(columns: str = "*") -> list[dict[str, Any]]:
    return rows(f"SELECT {columns} FROM alarms ORDER BY id")  # noqa: S608


def transitions() -> list[tuple[str, str | None, str]]:
    found = rows("SELECT * FROM alarm_transitions ORDER BY id")
    return [(row["action"], row["from_state"], row["to_state"]) for row in found]
