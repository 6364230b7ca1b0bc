# SPDX-License-Identifier: MIT
"""What both sides of a transfer agree on beyond its frames."""

from collections.abc import Callable

import qg

FILES_ID = qg.ExtenderId("5b3e9f0e-2c39-4e53-8a6f-0d1c4bb6c9d2")
TOKEN_LEN = 16  # bytes that name a transfer, drawn by its sender
LANES_MAX = 8  # streams of one transfer that carry files
OFFER_MARK, LANE_MARK = b"\0", b"\1"  # first byte of a stream's metadata; the token follows

Progress = Callable[[str, int, int], None]  # what, bytes so far, bytes in all; called on the event loop
