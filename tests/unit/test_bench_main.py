"""The benchmark as a program: what it says when something is broken."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import Broken
from bench import __main__ as program
from bench.figures import Rounds
from bench.options import parse
from bench.stage import Stage


def test_a_broken_run_shows_what_was_measured_and_the_end_of_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(_stage: Any, rounds: Rounds, _options: Any) -> None:
        rounds.add({"single.accepted": 4_321.0})
        raise Broken("not 202 but: 500")

    monkeypatch.setattr(program, "_measure", broken)
    (tmp_path / "web.log").write_text("the reason\n")
    stack = SimpleNamespace(home=SimpleNamespace(logs=tmp_path))
    stage = SimpleNamespace(stack=stack, usage=SimpleNamespace(memory={}))

    with pytest.raises(Broken, match=r"not 202 but: 500\n.*web\.log:\nthe reason"):
        program._run(cast(Stage, stage), parse([]))

    assert "4,320" in capsys.readouterr().out
