"""Devices register themselves with their first reading, once, whoever comes first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import settings
from models import writes
from models.engine import transaction
from models.kinds import METER, VEHICLE
from tests.factories import rows
from workers import devices
from workers.devices import DeviceKeys


def registered() -> list[tuple[int, str, int]]:
    return [
        (row["fleet_id"], row["device_id"], row["key"])
        for row in rows("SELECT fleet_id, device_id, key FROM meters ORDER BY key")
    ]


def test_a_new_device_is_registered_and_an_old_one_found(fleet: int) -> None:
    first = DeviceKeys().resolve(METER, {(fleet, "a"), (fleet, "b")})
    again = DeviceKeys().resolve(METER, {(fleet, "b"), (fleet, "c")})
    assert first[fleet, "b"] == again[fleet, "b"]
    assert {(f, d) for f, d, _ in registered()} == {(fleet, "a"), (fleet, "b"), (fleet, "c")}


def test_meters_and_vehicles_are_counted_apart(fleet: int, other_fleet: int) -> None:
    keys = DeviceKeys()
    mine = keys.resolve(METER, {(fleet, "x"), (other_fleet, "x")})
    assert len(set(mine.values())) == 2
    keys.resolve(VEHICLE, {(fleet, "x")})
    assert rows("SELECT fleet_id, device_id FROM vehicles") == [
        {"fleet_id": fleet, "device_id": "x"}
    ]


def test_a_device_of_no_fleet_is_not_registered(fleet: int) -> None:
    found = DeviceKeys().resolve(METER, {(fleet, "a"), (999, "a"), (0, "a")})
    assert found.keys() == {(fleet, "a")}
    assert len(registered()) == 1


def test_a_full_fleet_registers_no_further_device_and_another_fleet_does(
    fleet: int, other_fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_DEVICES_PER_FLEET", "3")
    settings.load.cache_clear()
    first = DeviceKeys().resolve(METER, {(fleet, "b"), (fleet, "c")})
    asked = {(fleet, id_) for id_ in "abcde"} | {(other_fleet, "z")}
    found = DeviceKeys().resolve(METER, asked)
    assert found.keys() == {(fleet, "a"), *first, (other_fleet, "z")}
    assert DeviceKeys().resolve(METER, asked) == found
    assert DeviceKeys().resolve(VEHICLE, {(fleet, "a")}).keys() == {(fleet, "a")}
    monkeypatch.setenv("MAX_DEVICES_PER_FLEET", "2")  # less than there are: they stay
    settings.load.cache_clear()
    assert DeviceKeys().resolve(METER, asked) == found


def test_a_known_device_needs_no_database(fleet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = DeviceKeys()
    first = keys.resolve(METER, {(fleet, "a"), (fleet, "b")})
    monkeypatch.setattr(devices, "transaction", None)
    assert keys.resolve(METER, {(fleet, "a")}) == {(fleet, "a"): first[fleet, "a"]}
    assert keys.resolve(METER, set()) == {}


def test_a_key_is_remembered_only_once_its_row_is_committed(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = DeviceKeys()
    with monkeypatch.context() as failing:
        failing.setattr(writes, "resolve_devices", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            keys.resolve(METER, {(fleet, "a")})
    assert keys.resolve(METER, {(fleet, "a")}).keys() == {(fleet, "a")}


def test_memory_is_bounded_and_answers_stay_complete(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "MAX_REMEMBERED", 10)
    keys = DeviceKeys()
    truth = {}
    for start in range(0, 40, 4):
        wanted = {(fleet, f"m{n}") for n in range(start, start + 8)}
        found = keys.resolve(METER, wanted)
        assert found.keys() == wanted
        truth |= found
    assert truth == {(f, d): key for f, d, key in registered()}


def test_eight_at_once_register_each_device_once(fleet: int) -> None:
    wanted = [(fleet, f"m{n}") for n in range(200)]

    def register(seed: int) -> dict[tuple[int, str], int]:
        order = wanted[25 * seed :] + wanted[: 25 * seed]  # each begins elsewhere
        found = {}
        for start in range(0, len(order), 50):
            with transaction() as conn:
                found |= writes.resolve_devices(conn, METER, order[start : start + 50])
        return found

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(register, range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0] == {(f, d): key for f, d, key in registered()}
    assert len(answers[0]) == 200
