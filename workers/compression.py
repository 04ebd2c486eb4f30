"""What large stream entries hold is compressed: docs/adr/0020.

JSON of readings says the same names over and over: LZ4 takes it to a quarter or less, in 0.1 us a
reading; columns (docs/adr/0022) to half. The stream's server, which handles bytes and nothing else,
has that much less to do.
"""

from __future__ import annotations

import lz4.frame

#: Smaller JSON stays as it is: there is little to win, and an operator can read it.
COMPRESS_BYTES = 4_096
#: Larger ones stay as they are too; what a frame may be inflated to. MAX_BODY_BYTES is far less.
MAX_BYTES = 2**26


def compress(body: bytes) -> bytes:
    """An LZ4 frame of `body` that says how large it was, with a checksum."""
    return bytes(lz4.frame.compress(body, store_size=True, content_checksum=True))


def decompress(frame: bytes) -> bytes:
    """The body; raises ValueError for anything but a whole frame that `compress` made."""
    try:
        size = int(lz4.frame.get_frame_info(frame)["content_size"])
        if not 0 < size <= MAX_BYTES:
            raise ValueError(f"a body of {size} bytes")
        body, read = lz4.frame.decompress(frame, return_bytes_read=True)
    except RuntimeError as error:  # LZ4's only one
        raise ValueError(str(error)) from error
    if read != len(frame):
        raise ValueError(f"{len(frame) - read} bytes too many")
    return bytes(body)
