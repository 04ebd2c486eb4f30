"""What `make run` shows, on one screen, and what `make status` shows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from stack.launcher import Stack


def show(console: Console, stack: Stack, seconds: float) -> None:
    """Addresses, accounts, lines to paste, what to do next."""
    console.print(
        f"\n[bold]Energy Ingestion Engine[/bold]  [green]ready in {seconds:.1f} s[/green]\n"
    )
    for label, value in _addresses(stack).items():
        _print_unfolded(console, f"  {label:<15} {value}")
    for title, line in _lines_to_paste(stack).items():
        console.print(f"\n[bold]{title}[/bold]")
        _print_unfolded(console, line)
    console.print(
        "\n[bold]make seed[/bold] sends a day of sample data.  "
        "[bold]Ctrl-C[/bold] stops everything.\n"
    )


def _print_unfolded(console: Console, text: str) -> None:
    """Whatever the terminal's width: a folded line cannot be pasted."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _addresses(stack: Stack) -> Mapping[str, str]:
    api = local(stack.api_url)
    user, _, password = stack.environment["FLOWER_BASIC_AUTH"].partition(":")
    return {
        "API": api,
        "Documentation": f"{api}/docs",
        "Flower": f"{local(stack.flower_url)}  (user {user}, password {password})",
        "API key": stack.api_key,
        "The same key": f"in {stack.home.credentials}",
        "Logs": f"in {stack.home.logs}",
    }


def _lines_to_paste(stack: Stack) -> Mapping[str, str]:
    api, bearer = local(stack.api_url), f"-H 'Authorization: Bearer {stack.api_key}'"
    reading = {
        "meterId": "meter-001",
        "kwhConsumedAc": 100.5,
        "voltage": 230,
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {
        "Send a meter reading": (
            f"curl {bearer} -H 'Content-Type: application/json' \\\n"
            f"  -d '{json.dumps(reading, separators=(',', ':'))}' {api}/ingestion/meter"
        ),
        "Ask how much of the energy reached the battery (after make seed)": (
            f"curl {bearer} \\\n  {api}/v1/analytics/performance/vehicle-001"
        ),
    }


def local(url: str) -> str:
    """The same address by the name that people use."""
    return f"http://localhost:{urlsplit(url).port}"


def process_table(processes: Iterable[Mapping[str, Any]]) -> Table:
    """One line for each program: its state, process and age."""
    table = Table("process", "state", "pid", "", box=None)
    for process in processes:
        state = process["statename"]
        colour = "green" if state == "RUNNING" else "red"
        table.add_row(
            process["name"],
            f"[{colour}]{state.lower()}[/{colour}]",
            str(process["pid"] or ""),
            process["description"].split(", ")[-1],  # "uptime 0:01:02", or why it does not run
        )
    return table
