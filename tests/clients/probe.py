# SPDX-License-Identifier: MIT
"""A program: wait until something listens on HOST PORT."""

import socket
import sys
import time

until_s = time.monotonic() + 20
while True:
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1).close()
        break
    except OSError:
        if time.monotonic() > until_s:
            raise
        time.sleep(0.05)
