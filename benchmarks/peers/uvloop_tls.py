# SPDX-License-Identifier: MIT
"""The TLS peer of `asyncio_tls`, run by uvloop."""

from benchmarks.peers.asyncio_tls import main
from benchmarks.program import distribution_version


def version() -> str:
    return distribution_version("uvloop")


if __name__ == "__main__":
    import uvloop

    main(uvloop.run)
