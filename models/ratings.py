"""What is physically possible for a device: what was set for it, else the defaults.

The defaults suit a device that nobody has described: 400 kW is the strongest charger on the road,
0.01 kWh the coarsest resolution that still tells an efficiency.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from models.clock import HOUR_US, SECOND_US
from models.kinds import VEHICLE, Kind

MAX_POWER_KW = 400.0
RESOLUTION_KWH = 0.01
#: Vehicles correct their estimate downwards by up to this; a certified meter by two digits.
DIP_KWH, METER_DIP_DIGITS = 1.0, 2
#: What can be set for a device.
NAMES = (
    "max_power_kw",
    "resolution_kwh",
    "rollover_kwh",
    "dip_tolerance_kwh",
    "edge_gap_seconds",
)
#: A single step may exceed the rating by this factor: clocks jitter.
POWER_MARGIN = 1.2
SECONDS_PER_HOUR = 3_600


@dataclass(frozen=True, slots=True)
class Rating:
    """A device's rating; see docs/numbers.md for what each value decides."""

    max_power_kw: float = MAX_POWER_KW
    resolution_kwh: float = RESOLUTION_KWH
    dip_tolerance_kwh: float = DIP_KWH
    rollover_kwh: float | None = None
    #: None: three times the usual spacing of the samples, at least five minutes.
    edge_gap_seconds: float | None = None

    def limit_kwh(self, span_us: int) -> float:
        """The most a register can move in `span_us`."""
        # Step by step as models/windows.py has it in SQL: both must agree to the last bit.
        hourly_kwh = POWER_MARGIN * self.max_power_kw
        return hourly_kwh * (span_us / SECOND_US) / SECONDS_PER_HOUR + self.resolution_kwh

    def unseen_kwh(self, span_us: int) -> float:
        """The most that can have flowed unseen in `span_us`."""
        return self.max_power_kw * span_us / HOUR_US


def read(conn: Connection, kind: Kind, device_keys: Collection[int]) -> dict[int, Rating]:
    """The ratings of these devices."""
    d = kind.devices.c
    query = select(d.key, *(d[name] for name in NAMES)).where(d.key.in_(device_keys))
    return {row.key: _rating(kind, row) for row in conn.execute(query)}


def _rating(kind: Kind, row: Row[Any]) -> Rating:
    resolution = RESOLUTION_KWH if row.resolution_kwh is None else row.resolution_kwh
    tolerated = DIP_KWH if kind is VEHICLE else METER_DIP_DIGITS * resolution
    return Rating(
        MAX_POWER_KW if row.max_power_kw is None else row.max_power_kw,
        resolution,
        tolerated if row.dip_tolerance_kwh is None else row.dip_tolerance_kwh,
        row.rollover_kwh,
        row.edge_gap_seconds,
    )


def change(
    conn: Connection, kind: Kind, device_key: int, values: Mapping[str, float | None]
) -> None:
    """Set what is possible for a device (None: the default), and recompute what that touches."""
    d = kind.devices
    conn.execute(update(d).where(d.c.key == device_key).values(**values))
    hours = select(kind.hourly.c.device_key, kind.hourly.c.hour)
    conn.execute(
        insert(kind.dirty).from_select(
            ["device_key", "hour"], hours.where(kind.hourly.c.device_key == device_key)
        )
    )
