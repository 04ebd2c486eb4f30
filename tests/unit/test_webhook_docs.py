"""The verification that docs/webhooks.md recommends accepts ours and nothing else."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workers import webhooks
from workers.webhook_post import signature

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'


@pytest.fixture
def verify() -> Callable[[str, dict[str, str], bytes], bool]:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)  # noqa: S102  (what the page tells the reader to do)
    found: Callable[[str, dict[str, str], bytes], bool] = names["verify"]
    return found


def headers(at: float, body: bytes = BODY) -> dict[str, str]:
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at)),
        "webhook-signature": signature(SECRET, "msg_1", int(at), body),
    }


def test_it_accepts_what_we_sign(verify: Any) -> None:
    now = headers(time.time())
    assert verify(SECRET, now, BODY)
    rotated = now | {"webhook-signature": "v1,AAAA " + now["webhook-signature"]}
    assert verify(SECRET, rotated, BODY)


def test_it_refuses_everything_else(verify: Any) -> None:
    now = headers(time.time())
    assert not verify(SECRET, now, BODY + b" ")
    assert not verify(SECRET, now | {"webhook-id": "msg_2"}, BODY)
    assert not verify("whsec_AAAA", now, BODY)
    assert not verify(SECRET, now | {"webhook-signature": "v1,AAAA"}, BODY)
    assert not verify(SECRET, headers(time.time() - 301), BODY)


def test_the_page_has_the_schedule_as_it_is() -> None:
    delays = [webhooks.delay_seconds(n) for n in range(1, 9)]
    minutes = [delay / 60 for delay in delays]
    assert delays[:3] == [10, 30, 90]
    assert minutes[3:6] == [4.5, 13.5, 40.5]
    assert (round(minutes[6] / 60), minutes[7] / 60) == (2, 6)
    assert f"{webhooks.MAX_ATTEMPTS} attempts in about 27 hours" in PAGE
    assert f"for {webhooks.KEEP.days} days" in PAGE
