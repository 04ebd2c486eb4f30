"""What is compressed comes back as it was, and nothing else comes back at all."""

from __future__ import annotations

from contextlib import suppress

import lz4.frame
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers import compression
from workers.compression import compress, decompress


@given(st.binary(min_size=1) | st.binary(min_size=1, max_size=50).map(lambda part: part * 5_000))
def test_a_body_comes_back_as_it_was(body: bytes) -> None:
    assert decompress(compress(body)) == body


@given(st.binary())
@example(b"")
@example(b"[]")
@example(compress(b"x" * 9_999)[:-1])
@example(compress(b""))  # no request is empty
@example(lz4.frame.compress(b"x" * 9_999, store_size=False))
@example(compress(b"x" * 9_999) + b"x")
@example(compress(b"x" * 9_999) * 2)
def test_what_is_no_whole_frame_raises_a_value_error(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decompress(frame)


def test_a_frame_that_would_fill_the_memory_is_not_inflated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compression, "MAX_BYTES", 10_000)
    assert len(decompress(compress(bytes(10_000)))) == 10_000
    with pytest.raises(ValueError, match="10001 bytes"):
        decompress(compress(bytes(10_001)))


@given(st.integers(1, 255), st.integers(0, 290))
def test_a_damaged_frame_holds_what_it_held_or_raises_a_value_error(
    flipped: int, place: int
) -> None:
    """Numbers would show no damage: it is the frame's checksum that does."""
    body = bytes(range(256)) * 4
    frame = bytearray(compress(body))
    frame[place] ^= flipped
    with suppress(ValueError):
        assert decompress(bytes(frame)) == body
