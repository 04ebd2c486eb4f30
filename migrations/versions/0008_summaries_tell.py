"""summaries tell

Revision ID: 0008
Revises: 0007

Whatever writes a vehicle's summary tells whoever listens, at its COMMIT: the web keeps summaries
and must not tell one that has changed (docs/adr/0021). A trigger cannot be forgotten by a writer.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

#: A notification has room for 7,999 bytes; a key has up to ten digits and a comma.
TELL_CHANGED = """
    CREATE FUNCTION tell_changed_summaries() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_catalog.pg_notify('summaries', string_agg(vehicle_key::text, ','))
        FROM (SELECT vehicle_key, (row_number() OVER () - 1) / 700 AS part FROM changed) AS parts
        GROUP BY part;
        RETURN NULL;
    END $$
"""
#: Nothing in it: all of them.
TELL_ALL = """
    CREATE FUNCTION tell_all_summaries() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_catalog.pg_notify('summaries', '');
        RETURN NULL;
    END $$
"""
#: What is done to the table -> its rows, as they are after it (a deleted one: before).
CHANGES = {"INSERT": "NEW", "UPDATE": "NEW", "DELETE": "OLD"}


#: For who listens already: from now on, or no longer, each change is told.
TELL_NOW = "SELECT pg_catalog.pg_notify('summaries', '')"


def upgrade() -> None:
    op.execute(TELL_CHANGED)
    op.execute(TELL_ALL)
    for change, rows in CHANGES.items():
        op.execute(
            f"CREATE TRIGGER tell_{change.lower()} AFTER {change} ON vehicle_performance_24h"
            f" REFERENCING {rows} TABLE AS changed"
            " FOR EACH STATEMENT EXECUTE FUNCTION tell_changed_summaries()"
        )
    op.execute(
        "CREATE TRIGGER tell_truncate AFTER TRUNCATE ON vehicle_performance_24h"
        " FOR EACH STATEMENT EXECUTE FUNCTION tell_all_summaries()"
    )
    for change in (*CHANGES, "TRUNCATE"):  # also of who writes as a replica does
        op.execute(
            f"ALTER TABLE vehicle_performance_24h ENABLE ALWAYS TRIGGER tell_{change.lower()}"
        )
    op.execute(TELL_NOW)


def downgrade() -> None:
    for change in (*CHANGES, "TRUNCATE"):
        op.execute(f"DROP TRIGGER tell_{change.lower()} ON vehicle_performance_24h")
    op.execute("DROP FUNCTION tell_changed_summaries()")
    op.execute("DROP FUNCTION tell_all_summaries()")
    op.execute(TELL_NOW)
