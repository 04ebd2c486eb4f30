"""Where readings live: the history (append-only, for ever) and the latest status (one row each).

History has no foreign key, trigger or sequence, and its key starts with the device, so that it can
be sharded by device (docs/adr/0002). The four classes spell out their columns because the order is
a decision: 4-byte columns stand together, which saves eight bytes a reading.

- `device_key`: the device's integer in `meters` or `vehicles`
- `recorded_at`: when the device says it measured; the second half of the reading's identity
- `received_at`: when the stream took it over (Redis' clock), the moment before 202 was said
"""

from __future__ import annotations

from sqlalchemy import Double
from sqlalchemy.dialects.postgresql import REAL
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, DeviceKey, Instant, InstantKey, Kwh

_BY_TIME = {"postgresql_partition_by": "RANGE (recorded_at)"}
#: Room on each page for the next version of its rows: updating a status touches no index.
_UPDATED_IN_PLACE = {"postgresql_with": {"fillfactor": 60}}


class MeterHistory(Base):
    """Every meter reading ever accepted."""

    __tablename__ = "meter_telemetry_history"
    __table_args__ = _BY_TIME
    device_key: Mapped[DeviceKey]
    recorded_at: Mapped[InstantKey]
    received_at: Mapped[Instant]
    kwh_consumed_ac: Mapped[Kwh]
    voltage_v: Mapped[float] = mapped_column(Double)


class VehicleHistory(Base):
    """Every vehicle reading ever accepted."""

    __tablename__ = "vehicle_telemetry_history"
    __table_args__ = _BY_TIME
    device_key: Mapped[DeviceKey]
    #: A percentage: seven digits in four bytes, beside the four of the key.
    soc_pct: Mapped[float] = mapped_column(REAL)
    recorded_at: Mapped[InstantKey]
    received_at: Mapped[Instant]
    kwh_delivered_dc: Mapped[Kwh]
    battery_temp_c: Mapped[float] = mapped_column(Double)


class MeterLatest(Base):
    """The newest reading of each meter; never goes back in time."""

    __tablename__ = "meter_status_latest"
    __table_args__ = _UPDATED_IN_PLACE
    device_key: Mapped[DeviceKey]
    recorded_at: Mapped[Instant]
    received_at: Mapped[Instant]
    kwh_consumed_ac: Mapped[Kwh]
    voltage_v: Mapped[float] = mapped_column(Double)


class VehicleLatest(Base):
    """The newest reading of each vehicle; never goes back in time."""

    __tablename__ = "vehicle_status_latest"
    __table_args__ = _UPDATED_IN_PLACE
    device_key: Mapped[DeviceKey]
    soc_pct: Mapped[float] = mapped_column(REAL)
    recorded_at: Mapped[Instant]
    received_at: Mapped[Instant]
    kwh_delivered_dc: Mapped[Kwh]
    battery_temp_c: Mapped[float] = mapped_column(Double)
