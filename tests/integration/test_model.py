"""The engine against a model of it: Hypothesis posts, repeats, contradicts, flushes, crashes,
restarts, rolls up and moves the clock, in any order it can think of, on real servers.

The model is what a sender would write down: which values were accepted for a device and an instant.
After every step the invariants hold; at the end everything is flushed and summed up, and the hours
must be those of the slow reference.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest
import redis
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.exc import OperationalError

from models import engine
from models.clock import from_us, to_us
from models.kinds import KINDS, METER, Kind
from tests.chaos import reference
from tests.factories import (
    at,
    empty_servers,
    make_fleet,
    post_to_stream,
    register,
    rows,
)
from tests.failpoints import Failpoints, When, fail
from workers import flush, rollup, stream
from workers.devices import DeviceKeys

AWAY = (psycopg.OperationalError, OperationalError, redis.RedisError)
CONSUMERS = ("one", "two")
FLEETS = (1, 2)

kinds = st.sampled_from(list(KINDS.values()))
fleets = st.sampled_from(FLEETS)
minutes = st.integers(0, 180)
moments = st.tuples(st.integers(1, 40), st.sampled_from(list(When)))

#: (fleet, kind name, microseconds)
Key = tuple[int, str, int]


def kwh_at(kind: Kind, minute: int) -> float:
    """A register that rises by 0.1 kWh a minute (0.09 in the vehicle) and restarts at 90."""
    per_minute = 0.1 if kind is METER else 0.09
    return round((minute if minute < 90 else minute - 89) * per_minute, 6)


class Engine(RuleBasedStateMachine):
    """Sends to one pair in each of two fleets with the same names."""

    def __init__(self) -> None:
        super().__init__()
        #: Register values that were accepted for a device and an instant.
        self.accepted: dict[Key, list[float]] = {}
        #: Requests that were accepted, to be sent again.
        self.requests: list[tuple[Kind, int, list[tuple[int, float]]]] = []
        self.now = at(4)
        self.seen: dict[tuple[int, str], int] = {}

    @initialize()
    def begin(self) -> None:
        empty_servers()
        for name in ("Northern depot", "Southern depot"):
            make_fleet(name)
        for kind in KINDS.values():
            stream.ensure_group(kind)

    # --- what senders do ---

    def _send(self, kind: Kind, fleet: int, samples: list[tuple[int, float]]) -> None:
        readings = register(kind, [(at(minutes=minute), kwh) for minute, kwh in samples])
        post_to_stream(kind, fleet, readings)
        self.requests.append((kind, fleet, samples))
        for minute, kwh in samples:
            known = self.accepted.setdefault((fleet, kind.name, to_us(at(minutes=minute))), [])
            if kwh not in known:
                known.append(kwh)

    @rule(kind=kinds, fleet=fleets, when=st.lists(minutes, min_size=1, max_size=12))
    def post(self, kind: Kind, fleet: int, when: list[int]) -> None:
        """Instants in any order, a minute twice now and then."""
        self._send(kind, fleet, [(minute, kwh_at(kind, minute)) for minute in when])

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def post_again(self, data: st.DataObject) -> None:
        self._send(*data.draw(st.sampled_from(self.requests)))

    @rule(kind=kinds, fleet=fleets, minute=minutes)
    def contradict(self, kind: Kind, fleet: int, minute: int) -> None:
        self._send(kind, fleet, [(minute, round(kwh_at(kind, minute) + 0.01, 6))])

    # --- what workers do ---

    @rule(kind=kinds, consumer=st.sampled_from(CONSUMERS))
    def flush(self, kind: Kind, consumer: str) -> None:
        flush.flush(kind, consumer)

    @rule(kind=kinds, consumer=st.sampled_from(CONSUMERS), moment=moments)
    def flush_and_crash(self, kind: Kind, consumer: str, moment: tuple[int, When]) -> None:
        self._crash(lambda: flush.flush(kind, consumer), moment)

    @rule(kind=kinds, consumer=st.sampled_from(CONSUMERS), count=st.integers(1, 3))
    def claim_and_die(self, kind: Kind, consumer: str, count: int) -> None:
        """Entries in the hands of a consumer that does nothing with them."""
        stream.claim(kind, consumer, count)

    @rule()
    def restart(self) -> None:
        """New processes: no connection, nothing remembered."""
        engine.dispose()
        stream.client().connection_pool.disconnect()
        flush._device_keys = DeviceKeys()

    @rule()
    def roll_up(self) -> None:
        rollup.tick(self.now)

    @rule(moment=moments)
    def roll_up_and_crash(self, moment: tuple[int, When]) -> None:
        self._crash(lambda: rollup.tick(self.now), moment)

    @rule(hours=st.integers(1, 30))
    def advance_the_clock(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    def _crash(self, work: Any, moment: tuple[int, When]) -> None:
        number, when = moment
        with pytest.MonkeyPatch.context() as patch:
            failpoints = Failpoints(patch, number, when, fail)
            try:
                work()
            except AWAY:
                assert failpoints.struck

    # --- what always holds ---

    @invariant()
    def history_holds_only_what_was_accepted(self) -> None:
        for kind in KINDS.values():
            for key, kwh in self._stored(kind).items():
                assert kwh in self.accepted[key]

    @invariant()
    def latest_never_goes_back(self) -> None:
        for kind in KINDS.values():
            newest: dict[int, int] = {}
            for fleet, _, at_us in self._stored(kind):
                newest[fleet] = max(at_us, newest.get(fleet, at_us))
            latest = {
                row["fleet_id"]: to_us(row["recorded_at"])
                for row in rows(
                    f"SELECT fleet_id, recorded_at FROM {kind.latest.name}"  # noqa: S608
                    f" JOIN {kind.devices.name} ON key = device_key"
                )
            }
            assert latest == newest
            for fleet, at_us in latest.items():
                assert at_us >= self.seen.get((fleet, kind.name), at_us)
                self.seen[fleet, kind.name] = at_us

    @invariant()
    def what_is_not_stored_waits(self) -> None:
        """Nothing is lost in between: it is in PostgreSQL or in the stream."""
        for kind in KINDS.values():
            stored = self._stored(kind)
            if any(key[1] == kind.name and key not in stored for key in self.accepted):
                assert stream.waiting(kind) > 0

    def teardown(self) -> None:
        """All is quiet; once more without trouble, by a worker that takes over from the dead."""
        if not self.accepted:
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream, "CLAIM_IDLE_MS", 0)
            patch.setattr(stream, "SUSPECT_IDLE_MS", 0)
            for kind in KINDS.values():
                flush.flush(kind, "last")
        rollup.tick(self.now)
        conflicts = self._conflicts()
        for kind in KINDS.values():
            stored = self._stored(kind)
            mine = {key: values for key, values in self.accepted.items() if key[1] == kind.name}
            assert stored.keys() == mine.keys()
            for key, values in mine.items():
                # The first wins; with two consumers "first" is theirs to say. Nothing is dropped.
                assert sorted([stored[key], *conflicts.get(key, [])]) == sorted(values)
            self._check_hours(kind, stored)
            pending = stream.client().xpending(stream._key(kind), stream.GROUP)["pending"]
            assert (stream.waiting(kind), pending) == (0, 0)
        assert rows("SELECT * FROM dead_letters") == []

    def _check_hours(self, kind: Kind, stored: dict[Key, float]) -> None:
        for fleet in FLEETS:
            samples = sorted((at_us, kwh) for (of, _, at_us), kwh in stored.items() if of == fleet)
            found = rows(
                f"SELECT hour, samples, first_at, last_at FROM {kind.hourly.name}"  # noqa: S608
                f" JOIN {kind.devices.name} ON key = device_key WHERE fleet_id = :fleet",
                fleet=fleet,
            )
            assert rows(f"SELECT count(*) AS n FROM {kind.dirty.name}") == [{"n": 0}]  # noqa: S608
            hours = reference.hours(samples)
            # A sample that was judged a glitch is in history and in no hour.
            assert {to_us(row["hour"]) for row in found} <= hours.keys()
            events = rows(
                f"SELECT count(*) AS n FROM {kind.events.name}"  # noqa: S608
                f" JOIN {kind.devices.name} ON key = device_key"
                " WHERE fleet_id = :fleet AND dropped",
                fleet=fleet,
            )
            assert sum(row["samples"] for row in found) + events[0]["n"] == len(samples)
            if not events[0]["n"]:
                for row in found:
                    hour = hours[to_us(row["hour"])]
                    assert row["samples"] == hour.samples
                    assert (row["first_at"], row["last_at"]) == (
                        from_us(hour.first_at_us),
                        from_us(hour.last_at_us),
                    )

    def _stored(self, kind: Kind) -> dict[Key, float]:
        found = rows(
            f"SELECT fleet_id, recorded_at, {kind.counter.column} AS kwh"  # noqa: S608
            f" FROM {kind.history.name} JOIN {kind.devices.name} ON key = device_key"
        )
        stored = {(r["fleet_id"], kind.name, to_us(r["recorded_at"])): r["kwh"] for r in found}
        assert len(stored) == len(found), "counted twice"
        return stored

    def _conflicts(self) -> dict[Key, list[float]]:
        conflicts: dict[Key, list[float]] = {}
        for kind in KINDS.values():
            for row in rows(
                f"SELECT fleet_id, recorded_at, refused FROM reading_conflicts"  # noqa: S608
                f" JOIN {kind.devices.name} ON key = device_key WHERE kind = '{kind}'"
            ):
                key = (row["fleet_id"], kind.name, to_us(row["recorded_at"]))
                conflicts.setdefault(key, []).append(row["refused"][kind.counter.field])
        return conflicts


@pytest.mark.slow
@pytest.mark.timeout(900)  # when it fails, Hypothesis looks for the shortest story
def test_the_engine_does_what_its_model_says(servers: dict[str, str]) -> None:
    run_state_machine_as_test(
        Engine, settings=hypothesis_settings(max_examples=25, stateful_step_count=25)
    )
