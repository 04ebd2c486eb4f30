"""From a block of a pair's life to the JSON text of its readings.

Readings are written with one % operation each, and what repeats (names, minutes, seconds) is
prepared: this makes the generator fast enough to load a server.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from seed.charging_day import BLOCK_MIN, BLOCK_S, MINUTE_S, Block
from seed.knobs import JOULES_PER_KWH

#: The last characters of a timestamp, by second of the minute.
SECONDS = tuple(f"{second:02d}Z" for second in range(MINUTE_S))


def minute_stamps(epoch: datetime, number: int) -> list[str]:
    """The timestamps of a block's minutes, without their seconds."""
    begin = epoch.astimezone(UTC) + timedelta(seconds=number * BLOCK_S)
    return [f"{begin + timedelta(minutes=i):%Y-%m-%dT%H:%M:}" for i in range(BLOCK_MIN)]


def sample_times(begin: int, end: int, phase: int, interval: int) -> range:
    """Seconds since the epoch in [begin, end) at which a device takes a reading.

    Devices keep their own rhythm: `phase` seconds after each multiple of `interval`.
    """
    return range(begin + (phase - begin) % interval, end, interval)


class Device:
    """One register: its name, its resolution, its rhythm."""

    def __init__(self, device_id: str, decimals: int, phase: int) -> None:
        """`decimals`: of the register, in kWh. `phase`: seconds, see sample_times."""
        self.device_id = device_id
        self.phase = phase
        self.digits = 10**decimals
        self.tick_j = JOULES_PER_KWH // self.digits
        # A % in a device's name would be read as a conversion.
        quoted_id = json.dumps(device_id).replace("%", "%%")
        self._meter = (
            f'{{"meterId":{quoted_id},"kwhConsumedAc":%.{decimals}f,'
            '"voltage":%.1f,"timestamp":"%s%s"}'
        )
        self._vehicle = (
            f'{{"vehicleId":{quoted_id},"soc":%.0f,"kwhDeliveredDc":%.{decimals}f,'
            '"batteryTemp":%.1f,"timestamp":"%s%s"}'
        )

    def meter_lines(self, block: Block, stamps: list[str], times: range) -> list[str]:
        """The readings of a meter at `times`, seconds since the block began."""
        lines = []
        for minute, second in (divmod(time, MINUTE_S) for time in times):
            # Whole ticks only, rounded down, as a register does: it can't go backwards.
            ticks = (block.ac_j[minute] + block.ac_w[minute] * second) // self.tick_j
            values = (ticks / self.digits, block.volts[minute], stamps[minute], SECONDS[second])
            lines.append(self._meter % values)
        return lines

    def vehicle_lines(self, block: Block, stamps: list[str], times: range) -> list[str]:
        """The readings of a vehicle at `times`, seconds since the block began."""
        lines = []
        for minute, second in (divmod(time, MINUTE_S) for time in times):
            ticks = (block.dc_j[minute] + block.dc_w[minute] * second) // self.tick_j
            values = (
                block.soc_pct[minute],
                ticks / self.digits,
                block.battery_c[minute],
                stamps[minute],
                SECONDS[second],
            )
            lines.append(self._vehicle % values)
        return lines
