"""Rows of the fault matrix (docs/reliability.md) that the flush and its workers hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

import settings
from models.kinds import METER
from models.packed import device_ids, unpack
from stack.ports import free_port
from tests.factories import at, meter_reading, post_to_stream, rows
from workers import flush, stream

ROOT = Path(__file__).parents[2]
KEY = "energy:{meter}"

#: One flush in a process of its own, which dies the way a crash in a library does as soon as it
#: decodes an entry with a deadly reading in it.
_DEADLY_FLUSH = """
import os, signal
from models.kinds import METER
from workers import flush, stream

def deadly(decode):
    def decode_and_die(kind, entries):
        if any(b"killer" in entry.body for entry in entries):
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(kind, entries)
    return decode_and_die

def decompress_and_die(frame, decompress=stream.decompress):
    body = decompress(frame)
    if b"killer" in body:
        os.kill(os.getpid(), signal.SIGKILL)
    return body

stream.decompress = decompress_and_die
flush.decode, flush.decode_plain = deadly(flush.decode), deadly(flush.decode_plain)
stream.SUSPECT_AFTER, stream.MAX_DEATHS = {suspect_after}, {max_deaths}
flush.flush(METER, "slot-0")
"""


def flush_that_may_die(
    suspect_after: int = stream.SUSPECT_AFTER, max_deaths: int = stream.MAX_DEATHS
) -> bool:
    """Whether it died."""
    program = _DEADLY_FLUSH.format(suspect_after=suspect_after, max_deaths=max_deaths)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    return done.returncode != 0


def post(fleet: int, *devices: str) -> None:
    for device in devices:
        post_to_stream(METER, fleet, [meter_reading(meterId=device, timestamp=at(1))])


def stored() -> set[str]:
    return {
        row["device_id"]
        for row in rows(
            "SELECT device_id FROM meters JOIN meter_telemetry_history ON key = device_key"
        )
    }


def dead() -> list[tuple[str, int | None, bytes]]:
    found = rows("SELECT reason, fleet_id, raw FROM dead_letters ORDER BY id")
    return [(row["reason"], row["fleet_id"], row["raw"]) for row in found]


def deliveries() -> list[int]:
    pending = stream.client().xpending_range(KEY, stream.GROUP, "-", "+", 100)
    return [one["times_delivered"] for one in pending]


# --- 44: an entry that kills --------------------------------------------------------------------


@pytest.mark.slow
def test_row_44_a_killer_entry_is_put_aside_alone_and_its_neighbours_are_stored(
    fleet: int,
) -> None:
    post(fleet, "before-1", "before-2", "killer", "after-1", "after-2")
    (killer,) = stream.client().xrange(KEY)[2:3]
    # In company it takes its neighbours down three times; alone it goes down alone.
    for _ in range(3):
        assert flush_that_may_die()
        assert stored() == set()
    assert flush_that_may_die()
    assert stored() == {"before-1", "before-2"}  # handled before it, each alone
    post(fleet, "newcomer")
    assert flush_that_may_die()
    assert stored() == {"before-1", "before-2", "newcomer", "after-1", "after-2"}
    for _ in range(3):
        assert flush_that_may_die()  # deaths 6, 7, 8
    assert dead() == []
    assert not flush_that_may_die()
    assert dead() == [("KILLER_ENTRY", fleet, killer[1][b"b"])]
    assert (stream.waiting(METER), deliveries()) == (0, [])
    assert len(stored()) == 5


@pytest.mark.slow
def test_row_44_nothing_is_done_with_the_bytes_of_a_killer_not_even_decompressed(
    fleet: int,
) -> None:
    many = [meter_reading(meterId=f"killer-{n}", timestamp=at(1)) for n in range(100)]
    post(fleet, "before")
    post_to_stream(METER, fleet, many)
    post(fleet, "after")
    (killer,) = stream.client().xrange(KEY)[1:2]
    assert killer[1][b"v"] == stream.COLUMNS
    while flush_that_may_die(suspect_after=1, max_deaths=3):
        assert max(deliveries()) <= 3
    assert stored() == {"before", "after"}
    ((reason, whose, raw),) = dead()
    assert (reason, whose) == ("KILLER_ENTRY", fleet)
    assert killer[1][b"c"] in raw
    assert stream.waiting(METER) == 0
    found = stream.reread(raw)
    assert found is not None
    assert found[0] == fleet
    sent = unpack(METER, found[1])  # whoever wants it can have it
    assert len(device_ids(sent.roster)) == len(many)


def test_row_44_two_killers_are_put_aside_and_nobody_else(fleet: int) -> None:
    post(fleet, "a", "killer-1", "b", "killer-2", "c")
    deaths = 0
    while flush_that_may_die(suspect_after=1, max_deaths=3):
        deaths += 1
    # One in company, then two of each alone: what is at fault for one death is one entry.
    assert deaths == 1 + 2 + 2
    assert [reason for reason, _, _ in dead()] == ["KILLER_ENTRY"] * 2
    assert stored() == {"a", "b", "c"}
    assert stream.waiting(METER) == 0


def test_row_44_another_slot_leaves_a_suspect_to_the_one_that_has_it(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(fleet, "meter-001")
    monkeypatch.setattr(stream, "CLAIM_IDLE_MS", 0)
    for _ in range(stream.SUSPECT_AFTER):
        assert len(flush_claim("slot-0")) == 1
    assert flush_claim("slot-1") == []
    assert stream.claim_suspect(METER, "slot-1") is None
    monkeypatch.setattr(stream, "SUSPECT_IDLE_MS", 0)  # its slot never came back
    adopted = stream.claim_suspect(METER, "slot-1")
    assert adopted is not None
    assert adopted.deliveries == stream.SUSPECT_AFTER + 1


def flush_claim(consumer: str) -> list[stream.Entry]:
    stream.ensure_group(METER)
    return stream.claim(METER, consumer, 10)


# --- a client that invents devices ----------------------------------------------------------------


def test_readings_of_devices_too_many_are_kept_as_dead_letters(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were answered with 202 before the door knew that the fleet is full."""
    monkeypatch.setenv("MAX_DEVICES_PER_FLEET", "2")
    settings.load.cache_clear()
    post(fleet, "a", "b", "c", "d")
    post(999, "a")
    flush.flush(METER, "slot-0")
    assert stored() == {"a", "b"}
    reasons = {(reason, owner) for reason, owner, _ in dead()}
    assert reasons == {("TOO_MANY_DEVICES", fleet), ("UNKNOWN_FLEET", 999)}
    assert [json.loads(raw)["meterId"] for _, owner, raw in dead() if owner == fleet] == ["c", "d"]
    assert stream.waiting(METER) == 0


