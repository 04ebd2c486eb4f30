"""History's partitions: one per UTC day, a default one for everything else.

The default partition is where an old register or the API's own 2023 example finds a home. Readings
that land there because the calendar was not kept (beat was down for a week) are moved when their
day's partition is made.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from psycopg import sql
from sqlalchemy import Connection, text

from models.engine import driver
from models.kinds import Kind

ONE_DAY = timedelta(days=1)

_NAMES = text("""
    SELECT c.relname FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = CAST(:parent AS regclass)
""")


def partition_name(kind: Kind, day: date) -> str:
    """e.g. meter_telemetry_history_p20260110"""
    return f"{kind.history.name}_p{day:%Y%m%d}"


def days(conn: Connection, kind: Kind) -> set[date]:
    """The days that have a partition."""
    names = conn.execute(_NAMES, {"parent": kind.history.name}).scalars()
    prefix = f"{kind.history.name}_p"
    return {
        datetime.strptime(name.removeprefix(prefix), "%Y%m%d").replace(tzinfo=UTC).date()
        for name in names
        if name.startswith(prefix)
    }


def create(conn: Connection, kind: Kind, day: date) -> int:
    """Make a day's partition and move what the default partition holds of it; how many moved.

    Locks out writers of the default partition while it moves rows, nobody otherwise for long.
    """
    begin = datetime.combine(day, time.min, UTC)
    names = {
        "part": sql.Identifier(partition_name(kind, day)),
        "parent": sql.Identifier(kind.history.name),
        "default": sql.Identifier(f"{kind.history.name}_default"),
        "begin": sql.Literal(begin.isoformat()),
        "end": sql.Literal((begin + ONE_DAY).isoformat()),
    }
    run = driver(conn).execute
    run(sql.SQL("LOCK TABLE {default} IN SHARE ROW EXCLUSIVE MODE").format(**names))
    run(sql.SQL("CREATE TABLE {part} (LIKE {parent} INCLUDING ALL)").format(**names))
    moved = run(
        sql.SQL(
            "WITH moved AS (DELETE FROM {default}"
            " WHERE recorded_at >= {begin} AND recorded_at < {end} RETURNING *)"
            " INSERT INTO {part} SELECT * FROM moved"
        ).format(**names)
    ).rowcount
    run(
        sql.SQL(
            "ALTER TABLE {parent} ATTACH PARTITION {part} FOR VALUES FROM ({begin}) TO ({end})"
        ).format(**names)
    )
    return moved


def drop(conn: Connection, kind: Kind, day: date) -> None:
    """Drop a day's partition: retention in one statement."""
    name = sql.Identifier(partition_name(kind, day))
    driver(conn).execute(sql.SQL("DROP TABLE {}").format(name))


def purge_default(conn: Connection, kind: Kind, before: datetime) -> int:
    """Delete what is older than `before` from the default partition; how many readings."""
    name = sql.Identifier(f"{kind.history.name}_default")
    statement = sql.SQL("DELETE FROM {} WHERE recorded_at < %s").format(name)
    return driver(conn).execute(statement, (before,)).rowcount
