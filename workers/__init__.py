"""Everything that happens between HTTP and rows: stream, flush, rollup, partitions."""

from workers.celery import app

__all__ = ["app"]
