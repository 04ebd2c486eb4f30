"""`python -m seed`: sample fleets and real registers, sent through the public API."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from seed import api, faults, replay, report
from seed.fleet import Fleet
from seed.options import (
    POSITIVE,
    Choice,
    Moment,
    Route,
    fleet_options,
    option,
    route_options,
)
from seed.send import Sender

#: Live readings are sent this often, seconds.
LIVE_TICK_S = 1.0
#: Figures closer than half of a register's last digit are the same, kWh.
SAME_KWH = 0.0005


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Send sample readings to a running Energy Ingestion Engine."""


@main.command("fleet")
@option("--hours", type=POSITIVE, default=24, help="Length of the window.")
@option("--end", type=Moment(), help="End of the window, RFC 3339; now if not given.")
@option(
    "--fault-hours",
    type=POSITIVE,
    help="degraded and standby begin so many hours before the end; else they are there for ever.",
)
@option("--dry-run", is_flag=True, help="Generate only, and say how fast.")
@fleet_options
@route_options
def fleet_command(
    *,
    hours: float,
    end: datetime | None,
    fault_hours: float | None,
    dry_run: bool,
    choice: Choice,
    route: Route,
) -> None:
    """Send HOURS of a fleet's telemetry, with planted faults."""
    end = end or now()
    fleet = choice.fleet(end - timedelta(hours=hours), end, fault_hours)
    if dry_run:
        return generate_only(fleet)
    target, began = route.target(), time.monotonic()
    with report.progress() as bar:
        task = bar.add_task(f"{choice.vehicles} pairs", total=fleet.plan.readings)
        with route.sender(target, lambda readings: bar.advance(task, readings)) as sender:
            for meters, vehicles in fleet.readings():
                sender.put("meter", meters)
                sender.put("vehicle", vehicles)
        # Faults drop readings and add some: only now the true number is known.
        bar.update(task, total=sender.tally.sent)
    report.summary(sender.tally, time.monotonic() - began)
    report.planted(fleet, sender.tally)
    if sender.tally.rejected.total() != fleet.plan.mix.get(faults.INVALID, 0):
        raise api.RefusedError("refused and planted readings differ in number")
    return None


def generate_only(fleet: Fleet) -> None:
    """How fast this machine makes readings, without sending them."""
    began = time.monotonic()
    count = sum(len(meters) + len(vehicles) for meters, vehicles in fleet.readings())
    seconds = time.monotonic() - began
    report.console.print(f"{count:,} readings in {seconds:.2f} s: {count / seconds:,.0f} a second")
    report.planted(fleet)


@main.command("live")
@option("--hours", type=click.FloatRange(0), default=0, help="Begin so many hours ago.")
@option("--speed", type=POSITIVE, default=1, help="How fast time runs until the present.")
@fleet_options
@route_options
def live_command(hours: float, speed: float, choice: Choice, route: Route) -> None:
    """Keep sending a fleet's current readings until Ctrl-C."""
    start = now() - timedelta(hours=hours)
    # Faults that happen at a moment happen within the first day.
    fleet = choice.fleet(start, start + timedelta(days=1))
    sender, began = route.sender(route.target()), time.monotonic()
    report.planted(fleet)
    try:
        with sender, report.console.status("") as status:
            send_live(fleet, sender, speed, status.update)
    except KeyboardInterrupt:
        report.summary(sender.tally, time.monotonic() - began)


def send_live(fleet: Fleet, sender: Sender, speed: float, show: Callable[[str], None]) -> None:
    """Sends what is read as time passes; never ahead of the clock, the API refuses the future."""
    reached, began = fleet.window.begin, time.monotonic()
    while True:
        passed = int(speed * (time.monotonic() - began))
        goal = min(fleet.seconds(now()), fleet.window.begin + passed)
        for meters, vehicles in fleet.between(reached, goal):
            sender.put("meter", meters)
            sender.put("vehicle", vehicles)
        sender.flush()
        reached = goal
        tally, moment = sender.tally, fleet.epoch + timedelta(seconds=goal)
        refused = tally.rejected.total()
        show(f"{moment:%F %T} UTC: {tally.accepted:,} accepted, {refused:,} refused; Ctrl-C stops")
        time.sleep(LIVE_TICK_S)


@main.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@option("--meter-id", required=True, help="Whose register it becomes.")
@option("--column", required=True, help="Column with the register, kWh.")
@option("--time-column", required=True, help="Column with RFC 3339 times.")
@option("--skip-marked", metavar="COLUMN", help="Leave out rows with 1 in this column.")
@option(
    "--day", type=click.DateTime(["%Y-%m-%d"]), help="Then compare this UTC day's energy with it."
)
@option("--patience", type=POSITIVE, default=120, help="Longest wait for that, seconds.")
@route_options
def replay_command(
    *,
    file: Path,
    meter_id: str,
    column: str,
    time_column: str,
    skip_marked: str | None,
    day: datetime | None,
    patience: float,
    route: Route,
) -> None:
    """Send the register in FILE, a CSV table, as a meter's readings.

    Rows without a value are gaps: they are counted and not sent. Such files hold no voltage, so
    each reading says the nominal 230 V.
    """
    register = replay.read(file, column, time_column, skip_marked)
    target, began = route.target(), time.monotonic()
    with route.sender(target) as sender:
        sender.put("meter", list(register.lines(meter_id)))
    report.register(register)
    report.summary(sender.tally, time.monotonic() - began)
    if day:
        compare_day(register, target, meter_id, day.date(), patience)


def compare_day(
    register: replay.Register, target: api.Target, meter_id: str, day: date, patience_s: float
) -> None:
    """Shows the API's energy of a UTC day beside the file's. Raises MismatchError."""
    kwh, readings = register.energy_on(day), register.readings_on(day)

    def same(said: dict[str, Any]) -> bool:
        api_kwh = said.get("energyKwh")
        return kwh is not None and api_kwh is not None and abs(api_kwh - float(kwh)) < SAME_KWH

    def settled(said: dict[str, Any]) -> bool:
        return same(said) if kwh is not None else said.get("samples", 0) >= readings

    with report.console.status("waiting for the API's energy"):
        said = replay.wait_for_energy(target, meter_id, day, settled, patience_s)
    report.energies(meter_id, day, kwh, said)
    if kwh is not None and not same(said):
        raise replay.MismatchError(f"the API's energy of {day} is not the file's")


@main.command("faults")
def faults_command() -> None:
    """List the faults that can be planted."""
    report.known_faults()


def now() -> datetime:
    """Whole seconds, UTC."""
    return datetime.now(UTC).replace(microsecond=0)


if __name__ == "__main__":
    main(prog_name="python -m seed")
