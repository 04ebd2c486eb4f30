"""Every metric of the system, declared once. docs/metrics.md lists them; a test compares.

Web and worker processes of one machine share PROMETHEUS_MULTIPROC_DIR, so that one scrape of
/metrics shows them all; without it each process counts for itself.
"""

from __future__ import annotations

import os
import socket

from prometheus_client import Counter, Gauge, Histogram, values

if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    # The files of the processes carry their pid, which two containers may share. Asked for whenever
    # something is counted: a fork is noticed by it.
    _host = socket.gethostname()
    values.ValueClass = values.MultiProcessValue(  # type: ignore[no-untyped-call]
        lambda: f"{_host}-{os.getpid()}"
    )

READINGS_ACCEPTED = Counter(
    "energy_readings_accepted_total", "Readings answered with 202", ["kind"]
)
READINGS_REJECTED = Counter(
    "energy_readings_rejected_total", "Readings refused inside a batch, by code", ["kind", "code"]
)
REQUESTS_REFUSED = Counter(
    "energy_requests_refused_total", "Requests refused as a whole, by code", ["code"]
)
SLOW_CONNECTIONS_ENDED = Counter(
    "energy_slow_connections_ended_total", "Connections ended because nothing moved on them"
)
DOORBELLS_LOST = Counter(
    "energy_doorbells_lost_total", "Doorbells that the broker did not take; the sweep covers them"
)
READINGS_FLUSHED = Counter(
    "energy_readings_flushed_total",
    "Readings that left the stream, by what became of them",
    ["kind", "outcome"],  # inserted, duplicate, conflict, dead
)
FLUSH_SECONDS = Histogram(
    "energy_flush_seconds",
    "One transaction of the flush, from claim to acknowledgement",
    ["kind"],
    buckets=(0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
ROLLUP_SECONDS = Histogram(
    "energy_rollup_seconds",
    "One tick of the rollup",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
CONSERVATION_DIFFERENCE = Gauge(
    "energy_conservation_difference",
    "Accepted and not accounted for, by the law that says so; anything but 0 is an alarm",
    ["kind", "law"],  # requests, forgotten, readings, dead_letters
    multiprocess_mode="mostrecent",
)
WEBHOOKS_SENT = Counter(
    "energy_webhooks_sent_total",
    "Attempts to deliver a webhook, by what came of them",
    ["outcome"],  # delivered, failed (will be tried again), dead (will not)
)
WEBHOOK_OLDEST_DUE_SECONDS = Gauge(
    "energy_webhook_oldest_due_seconds",
    "For how long the longest waiting webhook has been due after a tick",
    multiprocess_mode="mostrecent",
)
STREAM_ENTRIES = Gauge(
    "energy_stream_entries",
    "Entries in the stream, waiting or being written",
    ["kind"],
    multiprocess_mode="mostrecent",
)
OLDEST_READING_SECONDS = Gauge(
    "energy_oldest_waiting_seconds",
    "Age of the oldest accepted request that is not in history yet: the liveness signal",
    ["kind"],
    multiprocess_mode="mostrecent",
)
WATCH_SECONDS = Histogram(
    "energy_alarm_watch_seconds",
    "One run of the watcher over the vehicles with new evidence",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
ALARM_TRANSITIONS = Counter(
    "energy_alarm_transitions_total",
    "What happened to alarms, by rule and event",
    ["rule", "event"],
)
