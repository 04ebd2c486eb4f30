"""The audit of what is pinned: a finding stops, a service that is away is said and does not."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from stack import audit
from stack.home import ROOT
from stack.ports import free_port

AWAY = "requests.exceptions.ConnectionError: HTTPSConnectionPool(...): Max retries exceeded"


def report(*vulns: dict[str, object]) -> str:
    one = {"name": "flask", "version": "0.12", "vulns": list(vulns)}
    return json.dumps({"dependencies": [one, {"name": "rich", "version": "1", "vulns": []}]})


def test_nothing_found_is_said_with_the_number_looked_at() -> None:
    found = audit.verdict(report(), "", required=False)
    assert found == ("Audit: no known vulnerability in 2 requirements.", False)


def test_a_finding_stops_and_names_the_mended_version() -> None:
    flaw = {"id": "CVE-2018-1000656", "fix_versions": ["0.12.3"]}
    text, failed = audit.verdict(report(flaw), "", required=False)
    assert failed
    assert text.splitlines()[1:] == ["  flask 0.12: CVE-2018-1000656, mended in 0.12.3"]
    text, _ = audit.verdict(report({"id": "X", "fix_versions": []}), "", required=False)
    assert text.endswith("mended in no version")


def test_a_service_that_is_away_is_said_and_stops_only_if_it_must_be_known() -> None:
    text, failed = audit.verdict("", AWAY, required=False)
    assert (text.startswith("Audit: NOT DONE"), failed) == (True, False)
    text, failed = audit.verdict("", AWAY, required=True)
    assert (text.startswith("Audit: NOT DONE"), failed) == (True, True)


@pytest.mark.parametrize("errors", ["", "ERROR:pip_audit._cli:invalid requirements input"])
def test_any_other_failure_stops(errors: str) -> None:
    assert audit.verdict("", errors, required=False).failed


def test_what_is_audited_is_pinned_and_hashed() -> None:
    lock = (ROOT / audit.REQUIREMENTS).read_text()
    names = re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)
    assert "pip-audit" in names
    assert {"flask", "celery", "granian"} <= set(names)
    assert "://" not in lock


def test_make_lint_audits() -> None:
    (recipe,) = re.findall(
        r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert "$(CHECK) stack.audit" in recipe


# --- pip-audit itself -----------------------------------------------------------------------------


class _Service(BaseHTTPRequestHandler):
    """An advisory service that knows one flaw, of flask."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        flaw = {"id": "PYSEC-0-0", "summary": "x", "aliases": [], "affected": []}
        vulns = [flaw] if asked["package"]["name"] == "flask" else []
        body = json.dumps({"vulns": vulns} if vulns else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not into the test's output."""


@pytest.fixture
def service() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def audited(url: str) -> audit.Verdict:
    pytest.importorskip("pip_audit")
    done = subprocess.run(
        audit.command("--osv-url", url), cwd=ROOT, capture_output=True, text=True, check=False
    )
    return audit.verdict(done.stdout, done.stderr, required=False)


def test_a_flaw_that_the_service_knows_is_found(service: str) -> None:
    text, failed = audited(service)
    assert failed
    assert re.fullmatch(r"  flask \S+: PYSEC-0-0, mended in no version", text.splitlines()[1])


def test_a_service_that_does_not_answer_is_not_taken_for_a_clean_bill() -> None:
    text, failed = audited(f"http://127.0.0.1:{free_port()}/")
    assert (text.startswith("Audit: NOT DONE"), failed) == (True, False)
