"""What a reading is: the two kinds, their fields, units and lawful ranges, said once.

From these definitions are made: the marshmallow schemas at the door (web/schemas.py), the fast
decoder (models/codec.py), the columns that the flush writes (models/writes.py) and the OpenAPI
document. A new measured value starts here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table

from models.derived import (
    MeterDirtyHour,
    MeterEnergyHourly,
    MeterRegisterEvent,
    VehicleDirtyHour,
    VehicleEnergyHourly,
    VehicleRegisterEvent,
)
from models.registry import Meter, Vehicle
from models.telemetry import MeterHistory, MeterLatest, VehicleHistory, VehicleLatest

#: Device ids: what survives in a URL, a log line, a metric label and a file name unchanged.
DEVICE_ID_PATTERN = r"[A-Za-z0-9._:-]{1,64}"

#: More than any register counts; keeps every sum of counters finite.
MAX_KWH = 1e12


@dataclass(frozen=True, slots=True)
class Measure:
    """One measured value: its public name, its column, its lawful range and its unit."""

    field: str
    column: str
    low: float
    high: float
    unit: str
    description: str


@dataclass(frozen=True, slots=True, eq=False)  # one of each: compared and hashed as such, quickly
class Kind:
    """A kind of reading and the tables its life passes through."""

    name: str
    id_field: str
    #: In the order in which batches wait in the stream (models/packed.py): it must not change.
    measures: tuple[Measure, ...]
    #: The cumulative energy register among the measures.
    counter: Measure
    devices: Table
    history: Table
    latest: Table
    hourly: Table
    dirty: Table
    events: Table

    def __str__(self) -> str:
        return self.name


def _table(model: Any) -> Table:
    table = model.__table__
    assert isinstance(table, Table)  # noqa: S101  (narrows SQLAlchemy's FromClause)
    return table


_KWH_AC = Measure("kwhConsumedAc", "kwh_consumed_ac", 0, MAX_KWH, "kWh", "AC energy register")
_KWH_DC = Measure("kwhDeliveredDc", "kwh_delivered_dc", 0, MAX_KWH, "kWh", "DC energy register")

METER = Kind(
    name="meter",
    id_field="meterId",
    measures=(_KWH_AC, Measure("voltage", "voltage_v", 0, 1000, "V", "Grid voltage")),
    counter=_KWH_AC,
    devices=_table(Meter),
    history=_table(MeterHistory),
    latest=_table(MeterLatest),
    hourly=_table(MeterEnergyHourly),
    dirty=_table(MeterDirtyHour),
    events=_table(MeterRegisterEvent),
)

VEHICLE = Kind(
    name="vehicle",
    id_field="vehicleId",
    measures=(
        Measure("soc", "soc_pct", 0, 100, "%", "State of charge"),
        _KWH_DC,
        Measure("batteryTemp", "battery_temp_c", -60, 120, "°C", "Battery temperature"),
    ),
    counter=_KWH_DC,
    devices=_table(Vehicle),
    history=_table(VehicleHistory),
    latest=_table(VehicleLatest),
    hourly=_table(VehicleEnergyHourly),
    dirty=_table(VehicleDirtyHour),
    events=_table(VehicleRegisterEvent),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in (METER, VEHICLE)}
