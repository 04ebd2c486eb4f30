"""Every setting of the product: one environment variable each, with its default and its reason.

The tables in README.md are checked against this file by tests/unit/test_docs.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from environs import Env


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator may choose. Units are in the names; `load()` reads the environment."""

    #: PostgreSQL, e.g. postgresql://user:password@host:5432/energy
    database_url: str
    #: The Redis that holds accepted readings until they are in PostgreSQL.
    stream_url: str
    #: The Redis (or RabbitMQ) that carries Celery's messages. A different server than the stream's:
    #: a full broker must not stop ingestion, and the other way round.
    celery_broker_url: str
    #: Largest request body, measured after decompression.
    max_body_bytes: int
    #: Most readings in one request; one request is one stream entry.
    max_batch_readings: int
    #: Readings older than this are refused; the default admits registers from many years ago.
    max_reading_age_days: int
    #: Readings further in the future than this are refused: they would pin `latest`.
    max_future_seconds: int
    #: Above this many waiting entries the door answers 503 until the workers have caught up.
    backlog_max_entries: int
    #: Above this share of the stream server's maxmemory the door answers 503.
    stream_memory_max_percent: int
    #: Most meters, and most vehicles, of a fleet; readings of further ones are refused.
    max_devices_per_fleet: int
    #: Requests a second that one key may make, over all web processes; 0 sets no limit.
    key_requests_per_second: float
    #: Readings a second that one key may bring in, over all web processes; 0 sets no limit.
    key_readings_per_second: float
    #: A connection to which nothing could be sent for so long, and which sends next to nothing, is
    #: ended: a body that never comes would hold a thread for ever. 0 leaves them.
    slow_sender_seconds: float
    #: How often the 24 h summary is brought up to date.
    rollup_interval_seconds: float
    #: How often the watcher looks for alarms.
    alarm_interval_seconds: float
    #: The efficiency (% of the AC energy) below which A1 calls 5 kW and more too low.
    alarm_floor_pct: float
    #: How many points below its own median A2 calls a vehicle's efficiency dropped.
    alarm_drop_pts: float
    #: A3's slack per evaluation and its limit, both in standard deviations.
    alarm_cusum_k: float
    alarm_cusum_h: float
    #: History partitions older than this are dropped; 0 keeps everything.
    retention_days: int
    #: Price of a kWh drawn from the grid, in `currency`; without it no money is shown.
    tariff_per_kwh: float | None
    #: What the tariff is in, as it is shown.
    currency: str
    #: kg of CO2 per kWh drawn from the grid; without it none is shown.
    grid_factor_kg_per_kwh: float | None
    #: Whether webhooks may go to private and loopback addresses: for a receiver next door.
    webhook_allow_private: bool
    #: "console" for people, "json" for log collectors.
    log_format: str


@cache
def load() -> Settings:
    """Read the environment once per process.

    Raises environs.EnvError naming the variable when one is missing or malformed.
    """
    env = Env()
    return Settings(
        database_url=env.str("DATABASE_URL"),
        stream_url=env.str("STREAM_URL"),
        celery_broker_url=env.str("CELERY_BROKER_URL"),
        max_body_bytes=env.int("MAX_BODY_BYTES", 4 * 1024 * 1024),
        max_batch_readings=env.int("MAX_BATCH_READINGS", 5000),
        max_reading_age_days=env.int("MAX_READING_AGE_DAYS", 7300),
        max_future_seconds=env.int("MAX_FUTURE_SECONDS", 600),
        backlog_max_entries=env.int("BACKLOG_MAX_ENTRIES", 200_000),
        stream_memory_max_percent=env.int("STREAM_MEMORY_MAX_PERCENT", 70),
        max_devices_per_fleet=env.int("MAX_DEVICES_PER_FLEET", 100_000),
        key_requests_per_second=env.float("KEY_REQUESTS_PER_SECOND", 0.0),
        key_readings_per_second=env.float("KEY_READINGS_PER_SECOND", 0.0),
        slow_sender_seconds=env.float("SLOW_SENDER_SECONDS", 40.0),
        rollup_interval_seconds=env.float("ROLLUP_INTERVAL_SECONDS", 10.0),
        alarm_interval_seconds=env.float("ALARM_INTERVAL_SECONDS", 30.0),
        alarm_floor_pct=env.float("ALARM_FLOOR_PCT", 85.0),
        alarm_drop_pts=env.float("ALARM_DROP_PTS", 5.0),
        alarm_cusum_k=env.float("ALARM_CUSUM_K", 1.0),
        alarm_cusum_h=env.float("ALARM_CUSUM_H", 8.0),
        retention_days=env.int("RETENTION_DAYS", 0),
        tariff_per_kwh=env.float("TARIFF_PER_KWH", None),
        currency=env.str("CURRENCY", "EUR"),
        grid_factor_kg_per_kwh=env.float("GRID_FACTOR_KG_PER_KWH", None),
        webhook_allow_private=env.bool("WEBHOOK_ALLOW_PRIVATE", False),
        log_format=env.str("LOG_FORMAT", "console"),
    )
