"""What is computed from history, and what the flush sets aside.

Everything derived is a pure function of the set of readings and may be recomputed at any time.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB, REAL
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, DeviceKey, Instant, InstantKey, Kwh, Name

_INSTANT = DateTime(timezone=True)

# The hourly tables hold one device's UTC hour in a mergeable form, made of the samples that count
# (what was judged a glitch is left out). `energy_kwh` is the energy between the hour's own samples.
# The step from the hour before is not in it: it is first - last, unless `seam_kwh` says otherwise.
# `rough` tells that a step is not a plain rise and has not been judged.
# `line_kwh` is the register at each five-minute border in (first_at, last_at], as energy since the
# hour's first sample: what tells charging from standing idle. A gap is a step of more than five
# minutes (`gaps_from`, `gaps_to`: its samples). `uncertain_kwh` may have flowed unseen.
# `lag_min_seconds` and `lag_max_seconds` are the quickest and the slowest way of a sample from the
# device's clock to ours.


class MeterEnergyHourly(Base):
    """AC energy per meter and hour."""

    __tablename__ = "meter_energy_hourly"
    device_key: Mapped[DeviceKey]
    hour: Mapped[InstantKey]
    first_at: Mapped[Instant]
    first_kwh: Mapped[Kwh]
    last_at: Mapped[Instant]
    last_kwh: Mapped[Kwh]
    energy_kwh: Mapped[Kwh]
    seam_kwh: Mapped[float | None] = mapped_column(Double)
    samples: Mapped[int] = mapped_column(Integer)
    rough: Mapped[bool] = mapped_column(Boolean)
    line_kwh: Mapped[list[float]] = mapped_column(ARRAY(Double), server_default="{}")
    gaps_from: Mapped[list[datetime]] = mapped_column(ARRAY(_INSTANT), server_default="{}")
    gaps_to: Mapped[list[datetime]] = mapped_column(ARRAY(_INSTANT), server_default="{}")
    max_gap_seconds: Mapped[float] = mapped_column(Double, server_default="0")
    uncertain_kwh: Mapped[float] = mapped_column(Double, server_default="0")
    lag_min_seconds: Mapped[float | None] = mapped_column(Double)
    lag_max_seconds: Mapped[float | None] = mapped_column(Double)


class VehicleEnergyHourly(Base):
    """DC energy and battery temperature per vehicle and hour."""

    __tablename__ = "vehicle_energy_hourly"
    device_key: Mapped[DeviceKey]
    hour: Mapped[InstantKey]
    first_at: Mapped[Instant]
    first_kwh: Mapped[Kwh]
    last_at: Mapped[Instant]
    last_kwh: Mapped[Kwh]
    energy_kwh: Mapped[Kwh]
    seam_kwh: Mapped[float | None] = mapped_column(Double)
    samples: Mapped[int] = mapped_column(Integer)
    rough: Mapped[bool] = mapped_column(Boolean)
    line_kwh: Mapped[list[float]] = mapped_column(ARRAY(Double), server_default="{}")
    gaps_from: Mapped[list[datetime]] = mapped_column(ARRAY(_INSTANT), server_default="{}")
    gaps_to: Mapped[list[datetime]] = mapped_column(ARRAY(_INSTANT), server_default="{}")
    max_gap_seconds: Mapped[float] = mapped_column(Double, server_default="0")
    uncertain_kwh: Mapped[float] = mapped_column(Double, server_default="0")
    lag_min_seconds: Mapped[float | None] = mapped_column(Double)
    lag_max_seconds: Mapped[float | None] = mapped_column(Double)
    battery_temp_sum_c: Mapped[float] = mapped_column(Double)
    battery_temp_min_c: Mapped[float] = mapped_column(Double)
    battery_temp_max_c: Mapped[float] = mapped_column(Double)
    soc_first_pct: Mapped[float | None] = mapped_column(REAL)
    soc_last_pct: Mapped[float | None] = mapped_column(REAL)


class _RegisterEvent:
    """A sample that is not a plain rise, judged (workers/register.py): the rare exceptions.

    `event` is null for the samples of a dip on their way back up. `final` says that the sample
    after it was in hand; what is not final is judged again with that.
    """

    device_key: Mapped[DeviceKey]
    at: Mapped[InstantKey]
    event: Mapped[Name | None]
    dropped: Mapped[bool] = mapped_column(Boolean)
    energy_kwh: Mapped[Kwh]
    high_kwh: Mapped[Kwh]
    #: What makes `energy_kwh` out of the difference to the sample before; 0 of a dropped one.
    correction_kwh: Mapped[Kwh] = mapped_column(server_default="0")
    uncertain_kwh: Mapped[Kwh]
    final: Mapped[bool] = mapped_column(Boolean)


class MeterRegisterEvent(_RegisterEvent, Base):
    """Judged samples of meters."""

    __tablename__ = "meter_register_events"


class VehicleRegisterEvent(_RegisterEvent, Base):
    """Judged samples of vehicles."""

    __tablename__ = "vehicle_register_events"


class _DirtyHour:
    """An hour of a device whose history changed.

    Append-only on purpose: a unique row written with DO NOTHING loses the invalidation that
    arrives while the rollup is between reading and deleting it.
    """

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    device_key: Mapped[int] = mapped_column(Integer)
    hour: Mapped[Instant]
    #: The earliest reading that came in; null: anything in the hour may have changed.
    from_at: Mapped[datetime | None] = mapped_column(_INSTANT)


class MeterDirtyHour(_DirtyHour, Base):
    """Meter hours to recompute."""

    __tablename__ = "meter_hours_dirty"


class VehicleDirtyHour(_DirtyHour, Base):
    """Vehicle hours to recompute."""

    __tablename__ = "vehicle_hours_dirty"


class VehicleDirty(Base):
    """A vehicle whose summary something touched; append-only, as the dirty hours are."""

    __tablename__ = "vehicles_dirty"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    vehicle_key: Mapped[int] = mapped_column(Integer, index=True)


class RollupTurn(Base):
    """Which process rolled up last (workers/steady/memory.py): one row."""

    __tablename__ = "rollup_turn"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    holder: Mapped[Name]


class VehiclePerformance(Base):
    """The 24 h efficiency of each vehicle, ready to serve: one row, one index, one page."""

    __tablename__ = "vehicle_performance_24h"
    __table_args__ = (
        UniqueConstraint("fleet_id", "vehicle_id"),  # the read: one vehicle, one row
        Index("vehicle_performance_24h_worst_first_idx", "fleet_id", "efficiency", "vehicle_key"),
    )
    vehicle_key: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    fleet_id: Mapped[int] = mapped_column(Integer)
    vehicle_id: Mapped[Name]
    meter_id: Mapped[Name | None]
    window_from: Mapped[Instant]
    window_to: Mapped[Instant]
    #: The part of the window that both sides cover; null when there is none.
    effective_from: Mapped[Instant | None]
    effective_to: Mapped[Instant | None]
    ac_kwh: Mapped[float | None] = mapped_column(Double)
    dc_kwh: Mapped[float | None] = mapped_column(Double)
    efficiency: Mapped[float | None] = mapped_column(Double)
    #: What it may be at least and at most: resolution, edges, and what flowed unseen.
    efficiency_low: Mapped[float | None] = mapped_column(Double)
    efficiency_high: Mapped[float | None] = mapped_column(Double)
    #: high, medium, low, or none when the efficiency is null.
    confidence: Mapped[Name] = mapped_column(server_default="none")
    #: Share of the window in which both sides' samples lie close enough together, %.
    coverage_pct: Mapped[float] = mapped_column(Double, server_default="0")
    raw_ratio: Mapped[float | None] = mapped_column(Double)
    reason: Mapped[Name | None]
    battery_temp_avg_c: Mapped[float | None] = mapped_column(Double)
    battery_temp_min_c: Mapped[float | None] = mapped_column(Double)
    battery_temp_max_c: Mapped[float | None] = mapped_column(Double)
    soc_first_pct: Mapped[float | None] = mapped_column(REAL)
    soc_last_pct: Mapped[float | None] = mapped_column(REAL)
    #: The loss by what the vehicle did meanwhile (workers/charging.py); null when unknown.
    charging_ac_kwh: Mapped[float | None] = mapped_column(Double)
    charging_dc_kwh: Mapped[float | None] = mapped_column(Double)
    charging_hours: Mapped[float | None] = mapped_column(Double)
    charging_sessions: Mapped[int | None] = mapped_column(Integer)
    idle_ac_kwh: Mapped[float | None] = mapped_column(Double)
    idle_hours: Mapped[float | None] = mapped_column(Double)
    ac_samples: Mapped[int] = mapped_column(Integer)
    dc_samples: Mapped[int] = mapped_column(Integer)
    #: How well each side was seen: workers/quality.py, `Quality`.
    ac_quality: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    dc_quality: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    #: How often each register did something else than rise, by event.
    ac_events: Mapped[dict[str, int]] = mapped_column(JSONB)
    dc_events: Mapped[dict[str, int]] = mapped_column(JSONB)
    #: The vehicle's own usual efficiency and its open alarms, written by the alarms' watch; the
    #: roll-up leaves them alone.
    baseline: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    open_alarms: Mapped[list[str]] = mapped_column(JSONB, server_default="[]")
    #: Every reading acknowledged before this instant is in the numbers; null while a tick could
    #: not work off all that had arrived.
    data_complete_through: Mapped[Instant | None]
    computed_at: Mapped[Instant]


class ReadingConflict(Base):
    """A second, different value for a (device, timestamp) that history already holds."""

    __tablename__ = "reading_conflicts"
    kind: Mapped[Name] = mapped_column(primary_key=True)
    device_key: Mapped[DeviceKey]
    recorded_at: Mapped[InstantKey]
    #: Of the refused values: redelivery of the same conflict finds its row.
    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    received_at: Mapped[Instant]
    refused: Mapped[dict[str, float]] = mapped_column(JSONB)


class DeadLetter(Base):
    """What the flush could not store, with its reason; kept until an operator decides."""

    __tablename__ = "dead_letters"
    __table_args__ = (
        Index("dead_letters_reading_key", "kind", "entry_id", "position", unique=True),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[Name]
    #: Stream entry and the reading's place in it; -1 when the whole entry is unreadable.
    entry_id: Mapped[Name]
    position: Mapped[int] = mapped_column(Integer)
    fleet_id: Mapped[int | None] = mapped_column(Integer)
    raw: Mapped[bytes] = mapped_column(LargeBinary)
    reason: Mapped[Name]
    detail: Mapped[Name]
    dead_at: Mapped[Instant] = mapped_column(server_default=func.now())
