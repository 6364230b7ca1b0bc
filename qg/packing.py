# SPDX-License-Identifier: MIT
"""Messages made smaller by zstd, where the application asks for it; what comes is bounded before it is unpacked."""

import sys

from qg._core.message import Packed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["PackingError", "packed", "unpacked"]

_SHORT = 64  # bytes that are not worth it
_WINDOW_LOG = 10, 27  # the least and the most that zstd may be told, powers of two


class PackingError(ValueError):
    """What has come is no zstd frame of a message."""


def packed(message: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
    """Give a `Packed` message, or the same where that would not be shorter. Takes some milliseconds for each MiB."""
    n = memoryview(message).nbytes
    if n <= _SHORT:
        return message
    made = zstd.compress(message)
    return Packed(made) if len(made) < n else message


def unpacked(message: bytes, limit: int) -> bytes:
    """Give the message that was packed; raises `PackingError` for one that does not say its length, or is too long."""
    window_log = max(_WINDOW_LOG[0], min(_WINDOW_LOG[1], limit.bit_length()))
    try:
        n = zstd.get_frame_info(message).decompressed_size
        if n is None or n > limit:
            raise PackingError(f"a packed message says that it has {n} bytes")
        decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window_log})
        data = decompressor.decompress(message, max_length=n + 1)
    except zstd.ZstdError as error:
        raise PackingError(str(error)) from None
    if len(data) != n or not decompressor.eof or decompressor.unused_data:
        raise PackingError("a packed message is not what it says")
    return data
