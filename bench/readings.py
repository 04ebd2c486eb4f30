"""The fleet whose readings are sent: as many as wanted, no two with the same device and timestamp.

Reading number n of a kind comes from device n % devices at step n // devices: the order in which
gateways that report at fixed intervals would send them. Standard library only: the processes of
the load generator import this and little else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

DEVICES = 2_000
KINDS = ("meter", "vehicle")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STEP_US = timedelta(microseconds=1)

#: A register's first value, and what it moves in a minute (7.2 kW), kWh.
START_KWH, MINUTE_KWH = 1_000.0, 0.12
#: Of what the meter counts, this share reaches the battery.
EFFICIENCY = 0.9


@dataclass(frozen=True, slots=True)
class Fleet:
    """Where the fleet's time begins (an aware instant), and how far its readings lie apart.

    `age` is how long the registers have been counting by then: two fleets of the same devices must
    agree on it, or one would see the other's registers fall.
    """

    begin: datetime
    spacing: timedelta = timedelta(minutes=1)
    age: timedelta = timedelta(0)
    #: Meters, and as many vehicles.
    devices: int = DEVICES

    def instant(self, step: int) -> datetime:
        """When the readings of a step were taken."""
        return self.begin + step * self.spacing

    def micros(self, step: int) -> int:
        """The same in microseconds since 1970."""
        return (self.instant(step) - EPOCH) // _STEP_US

    def minute(self, step: int) -> int:
        """How long the registers have been counting at a step."""
        return (self.age + step * self.spacing) // timedelta(minutes=1)

    def objects(self, kind: str, numbers: range) -> list[str]:
        """The readings with these numbers, each as the JSON object that a device would post."""
        write = _meter_json if kind == "meter" else _vehicle_json
        spelled: dict[int, str] = {}
        found = []
        for number in numbers:
            step, device = divmod(number, self.devices)
            if step not in spelled:
                spelled[step] = f"{self.instant(step):%Y-%m-%dT%H:%M:%SZ}"
            found.append(write(device, self.minute(step), spelled[step]))
        return found


def device_id(kind: str, device: int) -> str:
    """vehicle-0007 is served by meter-0007: the product's convention."""
    return f"{kind}-{device:04d}"


def meter_values(device: int, minute: int) -> tuple[float, float]:
    """(kWh, V); what bench/habits.py calls ALWAYS: charging day and night."""
    return START_KWH + device + MINUTE_KWH * minute, 225.0 + (device + minute) % 100 / 10


def vehicle_values(device: int, minute: int) -> tuple[float, float, float]:
    """(state of charge in %, kWh, °C)"""
    kwh = START_KWH + EFFICIENCY * (device + MINUTE_KWH * minute)
    return 20.0 + minute % 60, kwh, 25.0 + (device + minute) % 150 / 10


def _meter_json(device: int, minute: int, at: str) -> str:
    kwh, volt = meter_values(device, minute)
    return (
        f'{{"meterId":"meter-{device:04d}","kwhConsumedAc":{kwh:.3f},'
        f'"voltage":{volt:.1f},"timestamp":"{at}"}}'
    )


def _vehicle_json(device: int, minute: int, at: str) -> str:
    soc, kwh, temp = vehicle_values(device, minute)
    return (
        f'{{"vehicleId":"vehicle-{device:04d}","soc":{soc:.0f},"kwhDeliveredDc":{kwh:.3f},'
        f'"batteryTemp":{temp:.1f},"timestamp":"{at}"}}'
    )
