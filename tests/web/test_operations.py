"""`flask --app web deadletters` and `stream`: what got stuck is seen, and sent on or given up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from models import packed
from models.kinds import METER, VEHICLE
from models.packed import MIN_READINGS, Sent
from tests.factories import (
    at,
    execute,
    flush_all,
    make_fleet,
    meter_reading,
    post_to_stream,
    rows,
)
from tests.web.calls import encoded
from web import operations
from workers import conservation, entries, stream
from workers.compression import compress
from workers.stream import StreamUnavailable

KEY = "energy:{meter}"


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=[*arguments])


def bury(raw: bytes, *, fleet: int | None, reason: str = "UNSTORABLE", kind: str = "meter") -> int:
    """A dead letter, as the flush would have left it."""
    number = len(rows("SELECT * FROM dead_letters")) + 1
    execute(
        "INSERT INTO dead_letters (kind, entry_id, position, fleet_id, raw, reason, detail)"
        " VALUES (:kind, :entry, 0, :fleet, :raw, :reason, 'why')",
        kind=kind,
        entry=f"{number}-0",
        fleet=fleet,
        raw=raw,
        reason=reason,
    )
    execute(
        "INSERT INTO stream_tally AS t (kind, dead_letters) VALUES (:kind, 1)"
        " ON CONFLICT (kind) DO UPDATE SET dead_letters = t.dead_letters + 1",
        kind=kind,
    )
    (row,) = rows("SELECT max(id) AS id FROM dead_letters")
    return int(row["id"])


def letters() -> list[int]:
    return [row["id"] for row in rows("SELECT id FROM dead_letters ORDER BY id")]


def decisions() -> list[dict[str, Any]]:
    return rows("SELECT kind, decision, subject, reason FROM operator_decisions ORDER BY id")


def all_accounted_for() -> bool:
    return not any(conservation.check(kind, at(1)) for kind in (METER, VEHICLE))


# --- deadletters list -----------------------------------------------------------------------------


def test_letters_are_listed_with_their_reason_and_bytes(app: Flask) -> None:
    fleet = make_fleet("A")
    bury(b'{"meterId":"m1"}', fleet=fleet)
    bury(b"\xff\x00\n" * 500, fleet=None, reason="UNREADABLE", kind="vehicle")
    result = run(app, "deadletters", "list")
    assert result.exit_code == 0
    heading, one, two = result.stdout.splitlines()
    assert heading.split() == ["ID", "KIND", "FLEET", "REASON", "SINCE", "DETAIL", "|", "BYTES"]
    assert one.split()[:4] == ["1", "meter", str(fleet), "UNSTORABLE"]
    assert one.endswith('why | {"meterId":"m1"}')
    assert two.split()[:4] == ["2", "vehicle", "-", "UNREADABLE"]
    assert len(two) < 200


def test_letters_can_be_chosen_from(app: Flask) -> None:
    for kind, reason in (("meter", "A"), ("meter", "B"), ("vehicle", "A")):
        bury(b"{}", fleet=1, reason=reason, kind=kind)

    def shown(*arguments: str) -> list[str]:
        lines = run(app, "deadletters", "list", *arguments).stdout.splitlines()[1:]
        return [line.split()[0] for line in lines]

    assert shown() == ["1", "2", "3"]
    assert shown("--kind", "meter") == ["1", "2"]
    assert shown("--code", "A") == ["1", "3"]
    assert shown("--code", "A", "--kind", "vehicle") == ["3"]
    assert shown("--limit", "2") == ["1", "2"]
    assert "--limit 2" in run(app, "deadletters", "list", "--limit", "2").stderr


# --- deadletters replay ---------------------------------------------------------------------------


def test_what_was_mended_is_stored_by_a_replay(app: Flask) -> None:
    """From the flush's own letter to history, and accounted for all the way."""
    assert all_accounted_for()
    stream.append(METER, 1, 1, encoded([meter_reading()]))
    flush_all()
    assert [row["reason"] for row in rows("SELECT reason FROM dead_letters")] == ["UNKNOWN_FLEET"]
    assert make_fleet("came back from a backup") == 1
    result = run(app, "deadletters", "replay", "--all")
    assert result.exit_code == 0
    assert result.stdout == "Replayed 1 letters with 1 readings; 0 stay.\n"
    assert letters() == []
    assert stream.waiting(METER) == 1
    assert all_accounted_for()
    flush_all()
    (stored,) = rows("SELECT recorded_at, kwh_consumed_ac FROM meter_telemetry_history")
    assert stored == {"recorded_at": at(12), "kwh_consumed_ac": 100.5}
    assert all_accounted_for()
    (line,) = decisions()
    assert (line["kind"], line["decision"]) == ("meter", "replayed")
    assert "fleet 1, UNKNOWN_FLEET" in line["subject"]
    assert line["reason"] == "1 readings back on the stream"


