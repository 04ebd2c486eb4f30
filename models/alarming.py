"""The tables of alarms: the evidence, the alarms with their history, what is learnt of vehicles."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Date,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, DeviceKey, Instant, InstantKey, Name


class ChargingEpisode(Base):
    """A finished charging episode over [started_at, ended_at), idle to idle."""

    __tablename__ = "charging_episodes"
    __table_args__ = (
        Index("charging_episodes_fleet_idx", "fleet_id", "ended_at"),  # a what-if's vehicles
    )
    vehicle_key: Mapped[DeviceKey]
    started_at: Mapped[InstantKey]
    ended_at: Mapped[Instant]
    fleet_id: Mapped[int] = mapped_column(Integer)
    vehicle_id: Mapped[Name]
    meter_id: Mapped[Name | None]
    ac_kwh: Mapped[float | None] = mapped_column(Double)
    dc_kwh: Mapped[float | None] = mapped_column(Double)
    efficiency: Mapped[float | None] = mapped_column(Double)
    efficiency_low: Mapped[float | None] = mapped_column(Double)
    efficiency_high: Mapped[float | None] = mapped_column(Double)
    raw_ratio: Mapped[float | None] = mapped_column(Double)
    reason: Mapped[Name | None]
    confidence: Mapped[Name]
    charging_hours: Mapped[float] = mapped_column(Double)
    avg_ac_power_kw: Mapped[float | None] = mapped_column(Double)
    battery_temp_min_c: Mapped[float | None] = mapped_column(Double)
    computed_at: Mapped[Instant]


class VehicleDay(Base):
    """A finished UTC day of a vehicle."""

    __tablename__ = "vehicle_days"
    vehicle_key: Mapped[DeviceKey]
    day: Mapped[dt.date] = mapped_column(Date, primary_key=True)
    ac_kwh: Mapped[float | None] = mapped_column(Double)
    dc_kwh: Mapped[float | None] = mapped_column(Double)
    idle_ac_kwh: Mapped[float | None] = mapped_column(Double)
    idle_hours: Mapped[float] = mapped_column(Double)
    charging_hours: Mapped[float] = mapped_column(Double)
    confidence: Mapped[Name]
    ac_events: Mapped[dict[str, int]] = mapped_column(JSONB)
    dc_events: Mapped[dict[str, int]] = mapped_column(JSONB)


class EpisodesDirty(Base):
    """A vehicle whose episodes or days changed. Append-only, as the marks of hours are."""

    __tablename__ = "episodes_dirty"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    vehicle_key: Mapped[int] = mapped_column(Integer)
    ended_at: Mapped[Instant]


class VehicleBaseline(Base):
    """What a vehicle's own past says; a copy for readers, recomputed with every judgement."""

    __tablename__ = "vehicle_baselines"
    vehicle_key: Mapped[DeviceKey]
    fleet_id: Mapped[int] = mapped_column(Integer)
    status: Mapped[Name]
    evaluations: Mapped[int] = mapped_column(Integer)
    efficiency_median: Mapped[float | None] = mapped_column(Double)
    eta_c: Mapped[float | None] = mapped_column(Double)
    p_aux_kw: Mapped[float | None] = mapped_column(Double)
    sigma_pts: Mapped[float | None] = mapped_column(Double)
    z: Mapped[float | None] = mapped_column(Double)
    cusum: Mapped[float] = mapped_column(Double)
    updated_at: Mapped[Instant]


class AlarmCondition(Base):
    """A condition of the present (A8, A10), from when it began to when it ended."""

    __tablename__ = "alarm_conditions"
    __table_args__ = (
        Index(
            "alarm_conditions_one_now_idx",
            "vehicle_key",
            "rule",
            unique=True,
            postgresql_where=text("ended_at IS NULL"),
        ),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    vehicle_key: Mapped[int] = mapped_column(Integer)
    rule: Mapped[Name]
    began_at: Mapped[Instant]
    seen_at: Mapped[Instant]
    opened_at: Mapped[Instant | None]
    ok_at: Mapped[Instant | None]
    ended_at: Mapped[Instant | None]
    value: Mapped[float] = mapped_column(Double)
    threshold: Mapped[float] = mapped_column(Double)


class Alarm(Base):
    """An alarm: one at a time per vehicle and rule."""

    __tablename__ = "alarms"
    __table_args__ = (
        Index(
            "alarms_one_open_idx",
            "vehicle_key",
            "rule",
            unique=True,
            postgresql_where=text("state <> 'resolved'"),
        ),
        Index("alarms_fleet_idx", "fleet_id", "id"),  # the list, newest first
        Index("alarms_vehicle_idx", "vehicle_key", "rule", "id"),
        Index(  # what the watcher looks at without a mark
            "alarms_unresolved_idx", "id", postgresql_where=text("state <> 'resolved'")
        ),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    fleet_id: Mapped[int] = mapped_column(ForeignKey("fleets.id"))
    vehicle_key: Mapped[int] = mapped_column(Integer)
    vehicle_id: Mapped[Name]
    meter_id: Mapped[Name | None]
    rule: Mapped[Name]
    severity: Mapped[Name]
    state: Mapped[Name]
    stale: Mapped[bool] = mapped_column(Boolean)
    #: When it was raised first, and last.
    first_opened_at: Mapped[Instant]
    opened_at: Mapped[Instant]
    since: Mapped[Instant]
    last_evaluated_at: Mapped[Instant]
    #: When the last span ended; null while the condition is seen.
    returned_at: Mapped[Instant | None]
    value: Mapped[float] = mapped_column(Double)
    threshold: Mapped[float] = mapped_column(Double)
    baseline: Mapped[float | None] = mapped_column(Double)
    delta_pts: Mapped[float | None] = mapped_column(Double)
    z: Mapped[float | None] = mapped_column(Double)
    avoidable_kwh: Mapped[float] = mapped_column(Double)
    evidence: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    occurrences: Mapped[int] = mapped_column(Integer)
    reopened_from: Mapped[int | None] = mapped_column(BigInteger)
    #: What A1, A2 and A3 of one vehicle share while they overlap.
    incident: Mapped[Name | None]
    suppressed_reason: Mapped[Name | None]
    acknowledged_at: Mapped[Instant | None]
    acknowledged_by: Mapped[Name | None]
    acknowledged_note: Mapped[Name | None]
    shelved_until: Mapped[Instant | None]
    shelved_by: Mapped[Name | None]
    shelved_note: Mapped[Name | None]
    resolved_at: Mapped[Instant | None]
    resolved_by: Mapped[Name | None]
    resolved_reason: Mapped[Name | None]
    resolved_note: Mapped[Name | None]
    notified_at: Mapped[Instant | None]


class AlarmTransition(Base):
    """What happened to an alarm: who, when, from which state to which. Append-only."""

    __tablename__ = "alarm_transitions"
    __table_args__ = (Index("alarm_transitions_alarm_idx", "alarm_id", "id"),)
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    alarm_id: Mapped[int] = mapped_column(ForeignKey("alarms.id", ondelete="CASCADE"))
    at: Mapped[Instant]
    who: Mapped[str] = mapped_column(Text)
    action: Mapped[Name]
    from_state: Mapped[Name | None]
    to_state: Mapped[Name]
    note: Mapped[Name | None]
