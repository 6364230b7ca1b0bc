# SPDX-License-Identifier: MIT
"""Files that a crash leaves whole."""

import os
from contextlib import suppress

__all__ = ["file_replace"]


def file_replace(path: str, data: bytes) -> None:
    """Put a file of mode 0600 in the place of another: a crash leaves the old or the new one, whole."""
    temporary = f"{path}.{os.urandom(4).hex()}.new"
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
