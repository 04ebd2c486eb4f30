"""conservation

Revision ID: 0006
Revises: 0005

What the stream has carried is counted, and what operators decide about readings is written down.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def upgrade() -> None:
    op.create_table(
        "flush_receipts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("entry_ids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("flush_receipts_pkey")),
    )
    op.create_table(
        "operator_decisions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "decided_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("operator_decisions_pkey")),
    )
    op.create_table(
        "stream_tally",
        sa.Column("kind", sa.Text(), nullable=False),
        _count("entries"),
        _count("readings"),
        _count("inserted"),
        _count("duplicates"),
        _count("conflicts"),
        _count("dead"),
        _count("dead_letters"),
        sa.Column("removed_before", sa.BigInteger(), nullable=True),
        _count("added_seen"),
        _count("readings_written_off"),
        _count("dead_letters_written_off"),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        _count("requests_lost"),
        _count("requests_forgotten"),
        _count("readings_lost"),
        _count("dead_letters_lost"),
        sa.PrimaryKeyConstraint("kind", name=op.f("stream_tally_pkey")),
    )
    # Dead letters from before the count are not missing from it.
    op.execute(
        "INSERT INTO stream_tally (kind, dead_letters)"
        " SELECT kind, count(*) FROM dead_letters GROUP BY kind"
    )


def downgrade() -> None:
    op.drop_table("stream_tally")
    op.drop_table("operator_decisions")
    op.drop_table("flush_receipts")
