"""The Celery application: `celery -A workers worker|beat|flower` finds it here."""

from __future__ import annotations

import gc
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_before_create_process, worker_ready

from workers import logs

app = Celery("workers")
app.config_from_object("celeryconfig")
setup_logging.connect(logs.configure)


@worker_ready.connect
def _partitions_first(**_: Any) -> None:
    """Today's partitions exist before the first reading of a fresh installation is written."""
    app.send_task("keep-partitions")


@worker_before_create_process.connect
def settle(**_: Any) -> None:
    """What is loaded by now stays: the collector need not walk it whenever a batch grows."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
