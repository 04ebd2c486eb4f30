"""Hours know their line, their gaps and their doubt; the summary says where the loss sits.

Every hour is marked for recomputation: its new columns are filled by the next ticks.

Revision ID: 0002
Revises: 0001
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

HOURLY = ("meter_energy_hourly", "vehicle_energy_hourly")
DIRTY = ("meter_hours_dirty", "vehicle_hours_dirty")
EVENTS = ("meter_register_events", "vehicle_register_events")
SUMMARY = "vehicle_performance_24h"
INSTANT = sa.DateTime(timezone=True)


def _hour_columns() -> list[sa.Column]:
    return [
        sa.Column("line_kwh", sa.ARRAY(sa.Double()), server_default="{}", nullable=False),
        sa.Column("gaps_from", sa.ARRAY(INSTANT), server_default="{}", nullable=False),
        sa.Column("gaps_to", sa.ARRAY(INSTANT), server_default="{}", nullable=False),
        sa.Column("max_gap_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("uncertain_kwh", sa.Double(), server_default="0", nullable=False),
        sa.Column("lag_min_seconds", sa.Double(), nullable=True),
        sa.Column("lag_max_seconds", sa.Double(), nullable=True),
    ]


def _soc_columns() -> list[sa.Column]:
    return [
        sa.Column("soc_first_pct", sa.REAL(), nullable=True),
        sa.Column("soc_last_pct", sa.REAL(), nullable=True),
    ]


def _summary_columns() -> list[sa.Column]:
    quality = {"server_default": "{}", "nullable": False}
    return [
        sa.Column("efficiency_low", sa.Double(), nullable=True),
        sa.Column("efficiency_high", sa.Double(), nullable=True),
        sa.Column("confidence", sa.Text(), server_default="none", nullable=False),
        sa.Column("coverage_pct", sa.Double(), server_default="0", nullable=False),
        *_soc_columns(),
        sa.Column("charging_ac_kwh", sa.Double(), nullable=True),
        sa.Column("charging_dc_kwh", sa.Double(), nullable=True),
        sa.Column("charging_hours", sa.Double(), nullable=True),
        sa.Column("charging_sessions", sa.Integer(), nullable=True),
        sa.Column("idle_ac_kwh", sa.Double(), nullable=True),
        sa.Column("idle_hours", sa.Double(), nullable=True),
        sa.Column("ac_quality", postgresql.JSONB(), **quality),
        sa.Column("dc_quality", postgresql.JSONB(), **quality),
        sa.Column("baseline", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("open_alarms", postgresql.JSONB(), server_default="[]", nullable=False),
    ]


def upgrade() -> None:
    for table in HOURLY:
        for column in _hour_columns():
            op.add_column(table, column)
    for column in _soc_columns():
        op.add_column("vehicle_energy_hourly", column)
    for table in DIRTY:
        op.add_column(table, sa.Column("from_at", INSTANT, nullable=True))
    for table in EVENTS:
        correction = sa.Column("correction_kwh", sa.Double(), server_default="0", nullable=False)
        op.add_column(table, correction)
    for column in _summary_columns():
        op.add_column(SUMMARY, column)
    op.create_table(
        "vehicles_dirty",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("vehicle_key", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("vehicles_dirty_pkey")),
    )
    op.create_index(op.f("vehicles_dirty_vehicle_key_idx"), "vehicles_dirty", ["vehicle_key"])
    for hourly, dirty in zip(HOURLY, DIRTY, strict=True):
        op.execute(
            f"INSERT INTO {dirty} (device_key, hour) SELECT device_key, hour FROM {hourly}"  # noqa: S608
        )


def downgrade() -> None:
    op.drop_table("vehicles_dirty")
    for column in reversed(_summary_columns()):
        op.drop_column(SUMMARY, column.name)
    for table in EVENTS:
        op.drop_column(table, "correction_kwh")
    for table in DIRTY:
        op.drop_column(table, "from_at")
    for column in reversed(_soc_columns()):
        op.drop_column("vehicle_energy_hourly", column.name)
    for table in HOURLY:
        for column in reversed(_hour_columns()):
            op.drop_column(table, column.name)
