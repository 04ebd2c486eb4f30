"""Days made by COPY: what registers count, and the bytes that PostgreSQL is given."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from bench.copying import Copies, block_count, columns_of, rows
from bench.habits import DAY_MINUTES, Habit, efficiency, meter_columns, vehicle_columns
from bench.readings import Fleet
from models.kinds import KINDS, METER, VEHICLE

FLEET = Fleet(datetime(2026, 1, 10, tzinfo=UTC), devices=3)
MINUTES = np.arange(2 * DAY_MINUTES)


def of(device: int) -> Any:
    return np.full(len(MINUTES), device)


def test_a_vehicle_charges_three_hours_a_day() -> None:
    # Two and a half hours at 7.2 kW, half an hour at 3.6 kW; the rest of the day 6 W of standby.
    ac = meter_columns(Habit.SESSIONS, of(0), MINUTES)["kwh_consumed_ac"]
    dc = vehicle_columns(Habit.SESSIONS, of(0), MINUTES)["kwh_delivered_dc"]

    assert ac[150] - ac[0] == pytest.approx(2.5 * 7.2)
    assert ac[180] - ac[150] == pytest.approx(0.5 * 3.6)
    assert ac[1440] - ac[180] == pytest.approx(21 * 0.006)
    assert dc[180] - dc[0] == pytest.approx(0.9 * 19.8)
    assert np.ptp(dc[180:1441]) == 0


@pytest.mark.parametrize("device", [0, 1, 57, 205, 9_999])
def test_sessions_of_other_vehicles_begin_at_other_times_and_bring_as_much(device: int) -> None:
    ac = meter_columns(Habit.SESSIONS, of(device), MINUTES)["kwh_consumed_ac"]
    columns = vehicle_columns(Habit.SESSIONS, of(device), MINUTES)
    dc = columns["kwh_delivered_dc"]

    assert ac[1440] - ac[0] == pytest.approx(19.8 + 0.126)
    assert dc[1440] - dc[0] == pytest.approx(17.82)
    assert np.count_nonzero(np.diff(dc[:1441])) == 180
    assert np.diff(ac).min() > 0
    assert np.diff(dc).min() == 0
    assert 20 <= columns["soc_pct"].min() <= columns["soc_pct"].max() <= 80


def test_the_efficiency_of_a_day_is_what_a_hand_computes() -> None:
    assert efficiency(Habit.SESSIONS, 3, 0, 1440) == pytest.approx([17.82 / 19.926] * 3)
    assert efficiency(Habit.ALWAYS, 3, 100, 1539) == pytest.approx([0.9] * 3)
    # The first vehicle's session alone: no standby in it.
    assert efficiency(Habit.SESSIONS, 1, 0, 180) == pytest.approx([0.9])


@pytest.mark.parametrize("kind", list(KINDS.values()), ids=str)
def test_columns_hold_what_the_same_readings_say_as_json(kind: Any) -> None:
    numbers = range(2, 11)

    columns = columns_of(kind.name, FLEET, [70, 71, 72], numbers, Habit.ALWAYS)

    sent = [json.loads(one) for one in FLEET.objects(kind.name, numbers)]
    assert [int(key) - 70 for key in columns["device_key"]] == [
        int(one[kind.id_field][-4:]) for one in sent
    ]
    assert [datetime.fromtimestamp(at / 1e6, UTC) for at in columns["recorded_at"].tolist()] == [
        datetime.fromisoformat(one["timestamp"]) for one in sent
    ]
    for measure in kind.measures:
        assert columns[measure.column] == pytest.approx([one[measure.field] for one in sent])


def test_copied_rows_have_the_binary_form_of_postgresql() -> None:
    fleet = Fleet(datetime(2000, 1, 1, tzinfo=UTC), devices=2)

    copied = rows(VEHICLE.history, columns_of("vehicle", fleet, [7, 8], range(4), Habit.ALWAYS))

    assert copied.startswith(b"PGCOPY\n\xff\r\n\0" + bytes(8))
    assert copied.endswith(struct.pack(">h", -1))
    fields, size, key = struct.unpack_from(">hii", copied, 19)
    assert (fields, size, key) == (len(VEHICLE.history.columns), 4, 7)


def test_blocks_leave_no_reading_out() -> None:
    numbers = range(5, 5 + 45_000)
    keys = {kind: list(range(3)) for kind in KINDS}

    made = list(Copies("", FLEET, keys, range(block_count(45_000)), numbers)._made())

    assert [block.kind for block in made] == ["meter", "vehicle"] * 3
    row_bytes = len(
        rows(METER.history, columns_of("meter", FLEET, [0, 1, 2], range(2), Habit.ALWAYS))
    )
    row_bytes -= len(
        rows(METER.history, columns_of("meter", FLEET, [0, 1, 2], range(1), Habit.ALWAYS))
    )
    meters = [len(block.rows) // row_bytes for block in made if block.kind == "meter"]
    assert meters == [20_000, 20_000, 5_000]
    assert all(block.newest[0] == "{0,1,2}" for block in made)
    assert block_count(45_000, 40_000) == 4
