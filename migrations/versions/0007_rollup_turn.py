"""rollup turn

Revision ID: 0007
Revises: 0006

Which process rolled up last: its memory of steady registers is true, everybody else's is not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rollup_turn",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("rollup_turn_pkey")),
    )


def downgrade() -> None:
    op.drop_table("rollup_turn")
