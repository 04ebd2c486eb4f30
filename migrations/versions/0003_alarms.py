"""alarms

Revision ID: 0003
Revises: 0002

Alarms: the evidence they are judged on (charging episodes, finished days), the alarms with their
history, and what is learnt of each vehicle. All tables are new; none that readings are written to
is touched.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alarm_conditions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("vehicle_key", sa.Integer(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ok_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("alarm_conditions_pkey")),
    )
    op.create_index(
        "alarm_conditions_one_now_idx",
        "alarm_conditions",
        ["vehicle_key", "rule"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "charging_episodes",
        sa.Column("vehicle_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fleet_id", sa.Integer(), nullable=False),
        sa.Column("vehicle_id", sa.Text(), nullable=False),
        sa.Column("meter_id", sa.Text(), nullable=True),
        sa.Column("ac_kwh", sa.Double(), nullable=True),
        sa.Column("dc_kwh", sa.Double(), nullable=True),
        sa.Column("efficiency", sa.Double(), nullable=True),
        sa.Column("efficiency_low", sa.Double(), nullable=True),
        sa.Column("efficiency_high", sa.Double(), nullable=True),
        sa.Column("raw_ratio", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("confidence", sa.Text(), nullable=False),
        sa.Column("charging_hours", sa.Double(), nullable=False),
        sa.Column("avg_ac_power_kw", sa.Double(), nullable=True),
        sa.Column("battery_temp_min_c", sa.Double(), nullable=True),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("vehicle_key", "started_at", name=op.f("charging_episodes_pkey")),
    )
    op.create_index(
        "charging_episodes_fleet_idx", "charging_episodes", ["fleet_id", "ended_at"], unique=False
    )
    op.create_table(
        "episodes_dirty",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("vehicle_key", sa.Integer(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("episodes_dirty_pkey")),
    )
    op.create_table(
        "vehicle_baselines",
        sa.Column("vehicle_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fleet_id", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("evaluations", sa.Integer(), nullable=False),
        sa.Column("efficiency_median", sa.Double(), nullable=True),
        sa.Column("eta_c", sa.Double(), nullable=True),
        sa.Column("p_aux_kw", sa.Double(), nullable=True),
        sa.Column("sigma_pts", sa.Double(), nullable=True),
        sa.Column("z", sa.Double(), nullable=True),
        sa.Column("cusum", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("vehicle_key", name=op.f("vehicle_baselines_pkey")),
    )
    op.create_table(
        "vehicle_days",
        sa.Column("vehicle_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("ac_kwh", sa.Double(), nullable=True),
        sa.Column("dc_kwh", sa.Double(), nullable=True),
        sa.Column("idle_ac_kwh", sa.Double(), nullable=True),
        sa.Column("idle_hours", sa.Double(), nullable=False),
        sa.Column("charging_hours", sa.Double(), nullable=False),
        sa.Column("confidence", sa.Text(), nullable=False),
        sa.Column("ac_events", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("dc_events", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("vehicle_key", "day", name=op.f("vehicle_days_pkey")),
    )
    op.create_table(
        "alarms",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("fleet_id", sa.Integer(), nullable=False),
        sa.Column("vehicle_key", sa.Integer(), nullable=False),
        sa.Column("vehicle_id", sa.Text(), nullable=False),
        sa.Column("meter_id", sa.Text(), nullable=True),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("stale", sa.Boolean(), nullable=False),
        sa.Column("first_opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_evaluated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("returned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("baseline", sa.Double(), nullable=True),
        sa.Column("delta_pts", sa.Double(), nullable=True),
        sa.Column("z", sa.Double(), nullable=True),
        sa.Column("avoidable_kwh", sa.Double(), nullable=False),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("occurrences", sa.Integer(), nullable=False),
        sa.Column("reopened_from", sa.BigInteger(), nullable=True),
        sa.Column("incident", sa.Text(), nullable=True),
        sa.Column("suppressed_reason", sa.Text(), nullable=True),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("acknowledged_note", sa.Text(), nullable=True),
        sa.Column("shelved_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("shelved_by", sa.Text(), nullable=True),
        sa.Column("shelved_note", sa.Text(), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolved_by", sa.Text(), nullable=True),
        sa.Column("resolved_reason", sa.Text(), nullable=True),
        sa.Column("resolved_note", sa.Text(), nullable=True),
        sa.Column("notified_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleets.id"], name=op.f("alarms_fleet_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("alarms_pkey")),
    )
    op.create_index("alarms_fleet_idx", "alarms", ["fleet_id", "id"], unique=False)
    op.create_index(
        "alarms_one_open_idx",
        "alarms",
        ["vehicle_key", "rule"],
        unique=True,
        postgresql_where=sa.text("state <> 'resolved'"),
    )
    op.create_index(
        "alarms_unresolved_idx",
        "alarms",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state <> 'resolved'"),
    )
    op.create_index("alarms_vehicle_idx", "alarms", ["vehicle_key", "rule", "id"], unique=False)
    op.create_table(
        "alarm_transitions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("alarm_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["alarm_id"],
            ["alarms.id"],
            name=op.f("alarm_transitions_alarm_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("alarm_transitions_pkey")),
    )
    op.create_index(
        "alarm_transitions_alarm_idx", "alarm_transitions", ["alarm_id", "id"], unique=False
    )


def downgrade() -> None:
    op.drop_index("alarm_transitions_alarm_idx", table_name="alarm_transitions")
    op.drop_table("alarm_transitions")
    op.drop_index("alarms_vehicle_idx", table_name="alarms")
    op.drop_index(
        "alarms_unresolved_idx",
        table_name="alarms",
        postgresql_where=sa.text("state <> 'resolved'"),
    )
    op.drop_index(
        "alarms_one_open_idx", table_name="alarms", postgresql_where=sa.text("state <> 'resolved'")
    )
    op.drop_index("alarms_fleet_idx", table_name="alarms")
    op.drop_table("alarms")
    op.drop_table("vehicle_days")
    op.drop_table("vehicle_baselines")
    op.drop_table("episodes_dirty")
    op.drop_index("charging_episodes_fleet_idx", table_name="charging_episodes")
    op.drop_table("charging_episodes")
    op.drop_index(
        "alarm_conditions_one_now_idx",
        table_name="alarm_conditions",
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.drop_table("alarm_conditions")
