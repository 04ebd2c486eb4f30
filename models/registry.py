"""Who may send, and what sends: fleets, their keys, their devices, and which meter serves whom."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, ExcludeConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Instant, Name, Rated

#: How a device is told apart from all others: (fleet id, what the fleet calls it).
Device = tuple[int, str]


class Fleet(Base):
    """An owner of devices. One fleet never sees, touches or shadows another's."""

    __tablename__ = "fleets"
    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    name: Mapped[Name] = mapped_column(unique=True)
    created_at: Mapped[Instant] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """A secret that speaks for a fleet; only its SHA-256 is kept (256 random bits need no salt)."""

    __tablename__ = "api_keys"
    key_id: Mapped[Name] = mapped_column(primary_key=True)
    fleet_id: Mapped[int] = mapped_column(ForeignKey("fleets.id"))
    name: Mapped[Name]
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[Instant] = mapped_column(server_default=func.now())
    expires_at: Mapped[Instant | None]
    revoked_at: Mapped[Instant | None]


class Meter(Base):
    """A smart meter on the grid side. It registers itself with its first reading."""

    __tablename__ = "meters"
    __table_args__ = (UniqueConstraint("fleet_id", "device_id"),)
    key: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    fleet_id: Mapped[int] = mapped_column(ForeignKey("fleets.id"))
    device_id: Mapped[Name]
    registered_at: Mapped[Instant] = mapped_column(server_default=func.now())
    max_power_kw: Mapped[Rated]
    resolution_kwh: Mapped[Rated]
    rollover_kwh: Mapped[Rated]
    dip_tolerance_kwh: Mapped[Rated]
    edge_gap_seconds: Mapped[Rated]


class Vehicle(Base):
    """A vehicle, the battery side. It registers itself with its first reading."""

    __tablename__ = "vehicles"
    __table_args__ = (UniqueConstraint("fleet_id", "device_id"),)
    key: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    fleet_id: Mapped[int] = mapped_column(ForeignKey("fleets.id"))
    device_id: Mapped[Name]
    registered_at: Mapped[Instant] = mapped_column(server_default=func.now())
    max_power_kw: Mapped[Rated]
    resolution_kwh: Mapped[Rated]
    rollover_kwh: Mapped[Rated]
    dip_tolerance_kwh: Mapped[Rated]
    edge_gap_seconds: Mapped[Rated]


class MeterAssignment(Base):
    """Which meter served which vehicle in [valid_from, valid_to).

    Without any row the convention vehicle-XXX <-> meter-XXX holds. The two exclusion constraints
    keep one meter from serving two vehicles at a time and the other way round; the one-element
    int4range stands in for btree_gist, an extension the embedded PostgreSQL does not have.
    """

    __tablename__ = "meter_assignments"
    __table_args__ = (
        ExcludeConstraint(
            (text("int4range(meter_key, meter_key, '[]')"), "&&"),
            (text("tstzrange(valid_from, valid_to)"), "&&"),
            name="meter_assignments_one_vehicle_per_meter",
        ),
        ExcludeConstraint(
            (text("int4range(vehicle_key, vehicle_key, '[]')"), "&&"),
            (text("tstzrange(valid_from, valid_to)"), "&&"),
            name="meter_assignments_one_meter_per_vehicle",
        ),
        CheckConstraint("valid_to > valid_from", name="period"),
    )
    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    vehicle_key: Mapped[int] = mapped_column(ForeignKey("vehicles.key"))
    meter_key: Mapped[int] = mapped_column(ForeignKey("meters.key"))
    valid_from: Mapped[Instant]
    valid_to: Mapped[Instant | None]
