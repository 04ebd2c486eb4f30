"""readings

Revision ID: 0001
Revises:

The first schema: registry, history (partitioned by day, with a default partition), latest, hourly
energy, judged samples, summary, and what the flush sets aside. docs/adr/0002 says why it looks like
this.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("entry_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("fleet_id", sa.Integer(), nullable=True),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column(
            "dead_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("dead_letters_pkey")),
    )
    op.create_index(
        "dead_letters_reading_key", "dead_letters", ["kind", "entry_id", "position"], unique=True
    )
    op.create_table(
        "fleets",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("fleets_pkey")),
        sa.UniqueConstraint("name", name=op.f("fleets_name_key")),
    )
    op.create_table(
        "meter_energy_hourly",
        sa.Column("device_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_kwh", sa.Double(), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_kwh", sa.Double(), nullable=False),
        sa.Column("energy_kwh", sa.Double(), nullable=False),
        sa.Column("seam_kwh", sa.Double(), nullable=True),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("rough", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("device_key", "hour", name=op.f("meter_energy_hourly_pkey")),
    )
    op.create_table(
        "meter_hours_dirty",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("meter_hours_dirty_pkey")),
    )
    op.create_table(
        "meter_register_events",
        sa.Column("device_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event", sa.Text(), nullable=True),
        sa.Column("dropped", sa.Boolean(), nullable=False),
        sa.Column("energy_kwh", sa.Double(), nullable=False),
        sa.Column("high_kwh", sa.Double(), nullable=False),
        sa.Column("uncertain_kwh", sa.Double(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("device_key", "at", name=op.f("meter_register_events_pkey")),
    )
    op.create_table(
        "meter_status_latest",
        sa.Column("device_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kwh_consumed_ac", sa.Double(), nullable=False),
        sa.Column("voltage_v", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("device_key", name=op.f("meter_status_latest_pkey")),
        postgresql_with={"fillfactor": 60},
    )
    op.create_table(
        "meter_telemetry_history",
        sa.Column("device_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kwh_consumed_ac", sa.Double(), nullable=False),
        sa.Column("voltage_v", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint(
            "device_key", "recorded_at", name=op.f("meter_telemetry_history_pkey")
        ),
        postgresql_partition_by="RANGE (recorded_at)",
    )
    op.create_table(
        "reading_conflicts",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("device_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("refused", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint(
            "kind", "device_key", "recorded_at", "digest", name=op.f("reading_conflicts_pkey")
        ),
    )
    op.create_table(
        "vehicle_energy_hourly",
        sa.Column("device_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_kwh", sa.Double(), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_kwh", sa.Double(), nullable=False),
        sa.Column("energy_kwh", sa.Double(), nullable=False),
        sa.Column("seam_kwh", sa.Double(), nullable=True),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("rough", sa.Boolean(), nullable=False),
        sa.Column("battery_temp_sum_c", sa.Double(), nullable=False),
        sa.Column("battery_temp_min_c", sa.Double(), nullable=False),
        sa.Column("battery_temp_max_c", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("device_key", "hour", name=op.f("vehicle_energy_hourly_pkey")),
    )
    op.create_table(
        "vehicle_hours_dirty",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("vehicle_hours_dirty_pkey")),
    )
    op.create_table(
        "vehicle_performance_24h",
        sa.Column("vehicle_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fleet_id", sa.Integer(), nullable=False),
        sa.Column("vehicle_id", sa.Text(), nullable=False),
        sa.Column("meter_id", sa.Text(), nullable=True),
        sa.Column("window_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("effective_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("effective_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ac_kwh", sa.Double(), nullable=True),
        sa.Column("dc_kwh", sa.Double(), nullable=True),
        sa.Column("efficiency", sa.Double(), nullable=True),
        sa.Column("raw_ratio", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("battery_temp_avg_c", sa.Double(), nullable=True),
        sa.Column("battery_temp_min_c", sa.Double(), nullable=True),
        sa.Column("battery_temp_max_c", sa.Double(), nullable=True),
        sa.Column("ac_samples", sa.Integer(), nullable=False),
        sa.Column("dc_samples", sa.Integer(), nullable=False),
        sa.Column("ac_events", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("dc_events", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("data_complete_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("vehicle_key", name=op.f("vehicle_performance_24h_pkey")),
        sa.UniqueConstraint(
            "fleet_id", "vehicle_id", name=op.f("vehicle_performance_24h_fleet_id_vehicle_id_key")
        ),
    )
    op.create_index(
        "vehicle_performance_24h_worst_first_idx",
        "vehicle_performance_24h",
        ["fleet_id", "efficiency", "vehicle_key"],
        unique=False,
    )
    op.create_table(
        "vehicle_register_events",
        sa.Column("device_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event", sa.Text(), nullable=True),
        sa.Column("dropped", sa.Boolean(), nullable=False),
        sa.Column("energy_kwh", sa.Double(), nullable=False),
        sa.Column("high_kwh", sa.Double(), nullable=False),
        sa.Column("uncertain_kwh", sa.Double(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("device_key", "at", name=op.f("vehicle_register_events_pkey")),
    )
    op.create_table(
        "vehicle_status_latest",
        sa.Column("device_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("soc_pct", sa.REAL(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kwh_delivered_dc", sa.Double(), nullable=False),
        sa.Column("battery_temp_c", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("device_key", name=op.f("vehicle_status_latest_pkey")),
        postgresql_with={"fillfactor": 60},
    )
    op.create_table(
        "vehicle_telemetry_history",
        sa.Column("device_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("soc_pct", sa.REAL(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kwh_delivered_dc", sa.Double(), nullable=False),
        sa.Column("battery_temp_c", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint(
            "device_key", "recorded_at", name=op.f("vehicle_telemetry_history_pkey")
        ),
        postgresql_partition_by="RANGE (recorded_at)",
    )
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("fleet_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleets.id"], name=op.f("api_keys_fleet_id_fkey")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("api_keys_pkey")),
    )
    op.create_table(
        "meters",
        sa.Column("key", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("fleet_id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column(
            "registered_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("max_power_kw", sa.Double(), nullable=True),
        sa.Column("resolution_kwh", sa.Double(), nullable=True),
        sa.Column("rollover_kwh", sa.Double(), nullable=True),
        sa.Column("dip_tolerance_kwh", sa.Double(), nullable=True),
        sa.Column("edge_gap_seconds", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleets.id"], name=op.f("meters_fleet_id_fkey")),
        sa.PrimaryKeyConstraint("key", name=op.f("meters_pkey")),
        sa.UniqueConstraint("fleet_id", "device_id", name=op.f("meters_fleet_id_device_id_key")),
    )
    op.create_table(
        "vehicles",
        sa.Column("key", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("fleet_id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column(
            "registered_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("max_power_kw", sa.Double(), nullable=True),
        sa.Column("resolution_kwh", sa.Double(), nullable=True),
        sa.Column("rollover_kwh", sa.Double(), nullable=True),
        sa.Column("dip_tolerance_kwh", sa.Double(), nullable=True),
        sa.Column("edge_gap_seconds", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleets.id"], name=op.f("vehicles_fleet_id_fkey")),
        sa.PrimaryKeyConstraint("key", name=op.f("vehicles_pkey")),
        sa.UniqueConstraint("fleet_id", "device_id", name=op.f("vehicles_fleet_id_device_id_key")),
    )
    op.create_table(
        "meter_assignments",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("vehicle_key", sa.Integer(), nullable=False),
        sa.Column("meter_key", sa.Integer(), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_to", sa.DateTime(timezone=True), nullable=True),
        postgresql.ExcludeConstraint(
            (sa.text("int4range(meter_key, meter_key, '[]')"), "&&"),
            (sa.text("tstzrange(valid_from, valid_to)"), "&&"),
            using="gist",
            name="meter_assignments_one_vehicle_per_meter",
        ),
        postgresql.ExcludeConstraint(
            (sa.text("int4range(vehicle_key, vehicle_key, '[]')"), "&&"),
            (sa.text("tstzrange(valid_from, valid_to)"), "&&"),
            using="gist",
            name="meter_assignments_one_meter_per_vehicle",
        ),
        sa.CheckConstraint("valid_to > valid_from", name=op.f("meter_assignments_period_check")),
        sa.ForeignKeyConstraint(
            ["meter_key"], ["meters.key"], name=op.f("meter_assignments_meter_key_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["vehicle_key"], ["vehicles.key"], name=op.f("meter_assignments_vehicle_key_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("meter_assignments_pkey")),
    )
    for history in ("meter_telemetry_history", "vehicle_telemetry_history"):
        # A home for what no day's partition admits; workers/partitions.py makes the days.
        op.execute(f"CREATE TABLE {history}_default PARTITION OF {history} DEFAULT")


def downgrade() -> None:
    op.drop_table("meter_assignments")
    op.drop_table("vehicles")
    op.drop_table("meters")
    op.drop_table("api_keys")
    op.drop_table("vehicle_telemetry_history")
    op.drop_table("vehicle_status_latest")
    op.drop_table("vehicle_register_events")
    op.drop_index("vehicle_performance_24h_worst_first_idx", table_name="vehicle_performance_24h")
    op.drop_table("vehicle_performance_24h")
    op.drop_table("vehicle_hours_dirty")
    op.drop_table("vehicle_energy_hourly")
    op.drop_table("reading_conflicts")
    op.drop_table("meter_telemetry_history")
    op.drop_table("meter_status_latest")
    op.drop_table("meter_register_events")
    op.drop_table("meter_hours_dirty")
    op.drop_table("meter_energy_hourly")
    op.drop_table("fleets")
    op.drop_index("dead_letters_reading_key", table_name="dead_letters")
    op.drop_table("dead_letters")
