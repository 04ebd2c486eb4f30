"""The configuration that is written for supervisor."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest

from celeryconfig import QUEUE_NAMES
from stack import programs, supervisor_config
from stack.errors import StackError
from stack.home import Home
from stack.programs import Program


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A prepared home whose path has a blank."""
    home = Home.at(tmp_path / "my home")
    home.prepare()
    return home


def parsed(home: Home, *chosen: Program) -> configparser.RawConfigParser:
    """The written file, read as supervisor reads it."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))
    parser.read(supervisor_config.write(home, chosen, 4711))
    return parser


@pytest.fixture
def config(home: Home) -> configparser.RawConfigParser:
    """Of the whole product."""
    return parsed(
        home,
        programs.postgres_program(home, 5432),
        programs.stream_program(home, 6379),
        programs.broker_program(home, 6380),
        *programs.app_programs(3000, 5555),
    )


def test_the_application_stops_first_and_the_database_last(
    config: configparser.RawConfigParser,
) -> None:
    priority = {name: int(config[f"group:{name}"]["priority"]) for name in programs.GROUPS}
    # Supervisor stops the group with the highest priority first.
    assert sorted(priority, key=lambda name: -priority[name]) == ["app", "valkey", "postgres"]


def test_only_the_data_servers_start_by_themselves(config: configparser.RawConfigParser) -> None:
    started = {
        section.removeprefix("program:")
        for section in config.sections()
        if config[section].get("autostart") == "true"
    }
    assert started == {"postgres", "stream", "broker"}


def test_signals_are_what_each_server_understands(config: configparser.RawConfigParser) -> None:
    assert config["program:postgres"]["stopsignal"] == "INT"
    worker = config["program:worker-flush"]
    # Celery's parent alone must be told, once; a second TERM would be an order to drop everything.
    assert (worker["stopsignal"], worker["stopasgroup"], worker["killasgroup"]) == (
        "TERM",
        "false",
        "true",
    )


def test_every_process_is_restarted_and_has_a_rotated_log(
    config: configparser.RawConfigParser, home: Home
) -> None:
    for section in (name for name in config.sections() if name.startswith("program:")):
        settings = config[section]
        assert settings["autorestart"] == "true"
        assert settings["stdout_logfile"] == str(home.logs / f"{section[8:]}.log")
        assert int(settings["stdout_logfile_backups"]) > 0


def test_commands_survive_the_format(config: configparser.RawConfigParser, home: Home) -> None:
    words = shlex.split(config["program:worker-flush"]["command"].replace("%%", "%"))
    assert "--hostname=flush@%h" in words
    words = shlex.split(config["program:stream"]["command"])
    assert str(home.stream / "valkey.conf") in words  # in spite of the blank


def test_no_secret_is_on_a_command_line(config: configparser.RawConfigParser, home: Home) -> None:
    secrets = [home.secret(name) for name in ("postgres", "stream", "broker", "flower")]
    commands = [config[name].get("command", "") for name in config.sections()]
    assert not [word for word in secrets if any(word in command for command in commands)]


def test_the_file_is_private(config: configparser.RawConfigParser, home: Home) -> None:
    assert home.supervisor_config.stat().st_mode & 0o077 == 0
    assert config["inet_http_server"]["password"] == home.secret("supervisor")
    assert config["inet_http_server"]["port"] == "127.0.0.1:4711"


@pytest.mark.parametrize("name", ["a #1", "a ;b", "100%"])
def test_a_path_that_the_format_cannot_hold_is_named(tmp_path: Path, name: str) -> None:
    home = Home.at(tmp_path / name)
    home.prepare()
    with pytest.raises(StackError, match="Move the checkout"):
        parsed(home, Program("web", "app", ("true",)))


def test_every_queue_of_the_configuration_has_a_worker() -> None:
    commands = [program.command for program in programs.app_programs(3000, 5555)]
    consumed = {
        queue
        for command in commands
        for word in command
        if word.startswith("--queues=")
        for queue in word.removeprefix("--queues=").split(",")
    }
    assert consumed == set(QUEUE_NAMES)
