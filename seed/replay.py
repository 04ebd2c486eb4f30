"""A real meter's register from a CSV file, sent as it is.

Cells without a value are gaps: they are counted and nothing is sent for them, as a meter that is
offline sends nothing. A column that marks values as interpolated is ignored unless asked for: in
the file this was made for, opsd_ev_meter_60min.csv (Open Power System Data, household data,
CC-BY-4.0; 11,867 rows, 405 of them empty), the known figures of the whole register (11,462
readings, 1,345.340 kWh) count the 370 marked values too.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from seed.api import Connection, SeedError, Target

#: Such files know energy only; the API wants a voltage, so the nominal one is sent, volts.
NOMINAL_V = 230
#: A cell with this value in the marking column is marked.
MARK = "1"
#: How often the energy endpoint is asked, seconds.
POLL_S = 1.0


class BadFileError(SeedError):
    """The CSV file can't be read as a register."""


class NoEnergyError(SeedError):
    """The API did not report the day's energy in time."""


class MismatchError(SeedError):
    """API and file don't agree."""


@dataclass(frozen=True, slots=True)
class Register:
    """What a file holds: register values in kWh by time, and what was left out."""

    values: dict[datetime, Decimal]
    rows: int
    empty: int
    skipped: int

    def lines(self, meter_id: str) -> Iterator[str]:
        """The readings as JSON texts, values digit by digit as in the file."""
        for moment, kwh in self.values.items():
            yield (
                f'{{"meterId":{json.dumps(meter_id)},"kwhConsumedAc":{kwh:f},"voltage":{NOMINAL_V},'
                f'"timestamp":"{rfc3339(moment)}"}}'
            )

    def energy_on(self, day: date) -> Decimal | None:
        """Energy of a UTC day in kWh, straight from the file.

        None if the file has no reading at one of the two midnights (then nobody can know), or
        if the register goes backwards between them.
        """
        begin, end = utc_day(day)
        span = [kwh for moment, kwh in sorted(self.values.items()) if begin <= moment <= end]
        if begin not in self.values or end not in self.values or span != sorted(span):
            return None
        return self.values[end] - self.values[begin]

    def readings_on(self, day: date) -> int:
        """Readings of a UTC day, [midnight, midnight)."""
        begin, end = utc_day(day)
        return sum(begin <= moment < end for moment in self.values)


def read(path: Path, column: str, time_column: str, mark_column: str | None = None) -> Register:
    """Reads a register; rows marked in `mark_column` are left out. Raises BadFileError."""
    values: dict[datetime, Decimal] = {}
    rows = empty = skipped = 0
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        for name in filter(None, (column, time_column, mark_column)):
            if name not in (table.fieldnames or ()):
                raise BadFileError(f"{path} has no column {name!r}; it has {table.fieldnames}")
        for row in table:
            rows += 1
            if not (row[column] or "").strip():
                empty += 1
            elif mark_column and row[mark_column] == MARK:
                skipped += 1
            else:
                try:
                    values[_moment(row[time_column])] = _kwh(row[column])
                except (ValueError, InvalidOperation) as error:
                    raise BadFileError(f"{path}, line {table.line_num}: {error}") from error
    return Register(values, rows, empty, skipped)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no offset from UTC")
    return moment.astimezone(UTC)


def _kwh(text: str) -> Decimal:
    kwh = Decimal(text)
    if not kwh.is_finite():
        raise ValueError(f"{text!r} is no energy")
    return kwh


def utc_day(day: date) -> tuple[datetime, datetime]:
    """A day's two midnights, UTC."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return begin, begin + timedelta(days=1)


def rfc3339(moment: datetime) -> str:
    """As the API writes times."""
    return f"{moment.astimezone(UTC).isoformat().removesuffix('+00:00')}Z"


def wait_for_energy(
    target: Target,
    meter_id: str,
    day: date,
    settled: Callable[[dict[str, Any]], bool],
    patience_s: float,
) -> dict[str, Any]:
    """The API's answer about a meter's energy on a UTC day, once it is `settled`.

    Readings are on their way for some seconds after they were accepted. At the end of `patience_s`
    the answer is returned as it is then. Raises NoEnergyError if there is none.
    """
    begin, end = utc_day(day)
    query = urlencode({"from": rfc3339(begin), "to": rfc3339(end)})
    path = f"/v1/meters/{quote(meter_id, safe='')}/energy?{query}"
    deadline = time.monotonic() + patience_s
    with closing(Connection(target)) as connection:
        while True:
            answer = connection.request("GET", path)
            said = answer.json() if answer and answer.status == HTTPStatus.OK else {}
            in_time = time.monotonic() < deadline
            if said and (settled(said) or not in_time):
                return said
            if not in_time:
                told = answer.problem() if answer else "connection lost"
                raise NoEnergyError(f"no energy after {patience_s:.0f} s: {told}")
            time.sleep(POLL_S)
