"""`flask --app web keys create|list|rotate|revoke`: who may send and read.

Each change is a line in the log: what was done to which key, by which user of the machine.
"""

from __future__ import annotations

import getpass
import os
from datetime import UTC, datetime, timedelta

import click
import structlog
from flask import Flask
from flask.cli import AppGroup

from models import access
from models.clock import rfc3339
from models.engine import transaction
from web.auth import SCOPES

log = structlog.get_logger(__name__)

keys = AppGroup("keys", help="API keys: each speaks for one fleet.")


@keys.command("create")
@click.option("--fleet", required=True, help="The fleet; made when it does not exist.")
@click.option("--name", required=True, help="What the key is for, to recognise it in the list.")
@click.option("--scopes", default="ingest,read", show_default=True, help="Of ingest,read,admin.")
@click.option("--days", type=click.IntRange(1, 36500), help="Expires after so many; default never.")
@click.option("--quiet", is_flag=True, help="Print the key and nothing else.")
def create(fleet: str, name: str, scopes: str, days: int | None, quiet: bool) -> None:
    """Make a key and show it: this once, only its hash is stored."""
    wanted = [scope.strip() for scope in scopes.split(",")]
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown:
        message = f"{unknown[0]!r} is none of {', '.join(SCOPES)}"
        raise click.BadParameter(message, param_hint="--scopes")
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    with transaction() as conn:
        key = access.create_key(conn, fleet=fleet, name=name, scopes=wanted, expires_at=expires_at)
    _audit("key created", key.split("_")[1], fleet=fleet, scopes=wanted, days=days)
    _show(key, quiet=quiet)


@keys.command("list")
def list_() -> None:
    """All keys, without their secrets."""
    with transaction() as conn:
        records = access.list_keys(conn)
    row = "{:<10} {:<16} {:<20} {:<18} {:<21} {}"
    click.echo(row.format("ID", "FLEET", "NAME", "SCOPES", "CREATED", "STATE"))
    for key in records:
        scopes, created = ",".join(sorted(key.scopes)), rfc3339(key.created_at)[:19] + "Z"
        click.echo(row.format(key.key_id, key.fleet, key.name, scopes, created, _state(key)))


@keys.command("rotate")
@click.argument("key_id")
@click.option(
    "--overlap-hours",
    type=click.IntRange(0, 8760),
    default=24,
    show_default=True,
    help="How long the old key is still valid.",
)
@click.option("--days", type=click.IntRange(1, 36500), help="The new key expires after so many.")
@click.option("--quiet", is_flag=True, help="Print the key and nothing else.")
def rotate(key_id: str, overlap_hours: int, days: int | None, quiet: bool) -> None:
    """Make a new key of the same fleet, name and scopes; the old one expires a while later."""
    now = datetime.now(UTC)
    old_until = now + timedelta(hours=overlap_hours)
    expires_at = now + timedelta(days=days) if days else None
    with transaction() as conn:
        key = access.rotate_key(conn, key_id, old_until=old_until, expires_at=expires_at)
    if key is None:
        raise click.ClickException(f"There is no valid key {key_id} that could be rotated.")
    _audit("key rotated", key_id, replaced_by=key.split("_")[1], old_until=rfc3339(old_until))
    _show(key, quiet=quiet)


@keys.command("revoke")
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Refuse a key from now on (running processes follow within 30 s)."""
    with transaction() as conn:
        if not access.revoke_key(conn, key_id):
            raise click.ClickException(f"There is no key {key_id} that could be revoked.")
    _audit("key revoked", key_id)
    click.echo(f"Revoked {key_id}.")


def _show(key: str, *, quiet: bool) -> None:
    if not quiet:
        click.echo("The key, shown this once:", err=True)
    click.echo(key)


def _audit(action: str, key_id: str, **details: object) -> None:
    log.info(action, audit=True, key=key_id, by=_operator(), **details)


def _operator() -> str:
    """Who runs the command; in a container the number may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _state(key: access.KeyRecord) -> str:
    if key.revoked_at is not None:
        return f"revoked {rfc3339(key.revoked_at)[:19]}Z"
    if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        return f"expired {rfc3339(key.expires_at)[:19]}Z"
    if key.expires_at is not None:
        return f"expires {rfc3339(key.expires_at)[:19]}Z"
    return "valid"


def register(app: Flask) -> None:
    """Hang the commands under `flask --app web`."""
    app.cli.add_command(keys)
