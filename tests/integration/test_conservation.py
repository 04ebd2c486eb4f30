"""Accepted = history + duplicates + conflicts + dead letters + waiting; a difference is seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from models import conservation, writes
from models.conservation import Differences
from models.engine import transaction
from models.kinds import KINDS, METER, VEHICLE
from models.writes import NOTHING, Stored
from tests import factories
from tests.factories import at, execute, meter_reading, post_to_stream, rows, vehicle_reading
from tests.failpoints import Failpoints, When, fail
from tests.web.calls import counted
from workers import conservation as watch
from workers import flush, stream

KEY = "energy:{meter}"
WELL = Differences(0, 0, 0, 0)


@pytest.fixture(autouse=True)
def _counting_has_begun(servers: dict[str, str]) -> None:
    """From the first look on."""
    for kind in KINDS.values():
        assert watch.check(kind, at(0)) == WELL


def post(fleet: int, *numbers: float, kwh: float = 1.0) -> None:
    """One accepted request with readings of these hours."""
    post_to_stream(
        METER, fleet, [meter_reading(timestamp=at(n), kwhConsumedAc=kwh) for n in numbers]
    )


def flush_meters(consumer: str = "test") -> None:
    flush.flush(METER, consumer)


def tally() -> tuple[int, ...]:
    """(requests, readings, inserted, duplicates, conflicts, dead) that are settled."""
    (row,) = rows("SELECT * FROM stream_tally WHERE kind = 'meter'")
    names = ("entries", "readings", "inserted", "duplicates", "conflicts", "dead")
    return tuple(row[name] for name in names)


def differences() -> Differences:
    return watch.check(METER, at(1))


def well() -> bool:
    return differences() == WELL


def receipts() -> int:
    return len(rows("SELECT * FROM flush_receipts"))


def raising(error: type[BaseException]) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


# --- what is counted ------------------------------------------------------------------------------


def test_every_outcome_is_counted_once(fleet: int) -> None:
    post(fleet, 1, 2, 3)
    post(fleet, 3, 4, kwh=1.0)  # one known already
    post(fleet, 4, 5, kwh=2.0)  # one that contradicts
    post_to_stream(METER, 999, [meter_reading(), meter_reading()])  # no such fleet
    stream.client().xadd(KEY, {"v": "9", "f": "1", "n": "7", "b": "?"})  # no such format
    assert well()
    flush_meters()
    # 3 + 2 + 2 + 2 + 1 readings in five requests; the stranger counts as one.
    assert tally() == (5, 10, 5, 1, 1, 3)
    assert len(rows("SELECT * FROM dead_letters")) == 3
    assert well()


def test_an_unreadable_body_counts_as_many_as_the_door_counted(fleet: int) -> None:
    stream.append(METER, fleet, 4, b"[nonsense")
    flush_meters()
    assert tally() == (1, 4, 0, 0, 0, 4)
    assert len(rows("SELECT * FROM dead_letters")) == 1
    assert well()


def test_what_waits_is_not_missing(fleet: int) -> None:
    post(fleet, 1)
    assert well()
    stream.ensure_group(METER)
    stream.claim(METER, "somebody", 10)
    assert well()
    assert tally() == (0, 0, 0, 0, 0, 0)


def test_kinds_are_counted_apart(fleet: int) -> None:
    post(fleet, 1)
    post_to_stream(VEHICLE, fleet, [vehicle_reading(), vehicle_reading(timestamp=at(1))])
    factories.flush_all()
    found = rows("SELECT kind, entries, readings FROM stream_tally ORDER BY kind")
    assert [tuple(row.values()) for row in found] == [("meter", 1, 1), ("vehicle", 1, 2)]
    assert watch.check(METER, at(1)) == watch.check(VEHICLE, at(1)) == WELL


def test_counting_begins_with_whatever_there_is(fleet: int) -> None:
    post(fleet, 1)
    flush_meters()
    post(fleet, 2)
    execute("TRUNCATE stream_tally, flush_receipts")  # as in a release before this one
    assert well()
    flush_meters()
    assert tally() == (1, 1, 1, 0, 0, 0)
    assert well()


# --- once, whoever dies when ----------------------------------------------------------------------


def test_a_request_that_comes_again_is_counted_once(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(fleet, 1, 2)
    with monkeypatch.context() as crash:
        crash.setattr(stream, "remove", raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            flush_meters()
    assert stream.waiting(METER) == 1
    assert well(), "settled, and still in the stream"
    post(fleet, 3)
    flush_meters()
    assert stream.waiting(METER) == 0
    assert tally() == (2, 3, 3, 0, 0, 0)
    assert well()


def test_a_request_that_another_takes_over_is_counted_once(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        post(fleet, number)
    with monkeypatch.context() as crash:
        crash.setattr(stream, "remove", raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            flush_meters("dead")
    monkeypatch.setattr(stream, "CLAIM_IDLE_MS", 0)
    monkeypatch.setattr(stream, "claim", _two_at_a_time(stream.claim))
    flush_meters("alive")
    assert tally() == (5, 5, 5, 0, 0, 0)
    assert well()


def _two_at_a_time(claim: Callable[..., Any]) -> Callable[..., Any]:
    return lambda kind, consumer, _: claim(kind, consumer, 2)


def test_two_workers_at_one_request_at_the_same_moment_count_it_once(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow one of the two finds the other's receipt only after waiting for its COMMIT."""
    post(fleet, 1, 2)
    post(fleet, 3)
    stream.ensure_group(METER)
    entries = stream.claim(METER, "slow", 10)
    both_have_stored = threading.Barrier(2, timeout=20)
    met = threading.local()

    def wait_for_the_other(*_: Any) -> Stored:
        if not getattr(met, "once", False):
            met.once = True
            both_have_stored.wait()
        return NOTHING

    # The same readings would make one wait for the other's rows before both are that far: the
    # second stores nothing, as it would once the first has committed.
    monkeypatch.setattr(writes, "store", wait_for_the_other)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: flush._move(METER, entries), range(2)))
    (row,) = rows("SELECT entries, readings FROM stream_tally WHERE kind = 'meter'")
    assert row == {"entries": 2, "readings": 3}
    assert stream.waiting(METER) == 0


