"""`flask --app web deadletters ...` and `stream ...`: an operator looks after what got stuck."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from flask import Flask
from flask.cli import AppGroup
from sqlalchemy import Row

import settings
from models import deadletters
from models.clock import rfc3339
from models.conservation import DISCARDED, REPLAYED, Differences
from models.engine import transaction
from models.kinds import KINDS, Kind
from models.packed import as_json
from web.body import Shape
from web.door import Lawful, Verdict, judge
from web.refusals import Refused
from workers import conservation, doorbell, stream

#: Letters that one command takes at the most without being asked for more.
PAGE = 1000
#: Characters of a letter's bytes that a list shows.
SHOWN_BYTES = 60

letters = AppGroup("deadletters", help="Readings that could not be stored.")
streams = AppGroup("stream", help="What waits, and what got stuck.")

_kind = click.option("--kind", type=click.Choice(list(KINDS)), help="Only of this kind.")
_code = click.option("--code", help="Only with this reason, e.g. UNKNOWN_FLEET.")
_all = click.option("--all", "everything", is_flag=True, help="All that match, not some ids.")
_ids = click.argument("ids", type=int, nargs=-1)


class _StillUnlawful(Exception):
    """A letter that the door would refuse today as well; the message says with which code."""


@letters.command("list")
@_kind
@_code
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True)
def list_(kind: str | None, code: str | None, limit: int) -> None:
    """Dead letters, oldest first."""
    with transaction() as conn:
        found = deadletters.find(conn, kind=kind, code=code, limit=limit + 1)
    row = "{:>8} {:<8} {:>6} {:<14} {:<21} {}"
    click.echo(row.format("ID", "KIND", "FLEET", "REASON", "SINCE", "DETAIL | BYTES"))
    for one in found[:limit]:
        since = rfc3339(one.dead_at)[:19] + "Z"
        fleet = "-" if one.fleet_id is None else one.fleet_id
        raw = one.raw[:SHOWN_BYTES].decode(errors="replace")
        told = " ".join(f"{one.detail} | {raw}".split())
        click.echo(row.format(one.id, one.kind, fleet, one.reason, since, told))
    if len(found) > limit:
        click.echo(f"... and more (--limit {limit})", err=True)


@letters.command("replay")
@_ids
@_kind
@_code
@_all
def replay(ids: Sequence[int], kind: str | None, code: str | None, everything: bool) -> None:
    """Send letters through the door again, once what kept them out is mended.

    A letter goes only after the stream has confirmed; one that the door refuses today stays.
    """
    replayed, kept, readings = 0, 0, 0
    for letter in _chosen(ids, kind, code, everything):
        try:
            readings += _replay(letter)
            replayed += 1
        except _StillUnlawful as refusal:
            kept += 1
            click.echo(f"{letter.id}: stays, the door says {refusal}", err=True)
    for touched in KINDS.values() if replayed else ():
        doorbell.ring(touched)
    click.echo(f"Replayed {replayed} letters with {readings} readings; {kept} stay.")
    if kept:
        raise SystemExit(1)


@letters.command("discard")
@_ids
@_kind
@_code
@_all
@click.option("--reason", required=True, help="Why; it is kept with your decision.")
def discard(
    ids: Sequence[int], kind: str | None, code: str | None, everything: bool, reason: str
) -> None:
    """Give letters up for good. What they were is kept in `operator_decisions`, and why."""
    discarded = 0
    if not reason.strip():
        raise click.BadParameter("say why", param_hint="--reason")
    for letter in _chosen(ids, kind, code, everything):
        with transaction() as conn:
            taken = deadletters.take(conn, letter.id, decision=DISCARDED, reason=reason)
        discarded += taken is not None
    click.echo(f"Discarded {discarded} letters.")


def _chosen(
    ids: Sequence[int], kind: str | None, code: str | None, everything: bool
) -> Iterable[Row[Any]]:
    """The letters that a command is about, read page by page."""
    if bool(ids) == everything:
        raise click.UsageError("Name ids, or say --all.")
    after = 0
    while True:
        with transaction() as conn:
            page = deadletters.find(
                conn, kind=kind, code=code, ids=ids or None, after=after, limit=PAGE
            )
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].id


def _replay(letter: Row[Any]) -> int:
    """One letter back on the stream; how many readings. Raises _StillUnlawful."""
    kind = KINDS[letter.kind]
    fleet_id, raw = stream.reread(letter.raw) or (letter.fleet_id, letter.raw)
    if fleet_id is None:
        raise _StillUnlawful("UNKNOWN_FLEET: the entry did not say whose it is")
    verdict = _verdict(kind, _json(kind, raw))
    with transaction() as conn:
        # Taken first, so that of two operators only one sends it; committed only after the stream
        # has confirmed. A death between costs a repetition, which is stored once.
        reason = f"{verdict.accepted} readings back on the stream"
        if deadletters.take(conn, letter.id, decision=REPLAYED, reason=reason) is None:
            return 0
        stream.append(kind, fleet_id, verdict.accepted, verdict.body)
    return verdict.accepted


def _json(kind: Kind, body: bytes) -> bytes:
    """A letter's readings. Raises _StillUnlawful for columns of another release."""
    try:
        return as_json(kind, body)
    except ValueError as error:
        raise _StillUnlawful(f"UNREADABLE: {error}") from error


