"""A fleet with an alarm."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from models import episodes
from models.engine import transaction
from tests.alarms.conftest import row_of
from tests.alarms.test_rules import episode
from tests.factories import MIDNIGHT, rows
from tests.web.calls import Api
from workers import watch
from workers.alarms.evaluation import Episode


def today() -> float:
    """The last UTC midnight, in days after 10 January 2026."""
    return float((datetime.now(UTC) - MIDNIGHT).days)


def alarmed(api: Api, efficiency: float = 0.84, vehicle_id: str = "vehicle-001") -> None:
    """Two low sessions, yesterday and the day before, of the fleet's vehicle."""
    charged(api, [episode(today() - n, efficiency) for n in (1, 0)], vehicle_id)
    watch.watch(datetime.now(UTC))


def charged(api: Api, made: list[Episode], vehicle_id: str = "vehicle-001") -> None:
    """Store episodes of a vehicle of the fleet that uses this API."""
    key_id = api.headers["Authorization"].split("_")[1]
    fleet = "(SELECT fleet_id FROM api_keys WHERE key_id = :key)"
    found = rows(
        f"INSERT INTO vehicles (fleet_id, device_id) VALUES ({fleet}, :vehicle)"  # noqa: S608
        " ON CONFLICT (fleet_id, device_id) DO UPDATE SET device_id = excluded.device_id"
        " RETURNING key, fleet_id",
        key=key_id,
        vehicle=vehicle_id,
    )
    key, fleet_id = found[0]["key"], found[0]["fleet_id"]
    with transaction() as conn:
        for one in made:
            row = row_of(one, fleet_id, key, vehicle_id)
            begin = row.started_at - timedelta(seconds=1)
            episodes.replace(conn, key, begin, row.ended_at, [row])
