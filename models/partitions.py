"""History's partitions: one per UTC day, a default one for everything else.

The default partition is where an old register or the API's own 2023 example finds a home. Readings
that land there because the calendar was not kept (beat was down for a week) are moved when their
day's partition is made. An index that has grown sparse is made anew (docs/adr/0015).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from psycopg import sql
from sqlalchemy import Connection, text

from models.engine import driver, patience
from models.kinds import Kind

ONE_DAY = timedelta(days=1)

#: A packed index has 28.5 bytes for each row of 68. As it grows it has 35 to 52: a device's
#: newest page is split in the middle, and nothing is ever added to the older half.
SPARSE_SHARE = 0.45
#: Smaller partitions are left alone.
PACK_BYTES = 2**20
#: Longest time one index may take; less than Celery's time limit.
PACK_SECONDS = 240.0

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


_SPARSE = """
    SELECT index.relname FROM pg_inherits i
    JOIN pg_index ON indrelid = i.inhrelid AND indisvalid
    JOIN pg_class index ON index.oid = indexrelid
    WHERE i.inhparent = %s::regclass AND pg_relation_size(i.inhrelid) >= %s
      AND pg_relation_size(indexrelid) > %s * pg_relation_size(i.inhrelid)
    ORDER BY pg_relation_size(indexrelid) DESC
"""
_LEFT_BEHIND = """
    SELECT index.relname FROM pg_inherits i
    JOIN pg_index ON indrelid = i.inhrelid AND NOT indisvalid
    JOIN pg_class index ON index.oid = indexrelid
    WHERE i.inhparent = %s::regclass
"""


def sparse(conn: Connection, kind: Kind) -> list[str]:
    """Indexes of history's partitions that would be smaller if they were made anew."""
    found = driver(conn).execute(_SPARSE, (kind.history.name, PACK_BYTES, SPARSE_SHARE))
    return [name for (name,) in found]


def pack(conn: Connection, index: str) -> None:
    """Make an index anew without room in its pages; ingestion goes on meanwhile.

    Not in a transaction. The connection waits longer than others for its end.
    """
    run, name = driver(conn).execute, sql.Identifier(index)
    run(sql.SQL("ALTER INDEX {} SET (fillfactor = 100)").format(name))
    run(sql.SQL("SET statement_timeout = {}").format(sql.Literal(f"{PACK_SECONDS * 1000:.0f}ms")))
    try:
        with patience(PACK_SECONDS + 5):
            run(sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(name))
    finally:
        run("RESET statement_timeout")


def clear_left_behind(conn: Connection, kind: Kind) -> None:
    """Drop what a `pack` that did not come to its end has left: it costs every writer."""
    for (index,) in driver(conn).execute(_LEFT_BEHIND, (kind.history.name,)).fetchall():
        driver(conn).execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(index)))


def purge_default(conn: Connection, kind: Kind, before: datetime) -> int:
    """Delete what is older than `before` from the default partition; how many readings."""
    name = sql.Identifier(f"{kind.history.name}_default")
    statement = sql.SQL("DELETE FROM {} WHERE recorded_at < %s").format(name)
    return driver(conn).execute(statement, (before,)).rowcount
