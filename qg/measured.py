# SPDX-License-Identifier: MIT
"""What the processes share that `qg demo`, `qg bench` and `benchmarks/` measure: settings, and how they take commands.

It imports little, so that what is measured is a node: of one that is not qg's, not even that.
"""

import asyncio
import json
import re
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qg.errors import QGError

if TYPE_CHECKING:
    from qg.config import Config, RelayConfig

__all__ = ["Commands", "config_make", "percentiles", "relay_config", "role_serve"]

Commands = Mapping[str, Callable[..., Awaitable[Any]]]

# Best first: a suite is chosen by refusing those before it.
_SUITES_REMOVED: dict[str, Any] = {
    "aegis-256": (),
    "aes-256-gcm": ("aegis-256",),
    "chacha20-poly1305": ("aegis-256", "aes-256-gcm"),
    "null": (),
}
_N_SESSIONS = 50_000
# Everybody here has one address, and more comes from it at once than an honest network sends.
_LIMITS: dict[str, Any] = {
    "accepts_per_s": 100_000,
    "accepts_burst": 100_000,
    "handshakes_per_s": 100_000,
    "handshakes_burst": 100_000,
    "network_handshakes_per_s": 100_000,
    "network_handshakes_burst": 100_000,
    "node_handshakes_per_s": 100_000,
    "handshake_cpu_ms": 100,
    "sessions": _N_SESSIONS,
    "network_sessions": _N_SESSIONS,
    "peer_pipe_sessions": _N_SESSIONS,
    "pipes_per_link": _N_SESSIONS,
    "pipes_per_s": 100_000,
    "pipes_burst": 100_000,
    "service_streams_per_s": 100_000,
    "control_frames_per_s": 100_000,
}


def config_make(suite: str | None, relay: "RelayConfig | None" = None) -> "Config":
    """The defaults, padding included, but for the suite and for limits that would be measured instead of the work."""
    from qg.config import Config, LimitsConfig, LinkConfig, RelayConfig

    if suite == "null":
        from qg._core.crypto import null_cipher_allow

        null_cipher_allow()
    link = LinkConfig(suites_removed=_SUITES_REMOVED[suite] if suite else ())
    return Config(link=link, limits=LimitsConfig(**_LIMITS), relay=relay or RelayConfig())


def relay_config(port: int) -> "RelayConfig":
    """Relay for members of the closed network to one port of this machine; loopback is dialled because it is listed."""
    from qg.address import Prefix
    from qg.config import RelayConfig

    return RelayConfig(allow="members", targets=(Prefix.parse("127.0.0.0/8"),), ports=(port,))


def percentiles(samples_ns: Sequence[int]) -> dict[str, float]:
    ordered = sorted(samples_ns)
    return {"p50_us": ordered[len(ordered) // 2] / 1e3, "p99_us": ordered[len(ordered) * 99 // 100] / 1e3}


async def role_serve(
    commands: Commands, hello: dict[str, Any], counts: Callable[[], dict[str, float]] = lambda: {}
) -> None:
    """Say `hello`, then run one command after the other until standard input ends.

    Beside `commands` there are "usage", which gives the clocks and `counts` of one moment, and "memory".
    """

    async def usage() -> dict[str, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {"at_s": time.monotonic(), "cpu_s": used.ru_utime + used.ru_stime} | counts()

    commands = {"usage": usage, "memory": _memory, **commands}
    requests = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    print(json.dumps({"ok": hello}), flush=True)
    while line := await requests.readline():
        request = json.loads(line)
        try:
            answer = {"ok": await commands[request.pop("do")](**request)}
        except (QGError, OSError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


async def _memory() -> dict[str, int]:
    """Bytes of this process in memory, now and at the most."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        peak_len = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"resident_len": peak_len, "peak_len": peak_len}
    now_len, peak_len = (int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) << 10 for name in ("VmRSS", "VmHWM"))
    return {"resident_len": now_len, "peak_len": peak_len}
