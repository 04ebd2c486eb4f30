"""What must hold in PostgreSQL for a COMMIT to be a promise."""

from __future__ import annotations

from sqlalchemy import Connection, text

from models.engine import reading

_SETTINGS = text("""
    SELECT name, setting FROM pg_settings
    WHERE name IN ('synchronous_commit', 'fsync', 'full_page_writes', 'transaction_read_only')
""")


def answers() -> None:
    """Raises OperationalError when PostgreSQL does not answer."""
    with reading():  # made just now, or pinged by the pool before it is handed out
        pass


def unsafe_settings(conn: Connection, expected_revision: str) -> dict[str, str]:
    """Every unmet condition by name, with what is wrong."""
    unmet: dict[str, str] = {}
    actual = {row.name: row.setting for row in conn.execute(_SETTINGS)}
    if actual["synchronous_commit"] == "off":
        unmet["SYNCHRONOUS_COMMIT_OFF"] = "a confirmed commit may be lost with the server"
    if actual["fsync"] == "off":
        unmet["FSYNC_OFF"] = "a confirmed commit may be lost with the machine"
    if actual["full_page_writes"] == "off":
        unmet["FULL_PAGE_WRITES_OFF"] = "a torn page cannot be repaired"
    if actual.get("transaction_read_only") == "on":
        unmet["DATABASE_READ_ONLY"] = "a standby, or set to read only: nothing can be stored"
    revision = conn.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    if revision != expected_revision:
        unmet["MIGRATIONS_PENDING"] = f"the schema is at {revision}, not at {expected_revision}"
    return unmet
