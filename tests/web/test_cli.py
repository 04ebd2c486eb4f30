"""`flask --app web keys create|list|revoke`."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import Result
from flask import Flask

from tests.factories import rows
from tests.web.calls import bearer, refused


def keys(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["keys", *arguments])


def create(app: Flask, *arguments: str, fleet: str = "Northern depot") -> str:
    """The new key."""
    result = keys(app, "create", f"--fleet={fleet}", "--name=test", "--quiet", *arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout.strip()


def listed(app: Flask) -> list[str]:
    result = keys(app, "list")
    assert result.exit_code == 0
    return result.stdout.splitlines()[1:]


def test_quiet_prints_the_key_and_nothing_else(app: Flask) -> None:
    key = create(app)
    prefix, key_id, secret = key.split("_", 2)
    assert prefix == "eie"
    assert len(key_id) == 8
    assert len(secret) >= 43, "256 bits"
    assert app.test_client().get("/v1/meters", headers=bearer(key)).status_code == 200


def test_the_key_alone_is_on_standard_output(app: Flask) -> None:
    result = keys(app, "create", "--fleet=A", "--name=b")
    assert result.stdout.startswith("eie_")
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == "The key, shown this once:\n"


def test_a_key_ingests_and_reads_unless_told_otherwise(app: Flask) -> None:
    create(app)
    create(app, "--scopes=admin, read")
    found = [row["scopes"] for row in rows("SELECT scopes FROM api_keys ORDER BY created_at")]
    assert found == [["ingest", "read"], ["admin", "read"]]


@pytest.mark.parametrize("scopes", ["write", "ingest,write", "", "ingest,", "READ"])
def test_an_unknown_scope_is_refused(app: Flask, scopes: str) -> None:
    result = keys(app, "create", "--fleet=A", "--name=b", f"--scopes={scopes}")
    assert result.exit_code == 2
    assert "is none of ingest, read, admin" in result.stderr
    assert rows("SELECT * FROM api_keys") == []


def test_a_fleet_and_a_name_are_needed(app: Flask) -> None:
    for arguments in (["--fleet=A"], ["--name=b"], []):
        assert keys(app, "create", *arguments).exit_code == 2


def test_two_keys_of_a_fleet_are_of_one_fleet(app: Flask) -> None:
    for fleet in ("A", "A", "B"):
        create(app, fleet=fleet)
    found = [row["fleet_id"] for row in rows("SELECT fleet_id FROM api_keys ORDER BY created_at")]
    assert found[0] == found[1] != found[2]


def test_a_key_may_expire(app: Flask) -> None:
    create(app, "--days=30")
    (row,) = rows("SELECT expires_at FROM api_keys")
    assert abs(row["expires_at"] - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)
    assert f"expires {row['expires_at']:%Y-%m-%dT%H:%M}" in listed(app)[0]


@pytest.mark.parametrize("days", ["0", "-1", "x", "1000000000"])
def test_a_number_of_days_is_sensible(app: Flask, days: str) -> None:
    result = keys(app, "create", "--fleet=A", "--name=b", f"--days={days}")
    assert result.exit_code == 2
    assert "--days" in result.stderr


def test_the_list_shows_every_key_without_its_secret(app: Flask) -> None:
    made = [create(app), create(app, "--scopes=ingest", fleet="Southern depot")]
    lines = listed(app)
    for key, line in zip(made, lines, strict=True):
        _, key_id, secret = key.split("_", 2)
        assert line.startswith(key_id)
        assert line.endswith(" valid")
        assert secret not in line
    assert "Northern depot" in lines[0]
    assert "Southern depot" in lines[1]


def test_a_revoked_key_is_refused_and_listed_as_revoked(app: Flask) -> None:
    key = create(app)
    key_id = key.split("_")[1]
    result = keys(app, "revoke", key_id)
    assert (result.exit_code, result.stdout) == (0, f"Revoked {key_id}.\n")
    assert f" revoked {datetime.now(UTC):%Y-%m-%d}" in listed(app)[0]
    refused(app.test_client().get("/v1/meters", headers=bearer(key)), "KEY_INVALID")


def test_a_rotated_key_and_the_new_one_are_valid_together(app: Flask) -> None:
    old = create(app, "--scopes=read,admin")
    result = keys(app, "rotate", old.split("_")[1], "--overlap-hours=2")
    assert result.exit_code == 0
    new = result.stdout.strip()
    assert new != old
    for key in (old, new):
        assert app.test_client().get("/v1/meters", headers=bearer(key)).status_code == 200
    before, after = rows("SELECT * FROM api_keys ORDER BY created_at")
    for same in ("fleet_id", "name"):
        assert before[same] == after[same]
    assert sorted(before["scopes"]) == sorted(after["scopes"])
    assert abs(before["expires_at"] - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=1)
    assert after["expires_at"] is None


def test_without_overlap_a_rotated_key_is_over(app: Flask) -> None:
    old = create(app)
    result = keys(app, "rotate", old.split("_")[1], "--overlap-hours=0", "--days=30", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    refused(app.test_client().get("/v1/meters", headers=bearer(old)), "KEY_INVALID")
    new = result.stdout.strip()
    assert app.test_client().get("/v1/meters", headers=bearer(new)).status_code == 200
    lines = listed(app)
    assert " expired " in lines[0]
    assert " expires " in lines[1]


def test_a_key_that_expires_sooner_is_not_prolonged(app: Flask) -> None:
    old = create(app, "--days=1")
    (before,) = rows("SELECT expires_at FROM api_keys")
    keys(app, "rotate", old.split("_")[1], "--overlap-hours=100")
    after = rows("SELECT expires_at FROM api_keys ORDER BY created_at")[0]
    assert after == before


def test_what_is_not_valid_cannot_be_rotated(app: Flask) -> None:
    revoked, expired = (create(app).split("_")[1] for _ in range(2))
    keys(app, "revoke", revoked)
    keys(app, "rotate", expired, "--overlap-hours=0")
    for key_id in (revoked, expired, "00000000"):
        result = keys(app, "rotate", key_id)
        assert result.exit_code == 1
        assert result.stderr == f"Error: There is no valid key {key_id} that could be rotated.\n"


def test_what_was_done_to_keys_is_in_the_log_and_secrets_are_not(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key = create(app)
    result = keys(app, "rotate", key.split("_")[1])
    keys(app, "revoke", key.split("_")[1])
    lines = [r.msg for r in caplog.records if isinstance(r.msg, dict) and r.msg.get("audit")]
    assert [line["event"] for line in lines] == ["key created", "key rotated", "key revoked"]
    assert {line["key"] for line in lines} == {key.split("_")[1]}
    assert lines[1]["replaced_by"] == result.stdout.split("_")[1]
    assert all(line["by"] for line in lines)
    for made in (key, result.stdout.strip()):
        assert made.split("_", 2)[2] not in caplog.text


def test_what_cannot_be_revoked_is_said(app: Flask) -> None:
    key_id = create(app).split("_")[1]
    assert keys(app, "revoke", "00000000").exit_code == 1
    keys(app, "revoke", key_id)
    again = keys(app, "revoke", key_id)
    assert again.exit_code == 1
    assert again.stderr == f"Error: There is no key {key_id} that could be revoked.\n"
