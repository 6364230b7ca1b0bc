# SPDX-License-Identifier: MIT
"""The child's side of `qg.cli.measure`: answer over stdin and stdout, one JSON object per line."""

import asyncio
import json
import re
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qg.errors import QGError

Commands = Mapping[str, Callable[..., Awaitable[Any]]]


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
