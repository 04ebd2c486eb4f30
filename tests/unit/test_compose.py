"""docker-compose.yml against the code: names, ports, secrets, commands, limits.

No Docker engine is needed: what the files say is compared with what the programs accept.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from celery.app import app_or_default
from celery.bin.base import CLIContext
from celery.bin.beat import beat
from celery.bin.worker import worker
from flower.options import options as flower
from granian.cli import cli as granian

import celeryconfig
from stack import env
from web import bridge

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ENGINE = [name for name, service in SERVICES.items() if "energy" in service["image"]]
EXAMPLE = (ROOT / ".env.example").read_text()
SECRETS = env.secret_names(EXAMPLE)
#: Also those behind a "#": settings that have a default.
DOCUMENTED = {*env.assignments(EXAMPLE), *re.findall(r"^#([A-Z_]+)=", EXAMPLE, re.M)}


def command(name: str) -> list[str]:
    given = SERVICES[name]["command"]
    return shlex.split(given) if isinstance(given, str) else given


def options(name: str) -> dict[str, Any]:
    """The command of a Celery or granian service as its own parser understands it."""
    program, *args = command(name)
    if program == "granian":
        return dict(granian.make_context(program, args).params)
    assert (program, args[:2]) == ("celery", ["-A", "workers"])
    parser = {"worker": worker, "beat": beat}[args[2]]
    context = CLIContext(app=app_or_default(), no_color=True, workdir=None)
    return dict(parser.make_context(args[2], args[3:], obj=context).params)


def test_the_services_of_the_design_are_there() -> None:
    assert set(SERVICES) == {
        *("postgres", "pgadmin", "redis-stream", "redis-broker", "migrate"),
        *("web", "worker", "worker-rollup", "worker-webhooks", "beat", "flower"),
    }


def test_published_ports_are_the_agreed_ones_and_on_loopback_only() -> None:
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert {name: ports for name, ports in published.items() if ports} == {
        "postgres": ["127.0.0.1:5432:5432"],
        "pgadmin": ["127.0.0.1:8080:5050"],
        "web": ["127.0.0.1:3000:3000"],
        "flower": ["127.0.0.1:5555:5555"],
    }
    assert not any("network_mode" in service for service in SERVICES.values())


def test_every_variable_is_documented_and_every_secret_required() -> None:
    used = re.findall(r"\$\{(\w+)([^}]*)\}", TEXT)
    assert {name for name, _ in used} <= DOCUMENTED
    assert set(SECRETS) == {name for name, rest in used if rest.startswith(":?")}
    assert not [name for name, rest in used if name in SECRETS and not rest.startswith(":?")]
    assert len(used) == len(re.findall(r"(?<!\$)\$", TEXT)), "a $ that is no ${VARIABLE}"


def test_no_password_is_written_down() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|AUTH|SECRET|TOKEN", name):
                assert re.fullmatch(r"(operator:)?\$\{\w+:\?[^}]+\}", value), name
            if name.endswith("_URL"):
                assert re.search(r":\$\{\w+:\?[^}]+\}@", value), name


def test_every_setting_of_the_program_can_be_set_in_dotenv() -> None:
    known = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', (ROOT / "settings.py").read_text()))
    assert len(known) > 5
    for name in ENGINE:
        passed = SERVICES[name]["environment"]
        assert known <= set(passed), name
        silent = {key for key, value in passed.items() if value is None}
        assert silent <= DOCUMENTED


def test_each_service_is_confined() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert str(service["user"]).split(":")[0] not in {"", "0", "root"}, name
        assert service["init"] is True, name
        assert service["mem_limit"], name
        assert service["logging"]["options"]["max-size"], name
        assert not service.get("privileged"), name
        restart = "no" if name == "migrate" else "unless-stopped"
        assert service["restart"] == restart, name


def test_each_service_says_how_it_is_or_why_it_need_not() -> None:
    for name, service in SERVICES.items():
        assert ("healthcheck" in service) != bool(service.get("x-no-healthcheck")), name
        assert "stop_grace_period" in service or "x-no-healthcheck" in service, name
        above = TEXT[: TEXT.index(f"\n  {name}:")].rstrip("\n").splitlines()[-1]
        assert above.startswith("  # "), f"{name}: no comment says why it is there"


def test_dependencies_wait_for_something_that_can_happen() -> None:
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            needs = {"service_healthy": "healthcheck"}.get(wait["condition"], "x-no-healthcheck")
            assert needs in SERVICES[other], f"{name} waits for {other}"
            assert set(service["networks"]) & set(SERVICES[other]["networks"])


def test_volumes_and_mounted_files_exist() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            exists = (ROOT / source).exists() if "/" in source else source in COMPOSE["volumes"]
            assert exists, f"{name}: {source}"
    assert "postgres:/var/lib/postgresql" in SERVICES["postgres"]["volumes"]  # 18: not .../data


def test_workers_take_every_queue_once_and_beat_is_alone() -> None:
    workers = ("worker", "worker-rollup", "worker-webhooks")
    taken = [queue for name in workers for queue in options(name)["queues"]]
    assert sorted(taken) == sorted(celeryconfig.QUEUE_NAMES)
    assert options("worker")["queues"] == ["flush"], "nothing else may keep readings waiting"
    assert options("worker")["hostname"].startswith("flush@")
    assert options("worker-webhooks")["queues"] == ["webhooks"], (
        "who waits for strangers waits alone"
    )
    assert options("worker-rollup")["hostname"].startswith("rollup@")
    assert not options("worker")["beat"], "each replica would tick"
    assert options("beat")


def test_flower_knows_its_options_and_asks_for_a_password() -> None:
    program, *given = command("flower")[3:]
    names = {word.removeprefix("--").partition("=")[0].replace("_", "-") for word in given}
    assert program == "flower"
    assert names <= set(flower._options)
    assert "basic_auth" in flower
    assert SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"].startswith("operator:${")


def test_web_starts_what_exists() -> None:
    given = options("web")
    assert (given["app"], given["factory"]) == ("web:create_front", True)
    assert (given["host"], given["port"]) == ("0.0.0.0", 3000)  # noqa: S104 (in its container)
    assert given["respawn_failed_workers"]
    assert SERVICES["web"]["pids_limit"] >= given["workers"] * (bridge.THREADS + 64)
    assert given["backpressure"] == bridge.THREADS
    module, _, factory = given["app"].partition(":")
    assert callable(getattr(importlib.import_module(module), factory))
    assert importlib.import_module("workers").app.main == "workers"  # celery -A workers


def test_migrate_finds_its_configuration() -> None:
    assert command("migrate") == ["alembic", "upgrade", "head"]
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["alembic"]
    assert config["script_location"].endswith("migrations")


def test_one_image_is_built_once_and_every_other_is_pinned() -> None:
    assert [name for name, service in SERVICES.items() if "build" in service] == ["migrate"]
    assert len(ENGINE) == 7
    for image in {service["image"] for service in SERVICES.values()}:
        assert re.search(r":(?!latest)\S+$", image), image


def test_the_two_redis_are_two_and_agree_with_their_urls() -> None:
    environment = SERVICES["web"]["environment"]
    for kind, variable in (("stream", "STREAM_URL"), ("broker", "CELERY_BROKER_URL")):
        url = urlsplit(re.sub(r"\$\{.*?\}", "x", environment[variable]))
        lines = (ROOT / "deploy" / "valkey" / f"{kind}.conf").read_text().splitlines()
        conf = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
        assert url.hostname == f"redis-{kind}"
        assert str(url.port) == conf["port"]
        assert str(url.port) in SERVICES[f"redis-{kind}"]["healthcheck"]["test"]
        assert SERVICES[f"redis-{kind}"]["entrypoint"][-1] == kind
        assert (conf["appendonly"], conf["maxmemory-policy"]) == ("yes", "noeviction")
        assert conf["appendfsync"] == {"stream": "always", "broker": "everysec"}[kind]
        limit = SERVICES[f"redis-{kind}"]["mem_limit"]
        assert int(limit.rstrip("m")) >= 2 * int(conf["maxmemory"].removesuffix("mb"))


def test_pgadmin_knows_the_engines_database() -> None:
    servers = json.loads((ROOT / "deploy" / "pgadmin" / "servers.json").read_text())["Servers"]
    url = urlsplit(re.sub(r"\$\{.*?\}", "x", SERVICES["web"]["environment"]["DATABASE_URL"]))
    known = (servers["1"]["Username"], servers["1"]["Host"], servers["1"]["MaintenanceDB"])
    assert known == (url.username, url.hostname, url.path.strip("/"))


def test_metrics_files_of_two_containers_have_two_names(tmp_path: Path) -> None:
    """Every container has a process 7: by pid alone two of them would write into one file."""
    assert "metrics:/run/metrics" in SERVICES["web"]["volumes"]
    probe = "from workers import metrics; metrics.DOORBELLS_LOST.inc()"
    clean = {"PATH": "/usr/bin:/bin", "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", probe], check=True, cwd=ROOT, env=clean)
    names = [path.name for path in tmp_path.iterdir()]
    assert names
    assert all(socket.gethostname() in name for name in names), names


@pytest.mark.parametrize("tool", [["docker", "compose"], ["docker-compose"]], ids=" ".join)
def test_compose_itself_accepts_the_file(tool: list[str], tmp_path: Path) -> None:
    clean = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    if not shutil.which(tool[0], path=clean["PATH"]):
        pytest.skip(f"{tool[0]} is not installed")
    answer = subprocess.run([*tool, "version"], capture_output=True, env=clean, check=False)
    if answer.returncode:
        pytest.skip(f"{' '.join(tool)} is not installed")
    shutil.copy(ROOT / ".env.example", tmp_path)
    env.main(tmp_path)

    def config(dotenv: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / ".env").write_text(dotenv)
        args = ["-f", str(ROOT / "docker-compose.yml"), "--env-file", str(tmp_path / ".env")]
        return subprocess.run(
            [*tool, *args, "config"], capture_output=True, text=True, env=clean, check=False
        )

    complete = (tmp_path / ".env").read_text()
    accepted = config(complete)
    assert accepted.returncode == 0, accepted.stderr
    assert set(yaml.safe_load(accepted.stdout)["services"]) == set(SERVICES)
    for name in SECRETS:
        refused = config(complete.replace(f"\n{name}=", f"\nNOT_{name}="))
        assert refused.returncode != 0, name
        assert "make env" in refused.stderr
