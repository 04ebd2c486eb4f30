"""Threads of the bridge: what happens when there are no more of them."""

from __future__ import annotations

import threading

import pytest

from web import bridge


def test_work_waits_for_a_thread_when_no_further_one_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = bridge.Threads(8, "test")
    go_on = threading.Event()
    first = threads.submit(go_on.wait, 10)

    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    second = threads.submit(threading.get_ident)
    go_on.set()
    assert first.result(10)
    assert second.result(10)
    monkeypatch.undo()
    threads.shutdown()


def test_without_any_thread_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    with pytest.raises(RuntimeError):
        bridge.Threads(8, "test").submit(threading.get_ident)