def test_a_whole_request_can_be_replayed(app: Flask) -> None:
    fleet = make_fleet("A")
    bury(encoded([meter_reading(), meter_reading(timestamp=at(1))]), fleet=fleet)
    assert "1 letters with 2 readings" in run(app, "deadletters", "replay", "1").stdout
    (entry,) = stream.client().xrange(KEY)
    assert entry[1][b"n"] == b"2"
    assert len(json.loads(entry[1][b"b"])) == 2


def test_an_entry_that_was_not_understood_can_be_replayed_by_who_understands_it(
    app: Flask,
) -> None:
    """A flush of the release before has met a compressed entry: it does not even know the fleet."""
    fleet = make_fleet("A")
    many = [meter_reading(meterId=f"meter-{n}") for n in range(100)]
    stream.append(METER, fleet, len(many), encoded(many))
    ((_, fields),) = stream.client().xrange(KEY)
    assert fields[b"v"] == stream.COMPRESSED
    stream.client().delete(KEY)
    raw = b" ".join(name + b"=" + value for name, value in fields.items())
    bury(raw, fleet=None, reason="UNREADABLE")
    assert "1 letters with 100 readings" in run(app, "deadletters", "replay", "1").stdout
    flush_all()
    assert len(rows("SELECT FROM meter_telemetry_history")) == len(many)


@pytest.mark.parametrize("fleet_is_known", [True, False])
def test_an_entry_by_columns_that_was_not_understood_can_be_replayed(
    app: Flask, fleet_is_known: bool
) -> None:
    fleet = make_fleet("A")
    many = [meter_reading(meterId=f"meter-{n}") for n in range(100)]
    verdict = operations._verdict(METER, encoded(many))
    stream.append(METER, fleet, len(many), verdict.body)
    ((_, fields),) = stream.client().xrange(KEY)
    assert fields[b"v"] == stream.COLUMNS
    stream.client().delete(KEY)
    raw = b" ".join(name + b"=" + value for name, value in fields.items())
    bury(raw, fleet=fleet if fleet_is_known else None, reason="KILLER_ENTRY")
    assert "1 letters with 100 readings" in run(app, "deadletters", "replay", "1").stdout
    flush_all()
    assert len(rows("SELECT FROM meter_telemetry_history")) == len(many)


def test_columns_that_cannot_be_unpacked_stay(app: Flask) -> None:
    raw = b"v=3 f=1 n=40 c=" + compress(b"no columns")
    letter = bury(raw, fleet=None, reason="UNREADABLE")
    told = run(app, "deadletters", "replay", str(letter)).stderr
    assert "stays, the door says UNREADABLE" in told
    assert letters() == [letter]