@pytest.mark.parametrize("when", [When.BEFORE, When.AFTER])
def test_whichever_call_of_a_flush_fails_the_count_is_right(
    fleet: int, monkeypatch: pytest.MonkeyPatch, when: When
) -> None:
    """Every call to PostgreSQL and Redis in turn, until a run gets by without failing one."""
    for fail_at in range(1, 200):
        post(fleet, fail_at, fail_at)  # the second is a duplicate
        with monkeypatch.context() as patched:
            faults = Failpoints(patched, fail_at, when, fail)
            with suppress(Exception):  # whatever the fault is raised as
                flush_meters()
        flush_meters()
        assert tally() == (fail_at, 2 * fail_at, fail_at, fail_at, 0, 0), fail_at
        assert well(), fail_at
        if not faults.struck:
            return
    raise AssertionError("no run got by without a fault")


def test_receipts_do_not_pile_up(fleet: int) -> None:
    for number in range(10):
        post(fleet, number)
        flush_meters()
        assert receipts() == 1, "the last one's, until the next"
    assert well()
    assert receipts() == 0


def test_a_receipt_stays_while_its_request_is_in_the_stream(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(fleet, 1)
    with monkeypatch.context() as crash:
        crash.setattr(stream, "remove", raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            flush_meters()
    assert well()
    assert receipts() == 1


# --- a difference ---------------------------------------------------------------------------------


def test_a_request_removed_by_hand_is_missing(fleet: int) -> None:
    post(fleet, 1)
    post(fleet, 2)
    stream.client().xtrim(KEY, maxlen=1, approximate=False)
    assert differences() == Differences(requests=1, forgotten=0, readings=0, dead_letters=0)
    flush_meters()
    assert differences().requests == 1


def test_a_stream_thrown_away_is_noticed(fleet: int) -> None:
    for number in range(3):
        post(fleet, number)
    flush_meters()
    post(fleet, 4)
    assert well()
    stream.client().flushall()
    found = differences()
    assert found.forgotten == 4
    assert found.requests == -3, "stored, and by the server's count never removed"


def test_a_server_that_went_back_in_time_is_noticed(fleet: int) -> None:
    for number in range(3):
        post(fleet, number)
    assert well()
    # As after a crash under `appendfsync everysec`: the last second is not in the file.
    first = stream.client().xrange(KEY, count=1)[0]
    stream.client().delete(KEY)
    stream.client().xadd(KEY, first[1], id=first[0])
    assert differences() == Differences(requests=0, forgotten=2, readings=0, dead_letters=0)


def test_a_request_that_holds_less_than_it_says_is_a_difference(fleet: int) -> None:
    stream.append(METER, fleet, 3, b"[]")
    flush_meters()
    assert differences().readings == 3


def test_a_dead_letter_deleted_by_hand_is_missing(fleet: int) -> None:
    stream.append(METER, 999, 1, b"[]")
    post_to_stream(METER, 999, [meter_reading()])
    execute("UPDATE stream_tally SET readings_written_off = 1 WHERE kind = 'meter'")
    flush_meters()
    assert well()
    execute("DELETE FROM dead_letters")
    assert differences() == Differences(requests=0, forgotten=0, readings=0, dead_letters=1)


def test_a_difference_is_an_alarm_until_it_is_written_off(fleet: int) -> None:
    post(fleet, 1)
    flush_meters()
    assert well()
    stream.client().flushall()
    told = watch.check_conservation()
    assert told["meter"] == {"requests": -1, "forgotten": 1, "readings": 0, "dead_letters": 0}
    assert told["vehicle"] == {"requests": 0, "forgotten": 0, "readings": 0, "dead_letters": 0}
    assert counted("energy_conservation_difference", kind="meter", law="forgotten") == 1
    assert counted("energy_conservation_difference", kind="meter", law="requests") == -1
    (row,) = rows("SELECT * FROM stream_tally WHERE kind = 'meter'")
    assert (row["requests_lost"], row["requests_forgotten"]) == (-1, 1)
    watch.write_off(METER, "FLUSHALL by mistake")
    assert well()
    (line,) = rows("SELECT kind, decision, subject, reason FROM operator_decisions")
    assert line == {
        "kind": "meter",
        "decision": "written off",
        "subject": "requests -1, forgotten 1, readings 0, dead letters 0",
        "reason": "FLUSHALL by mistake",
    }
    assert watch.check_conservation()["meter"]["forgotten"] == 0
    assert counted("energy_conservation_difference", kind="meter", law="forgotten") == 0
    post(fleet, 2)
    flush_meters()
    assert well()


def test_a_look_in_the_middle_of_everything_finds_nothing(fleet: int) -> None:
    """Four writers, two workers, and somebody who looks all the time."""
    stop = threading.Event()
    looked: list[Differences] = []

    def until_stopped(act: Callable[[], Any]) -> None:
        while not stop.is_set():
            act()

    def write(writer: int) -> None:
        for number in range(40):
            time.sleep(0.005)  # there must be something to look at
            hour = at(number % 30)
            post_to_stream(METER, fleet, [meter_reading(meterId=f"m{writer}", timestamp=hour)])

    with ThreadPoolExecutor(7) as pool:
        others = [
            pool.submit(until_stopped, lambda: flush_meters("a")),
            pool.submit(until_stopped, lambda: flush_meters("b")),
            pool.submit(until_stopped, lambda: looked.append(differences())),
        ]
        try:
            list(pool.map(write, range(4)))
        finally:
            stop.set()
        for other in others:
            other.result()
    flush_meters("a")
    flush_meters("b")
    assert set(looked) == {WELL}
    assert len(looked) > 5
    assert well()
    # 40 requests of each writer, of which 10 are of an hour it has sent already.
    assert tally() == (160, 160, 120, 40, 0, 0)


def test_a_stream_that_never_stands_still_is_not_judged(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter(range(1000))
    monkeypatch.setattr(stream, "census", lambda _: stream.Census(next(counts), 0))
    with pytest.raises(watch.Restless):
        differences()


# --- any order ------------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Posts, flushes, deaths and looks in any order: the count is right after each."""

    def __init__(self) -> None:
        super().__init__()
        factories.empty_servers()
        self.fleet = factories.make_fleet("Northern depot")
        self.requests = 0
        assert well()

    @rule(hours=st.lists(st.integers(0, 9), min_size=1, max_size=4))
    def post(self, hours: list[int]) -> None:
        post(self.fleet, *hours)
        self.requests += 1

    @rule()
    def post_for_nobody(self) -> None:
        post_to_stream(METER, 999, [meter_reading()])
        self.requests += 1

    @rule(consumer=st.sampled_from("ab"))
    def flush(self, consumer: str) -> None:
        flush_meters(consumer)

    @rule(consumer=st.sampled_from("ab"), place=st.sampled_from(["before", "commit", "xdel"]))
    def die(self, consumer: str, place: str) -> None:
        """A flush that dies before its COMMIT, after it, or after XDEL."""
        with pytest.MonkeyPatch.context() as crash:
            if place == "before":
                crash.setattr(conservation, "settle", raising(KeyboardInterrupt))
            elif place == "commit":
                crash.setattr(stream, "remove", raising(KeyboardInterrupt))
            else:
                crash.setattr(stream, "_forget", self._half)
            try:
                flush_meters(consumer)
            except KeyboardInterrupt:
                flush._spent_receipts.clear()  # a process's memory dies with it

    @staticmethod
    def _half(_: Any, ids: list[str]) -> None:
        stream.client().xdel(KEY, *ids)
        raise KeyboardInterrupt

    @rule()
    def adopt(self) -> None:
        with pytest.MonkeyPatch.context() as old:
            old.setattr(stream, "CLAIM_IDLE_MS", 0)
            flush_meters("c")

    @invariant()
    def all_is_accounted_for(self) -> None:
        assert well()
        settled = tally()
        assert settled[1] == sum(settled[2:])
        with transaction() as conn:
            on_receipts = {i for ids in conservation.receipts(conn, "meter").values() for i in ids}
        unsettled = stream.waiting(METER) - len(stream.present(METER, sorted(on_receipts)))
        assert settled[0] + unsettled == self.requests


def test_whatever_happens_in_whatever_order_all_is_accounted_for(servers: dict[str, str]) -> None:
    run_state_machine_as_test(
        Machine, settings=hypothesis_settings(max_examples=25, stateful_step_count=20)
    )
