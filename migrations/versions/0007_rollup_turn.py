"""rollup turn

Revision ID: 0007
Revises: 0006

Which process rolled up last: its memory of steady registers is true, everybody else's is not.

The rows that every tick writes again get room beside them: with it an update need not touch the
indexes. Pages that are there already stay as they are until their rows move.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

#: Percent of a page that is filled at first.
FILLED = {"vehicle_performance_24h": 50, "meter_energy_hourly": 80, "vehicle_energy_hourly": 80}


def upgrade() -> None:
    for table, percent in FILLED.items():
        op.execute(f"ALTER TABLE {table} SET (fillfactor = {percent})")
    op.create_table(
        "rollup_turn",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("rollup_turn_pkey")),
    )


def downgrade() -> None:
    op.drop_table("rollup_turn")
    for table in FILLED:
        op.execute(f"ALTER TABLE {table} RESET (fillfactor)")
