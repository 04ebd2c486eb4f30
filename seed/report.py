"""What the terminal shows: progress while sending, and tables afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from seed.faults import DEFAULT_MIX, FAULTS, INVALID
from seed.fleet import Fleet
from seed.replay import Register
from seed.send import Tally

console = Console()


class RateColumn(ProgressColumn):
    """Readings per second."""

    def render(self, task: Task) -> Text:
        """The mean rate since the start."""
        return Text(f"{task.completed / task.elapsed:,.0f} readings/s" if task.elapsed else "")


def progress() -> Progress:
    """A progress bar that counts readings."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


def summary(tally: Tally, seconds: float) -> None:
    """What became of the readings."""
    table = Table("readings", "", title="Summary", title_justify="left")
    table.columns[1].justify = "right"
    table.add_row("sent", f"{tally.sent:,}")
    table.add_row("accepted", f"{tally.accepted:,}")
    for code, count in sorted(tally.rejected.items()):
        table.add_row(f"rejected: {code}", f"{count:,}")
    for reason, count in sorted(tally.retries.items()):
        table.add_row(f"batches sent again: {reason}", f"{count:,}")
    table.add_row("seconds", f"{seconds:,.1f}")
    table.add_row("readings/s", f"{tally.sent / seconds:,.0f}")
    console.print(table)


def planted(fleet: Fleet, tally: Tally | None = None) -> None:
    """Which pair has which fault, and where to look for it."""
    if fleet.faults:
        title = "Planted faults"
        table = Table("vehicle", "fault", "what it does", "look for", title=title)
        table.title_justify = "left"
        for number, name in sorted(fleet.faults.items()):
            fault = FAULTS[name]
            table.add_row(f"vehicle-{number:03d}", name, fault.does, fault.look_for)
        console.print(table)
    if tally and INVALID in fleet.plan.mix:
        refused = tally.rejected.total()
        console.print(
            f"Planted {fleet.plan.mix[INVALID]} invalid readings; {refused} were refused."
        )


def known_faults() -> None:
    """All faults, for reading."""
    table = Table("fault", "what it does", "look for")
    for name, fault in FAULTS.items():
        table.add_row(name, fault.does, fault.look_for)
    table.add_row(INVALID, "so many single readings that break a rule", "refused, by code")
    console.print(table)
    console.print(f"default: {DEFAULT_MIX}", highlight=False)


def register(read: Register) -> None:
    """What a file held."""
    console.print(
        f"{read.rows:,} rows: {len(read.values):,} readings, {read.empty:,} without a value, "
        f"{read.skipped:,} skipped as marked",
        highlight=False,
    )


def energies(meter_id: str, day: date, kwh: Decimal | None, said: Mapping[str, Any]) -> None:
    """A day's energy as the API reports it, beside the file's."""
    table = Table("energy", "kWh", title=f"{meter_id} on {day} UTC", title_justify="left")
    table.add_row("file", "unknown: no reading at midnight" if kwh is None else f"{kwh}")
    known = said.get("energyKwh")
    table.add_row("API", "unknown" if known is None else f"{known}")
    table.add_row("API: samples", str(said.get("samples")))
    table.add_row("API: events", str(sum(said.get("events", {}).values())))
    console.print(table)