def test_columns_of_another_release_are_kept_for_it(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that knows another number of measures buries what a later one can bring back."""

    def unknown(*_: Any) -> Sent:
        raise ValueError("readings of 3 values")

    many = [meter_reading(meterId=f"meter-{n}") for n in range(MIN_READINGS)]
    post_to_stream(METER, make_fleet("A"), many)
    with monkeypatch.context() as release:
        release.setattr(packed, "unpack", unknown)
        release.setattr(entries, "unpack", unknown)
        assert flush_all()["meter"]["dead"] == 1
    told = run(app, "deadletters", "replay", "1").stdout
    assert f"1 letters with {MIN_READINGS} readings" in told
    assert flush_all()["meter"]["inserted"] == len(many)


@pytest.mark.parametrize(
    ("raw", "fleet", "told"),
    [
        (b"nonsense", 1, "MALFORMED_JSON"),
        (b"\xff", 1, "NOT_UTF8"),
        (encoded(meter_reading(voltage=-5)), 1, "OUT_OF_RANGE"),
        (encoded(meter_reading(timestamp=at(24 * 100_000))), 1, "TS_IN_FUTURE"),
        (encoded([meter_reading(), meter_reading(voltage="x")]), 1, "NOT_A_NUMBER"),
        (encoded(meter_reading()), None, "UNKNOWN_FLEET"),
    ],
)
def test_what_the_door_refuses_today_stays(
    app: Flask, raw: bytes, fleet: int | None, told: str
) -> None:
    letter = bury(raw, fleet=fleet)
    good = bury(encoded(meter_reading()), fleet=1)
    result = run(app, "deadletters", "replay", str(letter), str(good))
    assert result.exit_code == 1
    assert f"{letter}: stays, the door says {told}" in result.stderr
    assert result.stdout == "Replayed 1 letters with 1 readings; 1 stay.\n"
    assert letters() == [letter]
    assert stream.waiting(METER) == 1


def test_a_letter_stays_until_the_stream_has_confirmed(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = bury(encoded(meter_reading()), fleet=1)

    def away(*_: Any) -> bool:
        raise StreamUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(stream, "append", away)
        result = run(app, "deadletters", "replay", str(letter))
    assert isinstance(result.exception, StreamUnavailable)
    assert letters() == [letter]
    assert decisions() == []
    assert run(app, "deadletters", "replay", str(letter)).exit_code == 0
    assert letters() == []


def test_a_letter_is_replayed_once(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another operator was faster, between this one's look and its hand."""
    letter = bury(encoded(meter_reading()), fleet=1)
    judge = operations.judge

    def meanwhile(*arguments: Any) -> Any:
        execute("DELETE FROM dead_letters")
        return judge(*arguments)

    monkeypatch.setattr(operations, "judge", meanwhile)
    run(app, "deadletters", "replay", str(letter))
    assert stream.waiting(METER) == 0
    assert decisions() == []


def test_more_letters_than_a_page_are_all_taken(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "PAGE", 2)
    for hour in range(5):
        bury(encoded(meter_reading(timestamp=at(hour))), fleet=1)
    assert "Replayed 5 letters" in run(app, "deadletters", "replay", "--all").stdout
    assert letters() == []


# --- deadletters discard --------------------------------------------------------------------------


def test_a_discarded_letter_leaves_an_audit_line(app: Flask) -> None:
    assert all_accounted_for()
    first, second = bury(b"x", fleet=7, reason="UNREADABLE"), bury(b"y", fleet=7)
    result = run(app, "deadletters", "discard", str(first), "--reason", "a test device's")
    assert (result.exit_code, result.stdout) == (0, "Discarded 1 letters.\n")
    assert letters() == [second]
    assert decisions() == [
        {
            "kind": "meter",
            "decision": "discarded",
            "subject": f"dead letter {first}: entry 1-0, position 0, fleet 7, UNREADABLE",
            "reason": "a test device's",
        }
    ]
    assert all_accounted_for()
    assert run(app, "deadletters", "discard", "--all", "--reason", "x").exit_code == 0
    assert letters() == []
    assert all_accounted_for()


@pytest.mark.parametrize("arguments", [[], ["--reason", ""], ["--reason", "  "]])
def test_nothing_is_discarded_without_a_reason(app: Flask, arguments: list[str]) -> None:
    letter = bury(b"x", fleet=1)
    assert run(app, "deadletters", "discard", str(letter), *arguments).exit_code == 2
    assert letters() == [letter]


@pytest.mark.parametrize("command", [["replay"], ["discard", "--reason", "x"]])
def test_all_must_be_said(app: Flask, command: list[str]) -> None:
    bury(b"x", fleet=1)
    assert run(app, "deadletters", *command).exit_code == 2
    assert run(app, "deadletters", *command, "--kind", "meter").exit_code == 2
    assert run(app, "deadletters", *command, "1", "--all").exit_code == 2
    assert letters() == [1]


# --- stream ---------------------------------------------------------------------------------------


def test_what_waits_can_be_looked_at_whatever_its_form(app: Flask) -> None:
    one = [meter_reading()]
    many = [meter_reading(meterId=f"meter-{n}") for n in range(MIN_READINGS)]
    post_to_stream(METER, 7, one)
    post_to_stream(METER, 7, many)
    stream.client().xadd(KEY, {"v": "9"})
    stream.client().xadd(KEY, {"v": "3", "f": "7", "n": "1", "c": compress(b"no columns")})
    result = run(app, "stream", "show", "meter", "--count", "5")
    first, second, third, fourth = result.stdout.splitlines()
    assert json.loads(first) == json.loads(encoded(one))
    assert [reading["meterId"] for reading in json.loads(second)] == [r["meterId"] for r in many]
    assert third == "b'v=9'"
    assert fourth.startswith("b'v=3 f=7 n=1 c=")
    assert f"fleet 7, {MIN_READINGS} readings" in result.stderr
    assert "fleet ?, 1 readings" in result.stderr
    assert stream.waiting(METER) == 4
    assert len(run(app, "stream", "show", "meter").stdout.splitlines()) == 1


def test_a_healthy_stream_has_nothing_to_tell(app: Flask) -> None:
    assert run(app, "stream", "audit").exit_code == 0  # not even made yet
    stream.ensure_group(METER)
    for _ in range(3):
        stream.append(METER, 1, 1, b"[]")
    stream.claim(METER, "busy", 2)
    result = run(app, "stream", "audit")
    assert result.exit_code == 0
    assert result.stdout == (
        "meter: 3 requests taken, 3 there, 0 orphaned\n"
        "vehicle: 0 requests taken, 0 there, 0 orphaned\n"
    )


def test_entries_that_a_deleted_consumer_took_with_it_are_found_and_rescued(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "AUDIT_PAGE", 2)
    fleet = make_fleet("A")
    for hour in range(7):
        stream.append(METER, fleet, 1, encoded([meter_reading(timestamp=at(hour))]))
    stream.ensure_group(METER)
    stream.claim(METER, "kept", 1)
    lost = [entry.id for entry in stream.claim(METER, "deleted", 5)]
    stream.client().xgroup_delconsumer(KEY, stream.GROUP, "deleted")
    assert stream.audit(METER).orphans == lost
    result = run(app, "stream", "audit")
    assert result.exit_code == 1
    assert "7 there, 5 orphaned" in result.stdout
    assert f"first {lost[0]}, last {lost[-1]}" in result.stdout
    result = run(app, "stream", "audit", "--rescue")
    assert result.exit_code == 0
    assert "5 given back to the flush" in result.stdout
    assert stream.audit(METER).orphans == []
    monkeypatch.setattr(stream, "CLAIM_IDLE_MS", 0)  # "kept" is given up as well
    flush_all()
    assert len(rows("SELECT * FROM meter_telemetry_history")) == 7
    assert stream.waiting(METER) == 0


def test_rescued_entries_are_flushed_at_once(app: Flask) -> None:
    fleet = make_fleet("A")
    stream.append(METER, fleet, 1, encoded([meter_reading()]))
    stream.ensure_group(METER)
    stream.claim(METER, "deleted", 5)
    stream.client().xgroup_delconsumer(KEY, stream.GROUP, "deleted")
    run(app, "stream", "audit", "--rescue")
    flush_all()
    assert len(rows("SELECT * FROM meter_telemetry_history")) == 1


def test_a_silent_consumer_is_named(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    stream.ensure_group(METER)
    stream.append(METER, 1, 1, b"[]")
    stream.claim(METER, "flush@host/3", 5)
    monkeypatch.setattr(stream, "SILENT_MS", -1)
    result = run(app, "stream", "audit")
    assert result.exit_code == 1
    assert "flush@host/3 holds 1 and is silent" in result.stdout


def test_keys_that_are_none_of_ours_are_named(app: Flask) -> None:
    stream.append(METER, 1, 1, b"[]")  # and its bell
    stream.client().xadd("energy:{metre}", {"v": "1"})
    stream.client().set("somebody", "else")
    result = run(app, "stream", "audit")
    assert result.exit_code == 1
    assert [line for line in result.stdout.splitlines() if line.startswith("unknown")] == [
        "unknown key: energy:{metre}",
        "unknown key: somebody",
    ]


def test_a_loss_is_told_and_can_be_written_off(app: Flask) -> None:
    fleet = make_fleet("A")
    assert run(app, "stream", "conservation").stdout == (
        "meter: all accounted for\nvehicle: all accounted for\n"
    )
    stream.append(METER, fleet, 1, encoded([meter_reading()]))
    stream.client().xtrim(KEY, maxlen=0, approximate=False)
    result = run(app, "stream", "conservation")
    assert result.exit_code == 1
    assert "meter: requests +1, forgotten +0, readings +0, dead letters +0" in result.stdout
    assert run(app, "stream", "write-off", "--kind", "meter").exit_code == 2
    assert run(app, "stream", "write-off", "--kind", "meter", "--reason", " ").exit_code == 2
    written = run(app, "stream", "write-off", "--kind", "meter", "--reason", "XTRIM by hand")
    assert written.stdout.startswith("Written off: requests +1")
    assert run(app, "stream", "conservation").exit_code == 0
    assert [line["reason"] for line in decisions()] == ["XTRIM by hand"]
