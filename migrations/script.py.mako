"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}

It is VERY important that a migration does not lock a table that readings are written to: add
columns as nullable, create indexes CONCURRENTLY in a migration of their own, back-fill in batches.
The previous release's code runs against the new schema while a deployment is under way.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
