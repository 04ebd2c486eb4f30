"""Finding the API, and understanding what it answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from seed.api import (
    Answer,
    Connection,
    NoTargetError,
    Target,
    UnreachableError,
    check_reachable,
    resolve,
)
from seed.testing import FakeApi, Reply

NOW = 1_800_000_000.0


def credentials(folder: Path, text: str) -> Path:
    file = folder / "credentials.env"
    file.write_text(text, encoding="utf-8")
    return file


def test_what_is_given_goes_before_the_file(tmp_path: Path) -> None:
    file = credentials(tmp_path, "API_URL=http://file:3000\nAPI_KEY=of-file\n")
    assert resolve("http://given:1", "given", file) == Target("http://given:1", "given")
    assert resolve(None, "given", file) == Target("http://file:3000", "given")


def test_the_file_may_hold_comments_quotes_and_more(tmp_path: Path) -> None:
    text = "# of make run\n\nAPI_URL = 'http://localhost:3000'\nAPI_KEY=a=b\nOTHER=1\n"
    assert resolve(None, None, credentials(tmp_path, text)) == Target(
        "http://localhost:3000", "a=b"
    )


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoTargetError, match=r"no API_URL and API_KEY: .*make run"):
        resolve(None, None, tmp_path / "none.env")
    with pytest.raises(NoTargetError, match="no API_KEY: "):
        resolve("http://localhost:3000", None, tmp_path / "none.env")


def test_an_address_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(NoTargetError, match="'localhost:3000'"):
        resolve("localhost:3000", "key", tmp_path / "none.env")


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(Target("http://localhost", "secret"))


def test_nobody_there_is_said_clearly() -> None:
    with FakeApi() as api:
        check_reachable(api.target)
    with pytest.raises(UnreachableError, match=f"no API answers at {api.target.url}"):
        check_reachable(api.target)


def test_a_connection_is_kept_and_carries_the_key_and_the_base_path() -> None:
    with FakeApi() as api:
        connection = Connection(Target(api.target.url + "/energy/", "key"))
        for _ in range(3):
            assert connection.request("POST", "/ingestion/meter", b"[]", Content_Type="a/b")
        connection.close()
    assert {seen.path for seen in api.seen} == {"/energy/ingestion/meter"}
    assert {seen.headers["authorization"] for seen in api.seen} == {"Bearer key"}
    assert {seen.headers["content-type"] for seen in api.seen} == {"a/b"}
    assert len({seen.port for seen in api.seen}) == 1


def test_a_broken_connection_is_replaced() -> None:
    with FakeApi(FakeApi.HANG_UP, Reply(200, {"a": 1})) as api:
        connection = Connection(api.target)
        assert connection.request("GET", "/a") is None
        answer = connection.request("GET", "/a")
        connection.close()
    assert answer
    assert answer.json() == {"a": 1}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert Answer(503, {"retry-after": header}, b"").retry_after_s(NOW) == seconds


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b'{"code":"key_unknown","title":"T","detail":"D"}', "HTTP 401: key_unknown: D"),
        (b'{"code":"key_unknown","title":"T"}', "HTTP 401: key_unknown: T"),
        (b"<html>", "HTTP 401"),
        (b"[1]", "HTTP 401"),
    ],
)
def test_a_problem_is_one_line(body: bytes, line: str) -> None:
    assert Answer(401, {}, body).problem() == line
