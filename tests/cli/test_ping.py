# SPDX-License-Identifier: MIT
"""`qg ping` counts what comes back in time, and tells the way that it took."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import qg

pytestmark = pytest.mark.net

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]
DELAY_S = 0.2


@pytest.fixture
def target(qg_start: Start) -> Any:
    return qg_start("run", "--listen", "tcp://127.0.0.1:0")


def test_each_round_trip_is_printed_and_the_figures_at_the_end(qg_run: Run, target: Any) -> None:
    address = target.line()
    run = qg_run("ping", "-n", "3", "--interval", "0.005", address)
    assert (run.returncode, run.stderr) == (0, "")
    head, *trips, rule, counts, figures, way = run.stdout.splitlines()
    short = qg.Address.parse(address).short
    assert head.startswith(f"PING {short}: connected to ")
    assert [trip.partition(":")[0] for trip in trips] == [f"round trip {number}" for number in (1, 2, 3)]
    assert (rule, counts) == (f"--- {short} ---", "3 sent, 3 answered, 0 % lost")
    least, p50, p99, most = map(float, figures.split()[1].split("/"))
    assert 0 < least <= p50 <= p99 <= most
    assert way == "aegis-256, directly"


def test_json_has_the_same_as_one_object(qg_run: Run, target: Any) -> None:
    run = qg_run("ping", "--json", "-n", "2", "--interval", "0.005", target.line())
    report = json.loads(run.stdout)
    assert (report["n_sent"], report["n_received"], report["via"]) == (2, 2, [])
    assert report["max_ms"] == max(report["rtts_ms"]) >= report["p99_ms"] >= report["p50_ms"] >= report["min_ms"] > 0


def test_a_signal_ends_it_early_with_the_summary(qg_start: Start, target: Any) -> None:
    ping = qg_start("ping", "-n", "1000", target.line())
    ping.line()
    ping.line()
    ping.process.send_signal(signal.SIGINT)
    code, out, err = ping.end()
    assert (code, err) == (0, "")
    assert " answered, 0 % lost" in out


def test_a_link_that_ends_is_told_behind_the_summary(qg_start: Start, target: Any) -> None:
    ping = qg_start("ping", "-n", "100000", "--interval", "0.005", target.line())
    ping.line()
    ping.line()
    target.process.kill()
    code, out, err = ping.end()
    assert code == 1
    assert " answered, 0 % lost" in out
    assert err.startswith("qg: pinging failed")


def test_pings_faster_than_a_link_may_carry_are_refused(qg_run: Run) -> None:
    run = qg_run("ping", "--interval", "0.004", "qg://127.0.0.1:1")
    assert run.returncode == 2
    assert "--interval" in run.stderr


def test_an_answer_that_comes_late_counts_for_no_ping_at_all() -> None:
    """Neither for its own, nor for the one that waits when it comes."""
    code, out = asyncio.run(slow_ping("-n", "3", "--timeout", str(1.5 * DELAY_S)))
    report = json.loads(out)
    assert report["rtts_ms"] == [None] * 3
    assert (report["n_received"], report["p50_ms"], code) == (0, None, 1)


async def slow_ping(*options: str) -> tuple[int | None, bytes]:
    """Run `qg ping` over a line that takes DELAY_S each way."""
    loop = asyncio.get_running_loop()
    tasks = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            loop.call_later(DELAY_S, writer.write, data)
        await asyncio.sleep(DELAY_S)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", node.address.port)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    async with (
        qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"]) as node,
        await asyncio.start_server(serve, "127.0.0.1", 0) as line,
    ):
        address = str(node.address._replace(port=line.sockets[0].getsockname()[1]))
        command = [sys.executable, "-m", "qg", "ping", "--json", "--interval", "0.005", *options, address]
        ping = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(ping.communicate(), 60)
        await asyncio.gather(*tasks)
        return ping.returncode, out
