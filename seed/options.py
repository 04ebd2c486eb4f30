"""The options that commands share, each group arriving in the command as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import wraps
from typing import Any

import click

from seed import api, faults
from seed.fleet import Fleet, Plan
from seed.send import Sender

#: The API takes no more readings in one request.
MOST_READINGS = 5000

URL_HELP = f"Where the API is; else $API_URL, else from {api.CREDENTIALS}."
KEY_HELP = f"With which key; else $API_KEY, else from {api.CREDENTIALS}."
AT_LEAST_1 = click.IntRange(1)
POSITIVE = click.FloatRange(0, min_open=True)


class Moment(click.ParamType[datetime]):
    """A time, RFC 3339 with offset."""

    name = "RFC 3339 time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Whole seconds, UTC."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no offset: write 2026-01-10T10:00:00Z", param, ctx)
        return moment.astimezone(UTC).replace(microsecond=0)


def option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """A click option that shows its default."""
    return click.option(*names, **{"show_default": True} | settings)


def grouped(
    name: str, kind: type, *options: Callable[[Any], Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options that reach the command as one argument `name`, a dataclass of the given kind."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def wrapped(**given: Any) -> None:
            value = kind(**{one.name: given.pop(one.name) for one in fields(kind)})
            command(**given, **{name: value})

        decorated: Callable[..., None] = wrapped
        for each in reversed(options):
            decorated = each(decorated)
        return decorated

    return decorate


@dataclass(frozen=True, slots=True)
class Route:
    """How readings reach the API."""

    batch: int
    connections: int
    compress: bool
    api_url: str | None
    api_key: str | None

    def target(self) -> api.Target:
        """The API, which answers. Raises NoTargetError, UnreachableError."""
        target = api.resolve(self.api_url, self.api_key)
        api.check_reachable(target)
        return target

    def sender(
        self, target: api.Target, on_delivered: Callable[[int], None] = lambda _readings: None
    ) -> Sender:
        """A sender over this route."""
        return Sender(
            target,
            connections=self.connections,
            batch=self.batch,
            compress=self.compress,
            on_delivered=on_delivered,
        )


route_options = grouped(
    "route",
    Route,
    option(
        "--batch", type=click.IntRange(1, MOST_READINGS), default=500, help="Readings in a request."
    ),
    option("--connections", type=click.IntRange(1, 64), default=4, help="Requests at one time."),
    option("--gzip", "compress", is_flag=True, help="Compress request bodies."),
    option("--api-url", envvar="API_URL", help=URL_HELP),
    option("--api-key", envvar="API_KEY", help=KEY_HELP),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which fleet."""

    vehicles: int
    first: int
    interval: int
    mix: str
    seed: int

    def fleet(self, start: datetime, end: datetime, fault_hours: float | None = None) -> Fleet:
        """The fleet in a window. Raises click.BadParameter for an impossible fault mix."""
        try:
            mix = faults.parse_mix(self.mix, self.vehicles)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--faults") from error
        return Fleet(
            Plan(
                vehicles=self.vehicles,
                start=start,
                end=end,
                interval_s=self.interval,
                seed=self.seed,
                first=self.first,
                mix=mix,
                fault_hours=fault_hours,
            )
        )


fleet_options = grouped(
    "choice",
    Choice,
    option("--vehicles", type=AT_LEAST_1, default=20, help="Pairs of meter and vehicle."),
    option("--first", type=click.IntRange(0), default=1, help="Number of the first pair."),
    option("--interval", type=AT_LEAST_1, default=60, help="Seconds between readings of a device."),
    option(
        "--faults",
        "mix",
        default="default",
        help="none, default, or FAULT=PAIRS,... as in degraded=2,reset=1 (see `faults`).",
    ),
    option("--seed", type=int, default=1, help="The same seed gives the same readings."),
)