def _verdict(kind: Kind, raw: bytes) -> Verdict:
    """What the door says to a letter's bytes. Raises _StillUnlawful unless it takes them all."""
    limits = settings.load()
    lawful = Lawful.at(
        datetime.now(UTC),
        age_days=limits.max_reading_age_days,
        future_seconds=limits.max_future_seconds,
        readings=limits.max_batch_readings,
    )
    try:
        verdict = judge(kind, Shape.JSON, raw, lawful)
    except Refused as refused:
        raise _StillUnlawful(f"{refused.code}: {refused.detail}") from refused
    if verdict.rejected:
        raise _StillUnlawful(verdict.rejected[0].code)
    return verdict


@streams.command("audit")
@click.option("--rescue", is_flag=True, help="Give orphaned entries back to the flush.")
def audit(rescue: bool) -> None:
    """Look for entries that no worker will ever see, and for keys that are none of ours."""
    trouble = False
    for kind in KINDS.values():
        found, census = stream.audit(kind), stream.census(kind)
        click.echo(
            f"{kind.name}: {census.added} requests taken, {census.length} there,"
            f" {len(found.orphans)} orphaned"
        )
        for consumer, pending in found.silent.items():
            click.echo(f"  {consumer} holds {pending} and is silent; the next flush adopts them")
        if found.orphans and rescue:
            click.echo(f"  {stream.rescue(kind, found.orphans)} given back to the flush")
            doorbell.ring(kind)
        elif found.orphans:
            trouble = True
            click.echo(f"  first {found.orphans[0]}, last {found.orphans[-1]}; --rescue helps")
        trouble |= bool(found.silent)
    for key in stream.unknown_keys(list(KINDS.values())):
        trouble = True
        click.echo(f"unknown key: {key}")
    if trouble:
        raise SystemExit(1)


@streams.command("show")
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.option("--count", default=1, show_default=True, help="How many entries, the oldest first.")
def show(kind: str, count: int) -> None:
    """Print what waits as JSON, whatever its form; it goes on waiting."""
    for entry in stream.peek(KINDS[kind], count):
        fleet = "?" if entry.fleet_id is None else entry.fleet_id
        click.echo(f"{entry.id}: fleet {fleet}, {entry.count} readings", err=True)
        click.echo(_readable(KINDS[kind], entry))


def _readable(kind: Kind, entry: stream.Entry) -> str:
    """An entry's readings as JSON; all of its bytes when they are not understood."""
    try:
        return repr(entry.raw) if entry.body is None else as_json(kind, entry.body).decode()
    except ValueError:
        return repr(entry.raw or entry.body)


@streams.command("conservation")
def conservation_() -> None:
    """Look now whether everything that was accepted is accounted for."""
    differences = {k: conservation.check(k, datetime.now(UTC)) for k in KINDS.values()}
    for kind, found in differences.items():
        click.echo(f"{kind.name}: {_spelled(found)}")
    if any(differences.values()):
        raise SystemExit(1)


@streams.command("write-off")
@click.option("--kind", type=click.Choice(list(KINDS)), required=True)
@click.option("--reason", required=True, help="What happened; it is kept with your decision.")
def write_off(kind: str, reason: str) -> None:
    """Take today's differences of a kind as known: the alarm ends, an audit line stays."""
    if not reason.strip():
        raise click.BadParameter("say what happened", param_hint="--reason")
    click.echo(f"Written off: {_spelled(conservation.write_off(KINDS[kind], reason))}.")


def _spelled(found: Differences) -> str:
    if not found:
        return "all accounted for"
    return (
        f"requests {found.requests:+d}, forgotten {found.forgotten:+d},"
        f" readings {found.readings:+d}, dead letters {found.dead_letters:+d}"
    )


def register(app: Flask) -> None:
    """Hang the commands under `flask --app web`."""
    app.cli.add_command(letters)
    app.cli.add_command(streams)
