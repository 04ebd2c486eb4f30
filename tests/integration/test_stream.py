"""The stream keeps what it accepted until it is told that it is stored."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator

import pytest

import settings
from models.kinds import METER, VEHICLE
from models.packed import Packed
from stack import valkey
from workers import stream
from workers.compression import COMPRESS_BYTES, compress, decompress
from workers.stream import StreamUnavailable

KEY, BELL = "energy:{meter}", "energy:{meter}:bell"


@pytest.fixture(autouse=True)
def _groups(servers: dict[str, str]) -> None:
    stream.ensure_group(METER)
    stream.ensure_group(VEHICLE)


def add(*bodies: bytes) -> None:
    for body in bodies:
        stream.append(METER, 7, 1, body)


def bodies(entries: list[stream.Entry]) -> list[bytes | None]:
    return [entry.body for entry in entries]


def pending() -> int:
    return int(stream.client().xpending(KEY, stream.GROUP)["pending"])


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test name another stream server; its connections are closed at the end."""
    yield monkeypatch
    stream.client().connection_pool.disconnect()


def use(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("STREAM_URL", url)
    settings.load.cache_clear()


# --- append ---------------------------------------------------------------------------------------


def test_what_was_added_is_claimed_as_it_was() -> None:
    before = stream.now_us()
    stream.append(METER, 7, 2, b"[1, 2]")
    (entry,) = stream.claim(METER, "a", 10)
    assert (entry.fleet_id, entry.body) == (7, b"[1, 2]")
    assert before - 1000 < entry.received_us <= stream.now_us()  # an id counts milliseconds
    assert stream.oldest_us(METER) == entry.received_us


def test_each_kind_has_a_stream_of_its_own() -> None:
    stream.append(METER, 7, 1, b"[1]")
    assert stream.claim(VEHICLE, "a", 10) == []
    assert (stream.waiting(METER), stream.waiting(VEHICLE)) == (1, 0)
    assert stream.oldest_us(VEHICLE) is None


def test_one_request_of_many_rings_the_bell() -> None:
    assert [stream.append(METER, 7, 1, b"[]") for _ in range(3)] == [True, False, False]
    assert stream.append(VEHICLE, 7, 1, b"[]") is True  # another bell
    stream.silence_bell(METER)
    assert stream.append(METER, 7, 1, b"[]") is True


def test_a_bell_nobody_answered_is_forgotten() -> None:
    stream.append(METER, 7, 1, b"[]")
    assert 0 < stream.client().pttl(BELL) <= stream.BELL_MS


def test_a_lost_connection_is_not_used_again(elsewhere: pytest.MonkeyPatch) -> None:
    """A late answer to an old question would be taken for a promise."""
    assert stream.append(METER, 7, 1, b"[1]") is True
    elsewhere.setattr(stream, "_reply", lambda _: (_ for _ in ()).throw(OSError("cut")))
    with pytest.raises(StreamUnavailable, match="cut"):
        stream.append(METER, 7, 1, b"[2]")
    elsewhere.undo()
    assert stream.append(METER, 7, 1, b"[3]") is False
    # May or may not be stored.
    assert bodies(stream.claim(METER, "a", 10)) == [b"[1]", b"[2]", b"[3]"]


# --- claim and remove -----------------------------------------------------------------------------


def test_entries_come_in_the_order_of_acceptance_and_no_more_than_asked_for() -> None:
    add(b"1", b"2", b"3")
    assert bodies(stream.claim(METER, "a", 2)) == [b"1", b"2"]
    assert bodies(stream.claim(METER, "b", 2)) == [b"3"]


def test_a_consumer_that_is_back_finds_its_unfinished_entries_first() -> None:
    add(b"1", b"2")
    stream.claim(METER, "a", 2)
    add(b"3")
    assert bodies(stream.claim(METER, "a", 10)) == [b"1", b"2"]
    assert bodies(stream.claim(METER, "a", 10)) == [b"1", b"2"]


def test_entries_of_a_consumer_at_work_are_left_to_it() -> None:
    add(b"1")
    stream.claim(METER, "a", 1)
    assert stream.claim(METER, "b", 1) == []


def test_entries_of_a_dead_consumer_are_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    add(b"1", b"2")
    stream.claim(METER, "dead", 10)
    monkeypatch.setattr(stream, "CLAIM_IDLE_MS", 0)
    assert bodies(stream.claim(METER, "b", 10)) == [b"1", b"2"]


def test_what_was_removed_is_gone() -> None:
    add(b"1", b"2")
    one, _ = stream.claim(METER, "a", 10)
    stream.remove(METER, [one])
    assert (stream.waiting(METER), pending()) == (1, 1)
    assert bodies(stream.claim(METER, "a", 10)) == [b"2"]


@pytest.mark.parametrize("finder", ["a", "b"])
def test_an_entry_deleted_but_not_acknowledged_is_cleared_away(
    finder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Death between XDEL and XACK: the readings are stored, only the pending id is left."""
    add(b"1")
    (entry,) = stream.claim(METER, "a", 10)
    stream.client().xdel(KEY, entry.id)
    monkeypatch.setattr(stream, "CLAIM_IDLE_MS", 0)
    assert stream.claim(METER, finder, 10) == []
    assert pending() == 0


def test_an_entry_that_is_gone_is_cleared_from_between_others() -> None:
    add(b"1", b"2", b"3")
    entries = stream.claim(METER, "a", 10)
    stream.client().xdel(KEY, entries[1].id)
    assert bodies(stream.claim(METER, "a", 10)) == [b"1", b"3"]
    assert pending() == 2


def test_a_lost_group_starts_again_at_the_beginning() -> None:
    add(b"1", b"2")
    stream.claim(METER, "a", 1)
    stream.client().xgroup_destroy(KEY, stream.GROUP)
    stream.ensure_group(METER)
    assert bodies(stream.claim(METER, "a", 10)) == [b"1", b"2"]


def test_a_group_that_is_there_is_kept() -> None:
    add(b"1")
    stream.claim(METER, "a", 1)
    stream.ensure_group(METER)
    assert pending() == 1


@pytest.mark.parametrize(
    ("counted", "count"), [("500", 500), ("0", 0), ("", 1), ("many", 1), ("9" * 5000, 1)]
)
def test_a_count_that_is_no_number_counts_as_one(counted: str, count: int) -> None:
    stream.client().xadd(KEY, {"v": "1", "f": "7", "n": counted, "b": "[]"})
    (entry,) = stream.claim(METER, "a", 10)
    assert (entry.count, entry.body) == (count, b"[]")


def fields_of(entry: stream.Entry) -> dict[bytes, bytes]:
    ((_, fields),) = stream.client().xrange(KEY, entry.id, entry.id)
    return dict(fields)


def test_a_large_body_waits_compressed_and_comes_out_as_it_was() -> None:
    small, large = b"[%b]" % (b"1" * (COMPRESS_BYTES - 3)), b"[%b]" % (b"12" * COMPRESS_BYTES)
    add(small, large)
    plain, compressed = stream.claim(METER, "a", 10)
    assert bodies([plain, compressed]) == [small, large]
    assert fields_of(plain) == {b"v": b"1", b"f": b"7", b"n": b"1", b"b": small}
    assert set(fields_of(compressed)) == {b"v", b"f", b"n", b"z"}
    assert fields_of(compressed)[b"v"] == b"2"
    assert len(fields_of(compressed)[b"z"]) < len(large) / 10


def test_many_readings_wait_by_columns() -> None:
    add(b"[1]")
    stream.append(METER, 7, 40, Packed(b"columns " * 40))
    as_json, entry = stream.claim(METER, "a", 10)
    assert (entry.body, entry.count) == (b"columns " * 40, 40)
    assert [type(body) for body in bodies([as_json, entry])] == [bytes, Packed]
    fields = fields_of(entry)
    assert set(fields) == {b"v", b"f", b"n", b"c"}
    assert (fields[b"v"], decompress(fields[b"c"])) == (b"3", entry.body)
    found = stream.reread(entry.raw)  # whatever becomes of it
    assert found == (7, entry.body)
    assert isinstance(found[1], Packed)


def test_a_large_body_of_the_first_format_is_still_understood() -> None:
    """What a web of the release before has left, or somebody by hand."""
    large = b"[%b]" % (b"12" * COMPRESS_BYTES)
    stream.client().xadd(KEY, {"v": "1", "f": "7", "n": "1", "b": large})
    (entry,) = stream.claim(METER, "a", 10)
    assert entry.body == large


@pytest.mark.parametrize(("version", "name"), [("2", "z"), ("3", "c")])
@pytest.mark.parametrize("kept", [0, 10, 100])
def test_a_damaged_body_is_kept_with_all_its_bytes(version: str, name: str, kept: int) -> None:
    damaged = compress(bytes(range(256)) * 40)[:kept]
    stream.client().xadd(KEY, {"v": version, "f": "7", "n": "40", name: damaged})
    (entry,) = stream.claim(METER, "a", 10)
    assert (entry.fleet_id, entry.count, entry.body) == (7, 40, None)
    assert damaged in entry.raw
    assert stream.reread(entry.raw) is None


def test_what_was_kept_as_it_was_can_be_read_again() -> None:
    large = b"[%b]" % (b"12 \n" * COMPRESS_BYTES)
    add(b"[1, 2]", large)
    for (_, fields), body in zip(stream.client().xrange(KEY), [b"[1, 2]", large], strict=True):
        raw = b" ".join(name + b"=" + value for name, value in fields.items())
        assert stream.reread(raw) == (7, body)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"v=1 f=7 n=1",
        b"v=3 f=7 n=1 b=[]",
        b"v=3 f=7 n=1 c=[]",
        b"v=4 f=7 n=1 b=[]",
        b"v=1 f=7 n=1 z=[]",
        b"v=2 f=7 n=1 b=[]",
        b"v=2 f=7 n=1 z=[]",
        b"v=1 f=-7 n=1 b=[]",
        b"v=1 f=7 n=x b=[]",
        b" v=1 f=7 n=1 b=[]",
    ],
)
def test_anything_else_is_no_entry(raw: bytes) -> None:
    assert stream.reread(raw) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"x": "1"},
        {"v": "2", "f": "7", "b": "[]"},
        {"v": "1", "f": "7", "z": "[]"},
        {"v": "3", "f": "7", "b": "[]"},
        {"v": "4", "f": "7", "b": "[]"},
        {"f": "7", "b": "[]"},
        {"v": "1", "b": "[]"},
        {"v": "1", "f": "7"},
        {"v": "1", "f": "-7", "b": "[]"},
        {"v": "1", "f": "7.0", "b": "[]"},
        {"v": "1", "f": "1234567890", "b": "[]"},
        {"v": "1", "f": "\u0667", "b": "[]"},
        {"v": "1", "f": "", "b": "[]"},
    ],
)
def test_an_entry_of_another_format_has_no_body(fields: dict[str, str]) -> None:
    stream.client().xadd(KEY, fields)
    (entry,) = stream.claim(METER, "a", 10)
    assert (entry.fleet_id, entry.body) == (None, None)
    assert all(value.encode() in entry.raw for value in fields.values())


# --- trouble --------------------------------------------------------------------------------------


def test_a_server_that_is_gone_accepts_nothing(elsewhere: pytest.MonkeyPatch) -> None:
    with valkey.temporary() as url:
        use(elsewhere, url)
        add(b"1")
    with pytest.raises(StreamUnavailable):
        add(b"2")
    with pytest.raises(StreamUnavailable):
        stream.pressure([METER])


def test_a_server_that_does_not_answer_is_given_up_soon(elsewhere: pytest.MonkeyPatch) -> None:
    elsewhere.setattr(stream, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        use(elsewhere, f"redis://127.0.0.1:{deaf.getsockname()[1]}/0")
        begun = time.monotonic()
        with pytest.raises(StreamUnavailable):
            add(b"1")
    assert time.monotonic() - begun < 2


def test_a_full_server_refuses_drains_and_accepts_again(elsewhere: pytest.MonkeyPatch) -> None:
    body = secrets.token_bytes(100_000)  # compressed it is as large
    with valkey.temporary() as url:
        use(elsewhere, url)
        stream.ensure_group(METER)
        empty = int(stream.client().info("memory")["used_memory"])
        add(*[body] * 50)
        stream.client().config_set("maxmemory", empty + 1_000_000)
        with pytest.raises(StreamUnavailable):
            add(body)
        full = stream.pressure([METER, VEHICLE])
        assert full.entries == 50
        assert full.memory_percent > 100
        # Draining asks for no memory, so it works while nothing else does.
        stream.ensure_group(METER)
        stream.silence_bell(METER)
        drained = 0
        while entries := stream.claim(METER, "a", 4):
            stream.remove(METER, entries)
            drained += len(entries)
        assert drained == 50
        add(body)
        assert stream.waiting(METER) == 1


def test_a_server_that_was_full_before_any_worker_came_can_be_drained(
    elsewhere: pytest.MonkeyPatch,
) -> None:
    """The door makes the groups before it lets anything in: a full server would refuse to."""
    with valkey.temporary() as url:
        use(elsewhere, url)
        stream.prepare([METER, VEHICLE])
        add(b"1", b"2")
        stream.client().config_set("maxmemory", 1)
        stream.ensure_group(METER)
        entries = stream.claim(METER, "a", 10)
        assert bodies(entries) == [b"1", b"2"]
        stream.remove(METER, entries)
        assert stream.waiting(METER) == 0


def test_a_durable_server_keeps_the_promise() -> None:
    assert stream.unsafe_settings() == {}


@pytest.mark.parametrize(
    ("setting", "value", "name"),
    [
        ("appendonly", "no", "APPENDONLY_OFF"),
        ("appendfsync", "everysec", "APPENDFSYNC_NOT_ALWAYS"),
        ("maxmemory-policy", "allkeys-lru", "EVICTION_ON"),
    ],
)
def test_a_setting_that_breaks_the_promise_is_named(
    elsewhere: pytest.MonkeyPatch, setting: str, value: str, name: str
) -> None:
    with valkey.temporary(durable=True) as url:
        use(elsewhere, url)
        stream.client().config_set(setting, value)
        assert set(stream.unsafe_settings()) == {name}


def test_pressure_tells_how_much_waits() -> None:
    add(b"1", b"2")
    stream.append(VEHICLE, 7, 1, b"3")
    pressure = stream.pressure([METER, VEHICLE])
    assert pressure.entries == 3
    assert 0 < pressure.memory_percent < 50
    assert pressure.writable
