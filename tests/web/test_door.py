"""The fast way through the door and the law give the same verdict.

`accept_all` may only accept what `_judge_each` accepts, with equal readings; and what the law
accepts, the flush can read (it would be a dead letter otherwise, after a 202).
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from models import codec
from models.kinds import KINDS, METER, VEHICLE, Kind
from models.packed import Packed, as_json
from tests.factories import flush_all, meter_reading, rows, vehicle_reading
from tests.web.calls import BOTH, LAWFUL, NDJSON, Api, accepted, encoded, entries, ndjson
from web import door
from web.body import Shape
from web.door import Lawful, Verdict
from web.refusals import Refused
from workers import stream

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
LAW = Lawful.at(NOW, age_days=7300, future_seconds=600, readings=20)


def fast(kind: Kind, shape: Shape, body: bytes) -> Verdict | None:
    return door.accept_all(kind, shape, body, LAW)


def law(kind: Kind, shape: Shape, body: bytes) -> Verdict | None:
    """None for a body that is refused as a whole."""
    try:
        return door._judge_each(kind, shape, body, LAW)
    except Refused:
        return None


def canonical(kind: Kind, body: bytes, accepted: int) -> list[tuple[Any, ...]]:
    """What the flush will read."""
    readings = codec.decoder(kind).decode(body)
    assert len(readings) == accepted
    found = [codec.parts_of(kind)(reading) for reading in readings]
    return [(device, instant.astimezone(UTC), *values) for device, instant, *values in found]


def hold_equal(kind: Kind, shape: Shape, body: bytes) -> None:
    quick, slow = fast(kind, shape, body), law(kind, shape, body)
    if slow is not None:
        assert not isinstance(slow.body, Packed)
        read_back = canonical(kind, slow.body, slow.accepted)
    if quick is not None:
        assert slow is not None
        assert (quick.accepted, quick.rejected) == (slow.accepted, slow.rejected)
        assert slow.rejected == []
        assert canonical(kind, quick.body, quick.accepted) == read_back
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(door, "MIN_READINGS", 1)
            packed = fast(kind, shape, body)
        assert packed is not None
        assert isinstance(packed.body, Packed)
        assert canonical(kind, as_json(kind, packed.body), packed.accepted) == read_back


# --- bodies, lawful and nearly so -----------------------------------------------------------------

plain_numbers = st.floats(0, 100).map(repr) | st.integers(0, 100).map(str)
numbers = st.one_of(
    plain_numbers,
    st.sampled_from(
        [
            *("1e2", "-0", "-0.0", "1E+2", "100.0", "1.0000000000000001", "1e-400", "5e-324"),
            *("9007199254740993e-14", "0.1e1", "00", "1.", ".5", "+1", "1e400", "NaN", "-1"),
            *("true", "null", '"55"', "1_0", "9" * 400, "0." + "3" * 900, "1e00002", "0e9", "- 1"),
        ]
    ),
)
timestamps = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(
        ["2026-01-10", "2015-02-28", "2024-02-29", "2026-02-30", "0001-01-01", "9999-12-31"]
    ),
    st.sampled_from("TTTt _"),
    st.sampled_from(["10:00:00", "23:59:59", "00:00:00", "10:00:60", "24:00:00", "10:00", "1:0:0"]),
    st.one_of(st.just(""), st.text("0123456789", min_size=0, max_size=9).map(".{}".format)),
    st.sampled_from(
        [
            *("Z", "z", "+00:00", "-00:00", "+02:00", "-14:00", "+23:59", "+0200", "+02"),
            *("+01:60", "+24:00", "+99:99", "", " Z", "Z "),
        ]
    ),
)
plain_timestamps = st.builds(
    "2026-01-{:02}T{:02}:00:00{}{}".format,
    st.integers(1, 9),
    st.integers(0, 23),
    st.sampled_from(["", "", ".5", ".123456", ".1234567"]),
    st.sampled_from(["Z", "Z", "+02:00", "-09:30", "+0200"]),
)
plain_ids = st.sampled_from(["m", "meter-001", "a" * 64])
ids = st.sampled_from(["a" * 65, "", "a b", "\\u006d", "\\ud800", "é", "{", "}"])
plain_blanks = st.sampled_from(["", "", "", " ", "\t"])
blanks = st.sampled_from(["\n", "\r\n", "\x0b", "\u00a0", "\r", "\f"])


def mostly(plain: st.SearchStrategy[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """One in ten is odd, so that a body of a dozen values still has a chance to be lawful."""
    return st.integers(0, 9).flatmap(lambda n: odd if n == 9 else plain)


@st.composite
def objects(draw: st.DrawFn, kind: Kind) -> str:
    """A reading as text: its fields in any order and spelling, mostly each once."""
    fields = [(kind.id_field, draw(mostly(plain_ids, ids).map('"{}"'.format)))]
    fields += [("timestamp", draw(mostly(plain_timestamps, timestamps).map('"{}"'.format)))]
    fields += [(m.field, draw(mostly(plain_numbers, numbers))) for m in kind.measures]
    if draw(st.integers(0, 9)) == 0:
        name = draw(
            st.sampled_from([kind.id_field, "timestamp", "x", "\\u0074imestamp", "voltage"])
        )
        fields.append((name, draw(st.sampled_from(['"m"', "1", '"2026-01-10T10:00:00Z"', "{}"]))))
    if draw(st.integers(0, 9)) == 0:
        fields.pop(draw(st.integers(0, len(fields) - 1)))
    fields = draw(st.permutations(fields))
    space = mostly(plain_blanks, blanks)
    colon, comma = draw(space) + ":" + draw(space), draw(space) + "," + draw(space)
    return "{" + comma.join(f'"{name}"{colon}{value}' for name, value in fields) + "}"


@st.composite
def good_objects(draw: st.DrawFn, kind: Kind) -> str:
    """A lawful reading as text."""
    values = {m.field: draw(st.floats(0, 100)) for m in kind.measures}
    made = LAWFUL[kind.name](timestamp=NOW - timedelta(seconds=draw(st.integers(0, 9))), **values)
    return encoded(made).decode()


@st.composite
def bodies(draw: st.DrawFn) -> tuple[Kind, Shape, bytes]:
    """A body of either kind and shape; every fourth one is damaged at one place."""
    kind, shape = draw(st.sampled_from(BOTH)), draw(st.sampled_from(Shape))
    items = draw(st.lists(good_objects(kind) | objects(kind), min_size=1, max_size=3))
    ends = draw(mostly(plain_blanks, blanks)), draw(mostly(plain_blanks, blanks))
    if shape is Shape.NDJSON:
        lawful = st.sampled_from(["\n", "\n\n", "\r\n", "\n \n"])
        text = draw(mostly(lawful, st.sampled_from([" ", ",", "\r", "", ",\n", "\n,"]))).join(items)
    elif len(items) == 1 and draw(st.booleans()):
        text = items[0]
    else:
        comma = draw(mostly(st.sampled_from([",", ", ", " ,\n"]), st.sampled_from([",,", " "])))
        text = "[" + comma.join(items)
        text += draw(mostly(st.just("]"), st.sampled_from([",]", "]]", ""])))
    body = (ends[0] + text + ends[1]).encode()
    if draw(st.integers(0, 3)) == 0:
        body = damaged(body, draw(st.integers(0, len(body))), draw(st.sampled_from(DAMAGES)))
    return kind, shape, body


DAMAGES = [*b'"\\{}[],:.-+eEZ09 \n\r\t\0\xff', None]


def damaged(body: bytes, place: int, by: int | None) -> bytes:
    """One byte of the body missing, or another in its place."""
    return body[:place] + (b"" if by is None else bytes([by])) + body[place + 1 :]


M = encoded(meter_reading())
HALVES = b'{"meterId":"m","timestamp":"2026-01-10T10:00:00Z"', b'"kwhConsumedAc":1,"voltage":2}'


@settings(max_examples=600)
@given(bodies())
@example((METER, Shape.JSON, M + b"," + M))
@example((METER, Shape.JSON, M + b"],[" + M))
@example((METER, Shape.NDJSON, M + b" " + M))
@example((METER, Shape.NDJSON, M + M))
@example((METER, Shape.NDJSON, M + b"\r" + M))
@example((METER, Shape.NDJSON, M + b"," + M))
@example((METER, Shape.NDJSON, M + b"," + M + b"\n" + b"\n".join(HALVES)))
@example((METER, Shape.NDJSON, b"\n".join(HALVES)))
@example((METER, Shape.NDJSON, b"[" + M + b"]"))
@example((METER, Shape.NDJSON, M.replace(b",", b",\n")))
@example((METER, Shape.NDJSON, b"\x0b\n" + M))
@example((METER, Shape.NDJSON, b"\x0b" + M))
@example((METER, Shape.JSON, b"\xef\xbb\xbf" + M))
@example((METER, Shape.JSON, M + b"\0"))
@example((METER, Shape.JSON, M.replace(b"12:00:00Z", b"12:00:00.1234567Z")))
@example((METER, Shape.JSON, M.replace(b"12:00:00Z", b"12:00:00.0000000+0200")))
@example((METER, Shape.JSON, M.replace(b"12:00:00Z", b"12:00:00.123456\\u0037Z")))
@example((METER, Shape.JSON, M.replace(b"12:00:00Z", b"12:00:00+02\\u00300")))
@example((METER, Shape.JSON, M.replace(b"}", b',"voltage":230.1}')))
@example((METER, Shape.JSON, M.replace(b'"voltage"', b'"\\u0076oltage"')))
def test_whatever_is_accepted_fast_is_lawful_and_equal(
    sent: tuple[Kind, Shape, bytes],
) -> None:
    hold_equal(*sent)
    event("fast" if fast(*sent) else "not fast")


@settings(max_examples=300)
@given(st.sampled_from(BOTH), numbers, timestamps | plain_timestamps)
def test_every_spelling_of_a_value_means_the_same_both_ways(
    kind: Kind, number: str, timestamp: str
) -> None:
    made = LAWFUL[kind.name](timestamp=timestamp, **{kind.counter.field: "@"})
    body = encoded(made).replace(b'"@"', number.encode())
    hold_equal(kind, Shape.JSON, body)
    hold_equal(kind, Shape.NDJSON, body)


# --- the fast way is taken ------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.sampled_from(BOTH), st.data())
def test_plain_lawful_bodies_take_the_fast_way(kind: Kind, data: st.DataObject) -> None:
    items = data.draw(st.lists(good_objects(kind), min_size=1, max_size=5))
    spaced = [json.dumps(json.loads(item)) for item in items]
    for texts in (items, spaced):
        single, array = texts[0].encode(), ("[" + ", ".join(texts) + "]\n").encode()
        assert fast(kind, Shape.JSON, single)
        assert fast(kind, Shape.JSON, b" \n" + array)
        assert fast(kind, Shape.NDJSON, "\n".join(texts).encode())
        assert fast(kind, Shape.NDJSON, ("\r\n".join(texts) + "\r\n\r\n").encode())


@pytest.mark.parametrize("timestamp", ["2026-01-10T10:00:00.123456+01:00", "2026-01-10 10:00:00z"])
def test_common_spellings_of_an_instant_take_the_fast_way(timestamp: str) -> None:
    assert fast(METER, Shape.JSON, encoded(meter_reading(timestamp=timestamp)))


@pytest.mark.parametrize("shape", Shape)
def test_a_full_batch_takes_the_fast_way_and_a_fuller_one_none(shape: Shape) -> None:
    spell = ndjson if shape is Shape.NDJSON else encoded
    batch = [vehicle_reading() for _ in range(LAW.max_readings)]
    assert fast(VEHICLE, shape, spell(batch))
    assert fast(VEHICLE, shape, spell([*batch, vehicle_reading()])) is None
    assert fast(VEHICLE, shape, spell([])) is None


def test_instants_at_the_limits_take_the_fast_way_and_those_beyond_do_not() -> None:
    for limit, step in ((LAW.oldest, -1), (LAW.newest, 1)):
        beyond = limit + timedelta(microseconds=step)
        assert fast(METER, Shape.JSON, encoded(meter_reading(timestamp=limit)))
        assert fast(METER, Shape.JSON, encoded(meter_reading(timestamp=beyond))) is None
        hold_equal(METER, Shape.JSON, encoded([meter_reading(timestamp=limit)]))
        hold_equal(METER, Shape.JSON, encoded([meter_reading(timestamp=beyond)]))


# --- and all the way ------------------------------------------------------------------------------


def shuffled(draw: st.DrawFn, kind: Kind) -> dict[str, Any]:
    """A lawful reading out of a small space of devices and instants, its fields in any order."""
    values = {m.field: draw(st.floats(m.low, m.high)) for m in kind.measures}
    made = LAWFUL[kind.name](
        **{kind.id_field: draw(st.from_regex(r"\A[A-Za-z0-9._:-]{1,2}\Z"))},
        timestamp=NOW - timedelta(microseconds=draw(st.integers(0, 3 * 10**14))),
        **values,
    )
    return dict(draw(st.permutations(list(made.items()))))


@settings(max_examples=20)
@given(data=st.data())
def test_nothing_lawful_ever_becomes_a_dead_letter(api: Api, data: st.DataObject) -> None:
    for kind in KINDS.values():
        readings = [shuffled(data.draw, kind) for _ in range(data.draw(st.integers(1, 8)))]
        spell, content_type = data.draw(
            st.sampled_from([(encoded, "application/json"), (ndjson, NDJSON)])
        )
        response = api.send(kind, spell(readings), content_type=content_type)
        assert response.json == {"accepted": len(readings), "rejected": []}
    dead = [found["dead"] for found in flush_all().values()]
    assert dead == [0, 0]
    assert rows("SELECT * FROM dead_letters") == []


def test_the_doubtful_timestamps_are_those_of_the_decoder_alone() -> None:
    """If the decoder becomes stricter, the regular expression has had its day."""
    for doubtful in ("2026-01-10T10:00:00.1234567Z", "2026-01-10T10:00:00+0200"):
        body = encoded(meter_reading(timestamp=doubtful))
        assert codec.instants([doubtful])
        assert re.search(door._DOUBTFUL_TIMESTAMP, doubtful)
        assert fast(METER, Shape.JSON, body) is None


def test_blanks_are_not_kept(api: Api) -> None:
    """A request of mostly blanks is lawful; what waits in the stream is what it says."""
    one = encoded(meter_reading())
    for body in (b" " * 100_000 + one, b"[" + b"\n" * 100_000 + one + b"]"):
        accepted(api.send(METER, body))
    assert stream.client().memory_usage("energy:{meter}") < 10_000
    assert [readings for _, readings in entries(METER)] == [[json.loads(one)]] * 2
