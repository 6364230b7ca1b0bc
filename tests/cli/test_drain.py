# SPDX-License-Identifier: MIT
"""`qg run` as a relay that is told to stop: circuits end first, within a time, unless somebody is in a hurry."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import qg
from qg.extenders.echo import Echo

pytestmark = [pytest.mark.net, pytest.mark.skipif(os.name != "posix", reason="signals")]

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]
LISTEN = ["tcp://127.0.0.1:0"]


def log_wait(node: Any, word: str) -> str:
    """Read the log of a running node until a line has this word."""
    for line in node.process.stderr:
        if word in line:
            return str(line)
    raise AssertionError(f"the log ended without {word!r}")


@contextlib.asynccontextmanager
async def circuit(
    qg_start: Start, qg_run: Run, folder: Path, drain_s: int
) -> AsyncIterator[tuple[Any, qg.Stream, Callable[[], Any]]]:
    """Give a relay that is a process, a stream through it, and a function that opens one more circuit."""
    assert qg_run("keygen", "--network", "ours.net").returncode == 0
    secret = qg.NetworkSecret.load(folder / "ours.net")
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Echo()], network_secret=secret) as target,
        qg.Node(qg.Identity.generate(), network_secret=secret) as source,
    ):
        (folder / "relay.toml").write_text(
            'listen = ["tcp://127.0.0.1:0"]\nnetwork_secret = "ours.net"\n[relay]\nallow = "members"\n'
            f'targets = ["127.0.0.0/8"]\nports = [{target.address.port}]\ndrain_s = {drain_s}\n'
        )
        relay = qg_start("run", "-c", "relay.toml")
        address = relay.line()

        async def connect() -> qg.Peer:
            return await source.connect(target.address, via=[address])

        peer = await connect()
        yield relay, await peer.open_stream(Echo.id), connect


async def echo(stream: qg.Stream, data: bytes) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(stream.write(data))
        assert await stream.readexactly(len(data)) == data


def test_a_transfer_completes_while_the_relay_drains_and_new_circuits_are_refused(
    qg_start: Start, qg_run: Run, folder: Path
) -> None:
    async def main() -> None:
        async with circuit(qg_start, qg_run, folder, drain_s=600) as (relay, stream, connect):
            await echo(stream, b"before")
            relay.process.send_signal(signal.SIGTERM)
            log_wait(relay, "draining")
            assert "draining" in (await asyncio.to_thread(qg_run, "status")).stdout
            with pytest.raises(qg.Busy):
                await connect()
            await echo(stream, os.urandom(2 << 20))
            await stream.peer.close()
            code, _, err = await asyncio.to_thread(relay.end)
            assert code == 0
            assert "drain_cut" not in err

    asyncio.run(main())


def test_what_runs_at_the_deadline_is_cut(qg_start: Start, qg_run: Run, folder: Path) -> None:
    async def main() -> None:
        async with circuit(qg_start, qg_run, folder, drain_s=1) as (relay, stream, _):
            assert (await asyncio.to_thread(qg_run, "stop")).returncode == 0
            code, _, err = await asyncio.to_thread(relay.end)
            assert code == 0
            assert "drain_cut n_circuits=1" in err
            with pytest.raises(qg.Busy):
                await stream.read(1)

    asyncio.run(main())


def test_a_relay_that_dies_while_it_drains_ends_its_circuits_with_an_error(
    qg_start: Start, qg_run: Run, folder: Path
) -> None:
    async def main() -> None:
        async with circuit(qg_start, qg_run, folder, drain_s=86_400) as (relay, stream, connect):
            relay.process.send_signal(signal.SIGTERM)
            log_wait(relay, "draining")
            relay.process.kill()
            with pytest.raises(qg.RemoteError):
                await stream.read(1)
            with pytest.raises(qg.RemoteError):
                await connect()

    asyncio.run(main())


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_cuts_the_drain_short(
    qg_start: Start, qg_run: Run, folder: Path, second: signal.Signals
) -> None:
    async def main() -> None:
        async with circuit(qg_start, qg_run, folder, drain_s=86_400) as (relay, _, _):
            relay.process.send_signal(signal.SIGTERM)
            log_wait(relay, "draining")
            relay.process.send_signal(second)
            assert (await asyncio.to_thread(relay.end))[0] == 0

    asyncio.run(main())


@pytest.mark.parametrize("how", ["stop --now", "interrupt"])
def test_stopping_now_does_not_wait_for_circuits(qg_start: Start, qg_run: Run, folder: Path, how: str) -> None:
    async def main() -> None:
        async with circuit(qg_start, qg_run, folder, drain_s=86_400) as (relay, _, _):
            if how == "interrupt":
                relay.process.send_signal(signal.SIGINT)
            else:
                assert (await asyncio.to_thread(qg_run, "stop", "--now")).returncode == 0
            assert (await asyncio.to_thread(relay.end))[0] == 0

    asyncio.run(main())
