"""What one start consists of: the programs, and the environment that tells them of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack import postgres, valkey
from stack.home import Home
from stack.ports import remembered
from stack.programs import (
    Program,
    app_programs,
    broker_program,
    postgres_program,
    stream_program,
)

#: Flower's account, unless FLOWER_BASIC_AUTH names another.
FLOWER_USER = "energy"


@dataclass(frozen=True, slots=True)
class Plan:
    """Programs to supervise, and the environment for them and for the product's commands."""

    programs: tuple[Program, ...]
    environment: Mapping[str, str]
    supervisor_port: int

    def starts(self, name: str) -> bool:
        """Whether the program `name` is ours to start; a server that was given is not."""
        return any(program.name == name for program in self.programs)


def make(home: Home, api_port: int, flower_port: int, given: Mapping[str, str]) -> Plan:
    """Decide on ports, prepare the database's cluster, write the data servers' configurations.

    `given` is the environment. A server whose URL it holds is used and not started.
    """
    ports = remembered(home.ports, ("postgres", "stream", "broker", "supervisor"))
    programs: list[Program] = []
    urls: dict[str, str] = {}
    if not given.get("DATABASE_URL"):
        password = home.secret("postgres")
        postgres.initialise(home.postgres, password)
        programs.append(postgres_program(home, ports["postgres"]))
        urls["DATABASE_URL"] = postgres.url(ports["postgres"], password)
    if not given.get("STREAM_URL"):
        programs.append(stream_program(home, ports["stream"]))
        urls["STREAM_URL"] = valkey.url(ports["stream"], home.secret("stream"))
    if not given.get("CELERY_BROKER_URL"):
        programs.append(broker_program(home, ports["broker"]))
        urls["CELERY_BROKER_URL"] = valkey.url(ports["broker"], home.secret("broker"))
    programs += app_programs(api_port, flower_port)
    return Plan(tuple(programs), _environment(home, given) | urls, ports["supervisor"])


def _environment(home: Home, given: Mapping[str, str]) -> dict[str, str]:
    defaults = {
        "LOG_FORMAT": "console",
        # Not on the command line: there every user of the machine could read it.
        "FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{home.secret('flower')}",
        "PYTHONUNBUFFERED": "1",  # what a process says last must be in its log when it is killed
    }
    return defaults | dict(given) | {"PROMETHEUS_MULTIPROC_DIR": str(Path(home.metrics))}