# --- 15: an outage is nobody's fault -------------------------------------------------------------


def test_row_15_an_outage_of_postgresql_makes_no_suspects(
    fleet: int, monkeypatch: pytest.MonkeyPatch, servers: dict[str, str]
) -> None:
    post(fleet, "meter-001", "meter-002")
    stream.ensure_group(METER)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://127.0.0.1:{free_port()}/energy")
    settings.load.cache_clear()
    for _ in range(20):
        with pytest.raises(OperationalError):
            flush.flush(METER, "slot-0")
    assert deliveries() == []  # not even claimed
    monkeypatch.setenv("DATABASE_URL", servers["DATABASE_URL"])
    settings.load.cache_clear()
    flush.flush(METER, "slot-0")
    assert (stored(), dead()) == ({"meter-001", "meter-002"}, [])


def test_row_15_errors_in_mid_flush_make_no_suspects(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(fleet, "meter-001", "meter-002")

    def fails(*_: object) -> None:
        raise psycopg.OperationalError("the server closed the connection")

    with monkeypatch.context() as patch:
        patch.setattr("models.writes.store", fails)
        for _ in range(20):
            with pytest.raises(psycopg.OperationalError):
                flush.flush(METER, "slot-0")
    assert deliveries() == [0, 0]
    flush.flush(METER, "slot-0")
    assert (stored(), dead()) == ({"meter-001", "meter-002"}, [])
    assert deliveries() == []
