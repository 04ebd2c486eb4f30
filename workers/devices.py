"""Device keys, remembered: the integer behind (fleet, device id) never changes."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np

import settings
from models import codec, writes
from models.columns import Ints
from models.engine import transaction
from models.kinds import Kind
from models.packed import device_ids
from models.registry import Device

#: Devices kept before starting afresh: some 40 MB.
MAX_REMEMBERED = 200_000


class Roster(NamedTuple):
    """Whose readings they are, reading by reading: device ids of a fleet, UTF-8, one a line."""

    fleet_id: int
    lines: bytes


class DeviceKeys:
    """A process's memory of device keys; registers devices it meets for the first time."""

    def __init__(self) -> None:
        self._known: dict[str, dict[Device, int]] = {}

    def of_all(self, kind: Kind, rosters: Sequence[Roster]) -> Ints | None:
        """The key of each line of each roster, one after the other.

        None if one has none (see `resolve`), or is no lawful device id.
        """
        # Gateways send for the same devices time after time: of what they sent, once.
        ids_of = {roster: device_ids(roster.lines) for roster in set(rosters)}
        devices = {(fleet_id, id_) for (fleet_id, _), ids in ids_of.items() for id_ in ids}
        spelled = {id_ for _, id_ in devices}
        if not codec.are_device_ids("\n".join(spelled), len(spelled)):
            return None
        keys = self.resolve(kind, devices)
        if len(keys) < len(devices):
            return None
        found = {
            roster: np.array([keys[roster.fleet_id, id_] for id_ in ids], np.int32)
            for roster, ids in ids_of.items()
        }
        return np.concatenate([found[roster] for roster in rosters])

    def resolve(self, kind: Kind, devices: AbstractSet[Device]) -> dict[Device, int]:
        """The keys of `devices`; missing are those of no fleet, and new ones of a full fleet."""
        known = self._known.setdefault(kind.name, {})
        found = {device: key for device in devices if (key := known.get(device)) is not None}
        missing = devices - found.keys()
        if missing:
            # In its own transaction: a key is remembered only once its row is committed.
            with transaction() as conn:
                most = settings.load().max_devices_per_fleet
                registered = writes.resolve_devices(conn, kind, missing, most)
            if len(known) + len(registered) > MAX_REMEMBERED:
                known.clear()
            known.update(registered)
            found.update(registered)
        return found
