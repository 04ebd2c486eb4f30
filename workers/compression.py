"""The bodies of large stream entries are compressed: docs/adr/0020.

JSON of readings says the same names over and over: LZ4 takes it to a third or a tenth, in 0.1 us a
reading, and the stream's server, which handles bytes and nothing else, has that much less to do.
"""

from __future__ import annotations

import lz4.frame

#: Smaller bodies stay as they are: there is little to win, and an operator can read them.
COMPRESS_BYTES = 4_096
#: What a body may be inflated to. A request is far smaller (MAX_BODY_BYTES).
MAX_BYTES = 2**28


def compress(body: bytes) -> bytes:
    """An LZ4 frame of `body` that says how large it was."""
    return bytes(lz4.frame.compress(body, store_size=True))


def decompress(frame: bytes) -> bytes:
    """The body; raises ValueError for anything but a whole frame that `compress` made."""
    try:
        size = int(lz4.frame.get_frame_info(frame)["content_size"])
        if not 0 < size <= MAX_BYTES:
            raise ValueError(f"a body of {size} bytes")
        return bytes(lz4.frame.decompress(frame))
    except RuntimeError as error:  # LZ4's only one
        raise ValueError(str(error)) from error
