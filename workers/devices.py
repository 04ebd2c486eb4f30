"""Device keys, remembered: the integer behind (fleet, device id) never changes."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import settings
from models import writes
from models.engine import transaction
from models.kinds import Kind
from models.registry import Device

#: Devices kept before starting afresh: some 40 MB.
MAX_REMEMBERED = 200_000


class DeviceKeys:
    """A process's memory of device keys; registers devices it meets for the first time."""

    def __init__(self) -> None:
        self._known: dict[str, dict[Device, int]] = {}

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
