"""How many devices a fleet may register: a broken client that invents ids must not fill tables."""

from __future__ import annotations

from sqlalchemy import Connection, select

from models.kinds import KINDS, Kind
from models.registry import Fleet


def full_registries(conn: Connection, fleet_id: int, most: int) -> dict[str, frozenset[str]]:
    """For each kind of which the fleet has `most` devices or more: the ids of those it has."""
    return {
        kind.name: _device_ids(conn, kind, fleet_id)
        for kind in KINDS.values()
        if _is_full(conn, kind, fleet_id, most)
    }


def _is_full(conn: Connection, kind: Kind, fleet_id: int, most: int) -> bool:
    """Whether there is a `most`-th device; stops counting there."""
    devices = kind.devices.c
    found = select(devices.device_id).where(devices.fleet_id == fleet_id).offset(most - 1).limit(1)
    return conn.execute(found).first() is not None


def _device_ids(conn: Connection, kind: Kind, fleet_id: int) -> frozenset[str]:
    devices = kind.devices.c
    query = select(devices.device_id).where(devices.fleet_id == fleet_id)
    return frozenset(conn.execute(query).scalars())


def fleets_of(conn: Connection, fleet_ids: set[int]) -> set[int]:
    """Those of `fleet_ids` that exist."""
    query = select(Fleet.id).where(Fleet.id.in_(fleet_ids))
    return set(conn.execute(query).scalars())
