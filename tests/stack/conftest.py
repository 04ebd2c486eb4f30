"""The stack starts its own servers here, whatever other tests put into the environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_given_servers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("DATABASE_URL", "STREAM_URL", "CELERY_BROKER_URL"):
            patch.delenv(variable, raising=False)
        yield
