"""What registers count minute by minute, as columns: a day made for COPY has millions of rows.

Two habits. ALWAYS charges day and night, as the readings that are POSTed do (bench/readings.py).
SESSIONS is a depot's day: each vehicle charges three hours, at a time of its own; in between, the
charge point draws its standby and the vehicle's register stands still.

Every instant's register is a function of (device, minute) alone, so what a window's efficiency must
be is the difference of two of them: `efficiency`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.readings import EFFICIENCY, MINUTE_KWH, START_KWH, meter_values, vehicle_values

DAY_MINUTES = 24 * 60
#: A session: at full power, then tapering at half of it.
FULL_MINUTES, TAPER_MINUTES = 150, 30
SESSION_MINUTES = FULL_MINUTES + TAPER_MINUTES
#: Minutes at full power that would bring as much as a session.
SESSION_UNITS = FULL_MINUTES + TAPER_MINUTES / 2
#: What a charge point draws while nobody charges (6 W), kWh a minute.
STANDBY_KWH = 0.0001
#: Sessions begin so many minutes apart from one device to the next: spread over day and night.
_STAGGER_MINUTES = 7

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
#: One value per reading, by the column of history.
Columns = dict[str, Floats]


class Habit(Enum):
    """When vehicles charge."""

    ALWAYS = "always"
    SESSIONS = "sessions"


def meter_columns(habit: Habit, device: Ints, minute: Ints) -> Columns:
    """What meters measure at these minutes of their fleet."""
    if habit is Habit.ALWAYS:
        kwh, volt = _arrays(meter_values(device, minute))  # type: ignore[arg-type]
    else:
        units, charging = _charged(device, minute)
        idle = minute - _charging_minutes(device, minute)
        drawn = MINUTE_KWH * units + STANDBY_KWH * idle
        kwh, volt = _arrays((START_KWH + device + drawn, 230.0 - 4.0 * charging))
    return {"kwh_consumed_ac": kwh, "voltage_v": volt}


def vehicle_columns(habit: Habit, device: Ints, minute: Ints) -> Columns:
    """What vehicles measure at these minutes of their fleet."""
    if habit is Habit.ALWAYS:
        soc, kwh, temp = _arrays(vehicle_values(device, minute))  # type: ignore[arg-type]
    else:
        units, charging = _charged(device, minute)
        delivered = START_KWH + EFFICIENCY * (device + MINUTE_KWH * units)
        since = (minute + _phase(device)) % DAY_MINUTES
        driven = (since - SESSION_MINUTES) / (DAY_MINUTES - SESSION_MINUTES)
        full = np.where(charging, since / SESSION_MINUTES, 1 - driven)
        soc, kwh, temp = _arrays((20 + 60 * full, delivered, 20.0 + 8.0 * charging))
    return {"soc_pct": soc, "kwh_delivered_dc": kwh, "battery_temp_c": temp}


def _arrays(values: Iterable[Any]) -> list[Floats]:
    return [np.asarray(one, float) for one in values]


def efficiency(habit: Habit, devices: int, first_minute: int, last_minute: int) -> Floats:
    """What reached each vehicle's battery of what its meter counted between two minutes."""
    device = np.arange(devices)

    def counted(minute: int) -> tuple[Floats, Floats]:
        at = np.full(devices, minute)
        ac = meter_columns(habit, device, at)["kwh_consumed_ac"]
        return ac, vehicle_columns(habit, device, at)["kwh_delivered_dc"]

    (ac_from, dc_from), (ac_to, dc_to) = counted(first_minute), counted(last_minute)
    return (dc_to - dc_from) / (ac_to - ac_from)


def _phase(device: Ints) -> Ints:
    """How many minutes before the fleet's minute 0 the device's own day began."""
    return device * _STAGGER_MINUTES % DAY_MINUTES


def _charged(device: Ints, minute: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    """(full-power minutes since minute 0, whether it charges now)"""
    phase = _phase(device)
    charging = (minute + phase) % DAY_MINUTES < SESSION_MINUTES
    return _units(minute + phase) - _units(phase), charging


def _units(minute: Ints) -> Floats:
    days, rest = np.divmod(minute, DAY_MINUTES)
    tapering = np.clip(rest - FULL_MINUTES, 0, TAPER_MINUTES) / 2
    return np.asarray(days * SESSION_UNITS + np.minimum(rest, FULL_MINUTES) + tapering)


def _charging_minutes(device: Ints, minute: Ints) -> Ints:
    def total(at: Ints) -> Ints:
        days, rest = np.divmod(at, DAY_MINUTES)
        return np.asarray(days * SESSION_MINUTES + np.minimum(rest, SESSION_MINUTES))

    phase = _phase(device)
    return total(minute + phase) - total(phase)
