"""Celery's settings, each with its reason. Imports nothing of ours: any program may read it.

Readings never travel in Celery messages: a message is a doorbell ("there is work") or a tick.
A lost, doubled or late message therefore costs a second, never a reading.
"""

import os

from kombu.entity import Exchange, Queue

#: Every queue, and what it carries. A worker started without -Q consumes them all.
QUEUE_FLUSH = "flush"  # doorbells and looks at the stream; wants to start at once
QUEUE_ROLLUP = "rollup"  # ticks: history -> summary; may take seconds, so never in flush's pool
QUEUE_MAINTENANCE = "maintenance"  # partitions and retention; may take minutes
QUEUE_WEBHOOKS = "webhooks"  # waits for strangers' servers: in nobody else's pool
QUEUE_NAMES = (QUEUE_FLUSH, QUEUE_ROLLUP, QUEUE_MAINTENANCE, QUEUE_WEBHOOKS)

#: Seconds between two looks for readings whose doorbell was lost.
SWEEP_SECONDS = 1.0
#: Seconds between two searches for charging episodes, the alarms' evidence.
EPISODES_SECONDS = 20.0
#: Seconds between two looks at the calendar of partitions.
PARTITIONS_SECONDS = 3600.0
#: Seconds between two looks for webhooks that are due, and for old ones to forget.
WEBHOOKS_SECONDS = 5.0
PRUNE_WEBHOOKS_SECONDS = 3600.0
#: Seconds between two looks whether what was accepted is all accounted for.
CONSERVATION_SECONDS = 10.0
ROLLUP_SECONDS = float(os.environ.get("ROLLUP_INTERVAL_SECONDS", "10"))
ALARM_SECONDS = float(os.environ.get("ALARM_INTERVAL_SECONDS", "30"))

# --- the broker ---------------------------------------------------------------------------------
# A Redis of its own (or RabbitMQ): the stream's Redis may be full while workers must go on.
broker_url = os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0")
broker_connection_retry_on_startup = True  # the broker may come up after the worker
broker_connection_max_retries = None  # never give up: the default stops after 100 tries
broker_connection_timeout = 2
broker_transport_options = {
    # Without these a half-open connection is never noticed (measured: still deaf after 120 s).
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "retry_on_timeout": False,
    "max_retries": 0,  # of publishing: a doorbell for a broker that is away is given up at once
    "visibility_timeout": 600,  # longer than any task; then a killed worker's message comes back
    "global_keyprefix": "celery:",
}

# --- messages -----------------------------------------------------------------------------------
task_serializer = "json"
accept_content = ["json"]  # a pickle in the broker would be code
result_accept_content = ["json"]
result_backend = None  # results are numbers for Flower (they ride in the events), nobody waits
task_ignore_result = True
task_acks_late = False  # a doorbell is a hint: delivered at most once is right for it
task_publish_retry = False  # the door must not wait for a broker that is away

# --- queues and routes --------------------------------------------------------------------------
task_queues = [  # each with its own exchange and key: one queue never hears another's messages
    Queue(name, Exchange(name), routing_key=name)  # type: ignore[no-untyped-call]
    for name in QUEUE_NAMES
]
task_default_queue = QUEUE_MAINTENANCE
task_create_missing_queues = False  # a misspelt queue is an error, not a queue without consumer
task_routes = {
    "flush-readings": {"queue": QUEUE_FLUSH},
    "sweep-streams": {"queue": QUEUE_FLUSH},
    "roll-up": {"queue": QUEUE_ROLLUP},
    "find-episodes": {"queue": QUEUE_MAINTENANCE},
    "watch-alarms": {"queue": QUEUE_ROLLUP},
    "keep-partitions": {"queue": QUEUE_MAINTENANCE},
    "deliver-webhooks": {"queue": QUEUE_WEBHOOKS},
    "prune-webhooks": {"queue": QUEUE_MAINTENANCE},
    "check-conservation": {"queue": QUEUE_FLUSH},
}

# --- workers ------------------------------------------------------------------------------------
imports = (
    "workers.flush",
    "workers.rollup",
    "workers.episodes",
    "workers.watch",
    "workers.partitions",
    "workers.webhooks",
    "workers.conservation",
)
task_time_limit = 300  # SIGKILL is safe by design; a soft limit's exception inside COMMIT is not
worker_prefetch_multiplier = 1  # a worker reserves only what it can start
worker_max_tasks_per_child = 20_000  # a leak in any library ends with its process
worker_max_memory_per_child = 400_000  # KiB; twice what a flush of 40,000 readings needs
worker_soft_shutdown_timeout = 15  # let a flush finish at a warm stop; the design does not need it
worker_hijack_root_logger = False  # logging is set up by workers.logs, the same for web and workers
worker_cancel_long_running_tasks_on_connection_loss = False  # the work is not in the message

# --- what Flower sees ---------------------------------------------------------------------------
# Events show workers online and each task with its real numbers. They are bounded: Redis keeps an
# event 5 s for a reader that is away and forgets an unread queue after 60 s; Flower keeps the
# newest 10,000 tasks (stack/ and docker-compose.yml start it with --max_tasks).
worker_send_task_events = True
task_send_sent_event = False  # doorbells are counted by the worker that hears them
event_queue_ttl = 5.0
event_queue_expires = 60.0

# --- beat ---------------------------------------------------------------------------------------
# In memory: a restarted beat starts afresh, there is no file to corrupt. Two beats only tick twice.
beat_scheduler = "celery.beat:Scheduler"
beat_max_loop_interval = 1
beat_schedule = {
    # workers/flush.py
    "sweep-streams": {
        "task": "sweep-streams",
        "schedule": SWEEP_SECONDS,
        "options": {"expires": 3},  # a sweep that waited that long has been overtaken by the next
    },
    # workers/rollup.py
    "roll-up": {
        "task": "roll-up",
        "schedule": ROLLUP_SECONDS,
        "options": {"expires": 2 * ROLLUP_SECONDS},
    },
    # workers/episodes.py
    "find-episodes": {
        "task": "find-episodes",
        "schedule": EPISODES_SECONDS,
        "options": {"expires": EPISODES_SECONDS},
    },
    # workers/watch.py
    "watch-alarms": {
        "task": "watch-alarms",
        "schedule": ALARM_SECONDS,
        "options": {"expires": 2 * ALARM_SECONDS},
    },
    # workers/partitions.py (also once when a worker starts)
    "keep-partitions": {
        "task": "keep-partitions",
        "schedule": PARTITIONS_SECONDS,
        "options": {"expires": PARTITIONS_SECONDS},
    },
    # workers/webhooks.py
    "deliver-webhooks": {
        "task": "deliver-webhooks",
        "schedule": WEBHOOKS_SECONDS,
        "options": {"expires": 2 * WEBHOOKS_SECONDS},
    },
    "prune-webhooks": {
        "task": "prune-webhooks",
        "schedule": PRUNE_WEBHOOKS_SECONDS,
        "options": {"expires": PRUNE_WEBHOOKS_SECONDS},
    },
    # workers/conservation.py
    "check-conservation": {
        "task": "check-conservation",
        "schedule": CONSERVATION_SECONDS,
        "options": {"expires": CONSERVATION_SECONDS},
    },
}
timezone = "UTC"
enable_utc = True
