"""Marks between the roll-up and the search for charging episodes.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vehicle_hours_changed",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("vehicle_key", sa.Integer(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("vehicle_hours_changed_pkey")),
    )
    op.create_index(
        op.f("vehicle_hours_changed_vehicle_key_idx"), "vehicle_hours_changed", ["vehicle_key"]
    )
    op.create_table(
        "days_begun",
        sa.Column("day", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("day", name=op.f("days_begun_pkey")),
    )


def downgrade() -> None:
    op.drop_table("days_begun")
    op.drop_table("vehicle_hours_changed")
