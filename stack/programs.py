"""The programs of a stack: what is started, in which order it stops, how it is told to."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from stack import postgres, valkey
from stack.home import Home
from stack.ports import LOOPBACK

#: Groups are stopped one after the other, in this order; they start the other way round.
GROUPS = ("app", "valkey", "postgres")


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process. Programs of the group "app" start when they are told to."""

    name: str
    group: str
    command: tuple[str, ...]
    stop_signal: str = "TERM"
    #: After this many seconds it is killed, with its children.
    stop_seconds: int = 15


def postgres_program(home: Home, port: int) -> Program:
    """The database. SIGINT is its fast shutdown; SIGTERM would wait for clients for ever."""
    server = postgres.command(home.postgres, port)
    return Program("postgres", "postgres", tuple(server), "INT", stop_seconds=60)


def stream_program(home: Home, port: int) -> Program:
    """Holds readings that were acknowledged with 202: each write is on the disk first."""
    server = valkey.command(
        home.stream, port, home.secret("stream"), appendfsync="always", maxmemory="512mb"
    )
    return Program("stream", "valkey", tuple(server))


def broker_program(home: Home, port: int) -> Program:
    """Carries doorbells; losing a second of them costs nothing, the sweep rings again."""
    server = valkey.command(
        home.broker, port, home.secret("broker"), appendfsync="everysec", maxmemory="256mb"
    )
    return Program("broker", "valkey", tuple(server))


def app_programs(api_port: int, flower_port: int) -> tuple[Program, ...]:
    """The product itself. Each line here is a service in docker-compose.yml."""
    # A worker that is told to stop finishes its task first.
    patience = 30
    return (
        Program("web", "app", _web(api_port)),
        Program("worker-flush", "app", _worker("flush", "flush", 2), stop_seconds=patience),
        Program(
            "worker-rollup",
            "app",
            # It remembers registers (workers/steady/): more than celeryconfig.py allows a worker.
            (*_worker("rollup", "rollup,maintenance", 1), "--max-memory-per-child=2000000"),
            "TERM",
            patience,
        ),
        Program("worker-webhooks", "app", _worker("webhooks", "webhooks", 1), "TERM", patience),
        Program("beat", "app", _celery("beat")),
        Program(
            "flower",
            "app",
            _celery(
                "flower", f"--address={LOOPBACK}", f"--port={flower_port}", "--max_tasks=10000"
            ),
        ),
    )


def _web(port: int) -> tuple[str, ...]:
    options = {
        "--interface": "rsgi",
        "--host": LOOPBACK,
        "--port": str(port),
        "--workers": "2",
        # HTTP/1 has one request at a time on a connection; HTTP/2 has 200, more than threads.
        "--http": "1",
        # This counts connections, idle ones too: a small figure shuts the door on a few browsers.
        "--backpressure": "512",
        "--workers-kill-timeout": "5",
    }
    flags = ("--no-ws", "--respawn-failed-workers", "--factory", "web:create_front")
    pairs = (part for option in options.items() for part in option)
    return (sys.executable, "-m", "granian", *pairs, *flags)


def _worker(name: str, queues: str, processes: int) -> tuple[str, ...]:
    return _celery(
        "worker",
        f"--queues={queues}",
        f"--concurrency={processes}",
        f"--hostname={name}@%h",
        "--loglevel=INFO",
        # Two workers on one machine have nothing to tell each other, and start a second sooner.
        "--without-gossip",
        "--without-mingle",
    )


def _celery(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "celery", "-A", "workers", *arguments)
