# SPDX-License-Identifier: MIT
"""The TLS peer of `asyncio_tls`, run by uvloop."""

import uvloop

from benchmarks.peers.asyncio_tls import main

if __name__ == "__main__":
    main(uvloop.run)
