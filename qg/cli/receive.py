# SPDX-License-Identifier: MIT
"""`qg receive`: wait for files from whoever runs `qg send`."""

import asyncio
import os
import sys
from functools import partial
from typing import Any

import click

import qg
from qg.address import Endpoint
from qg.cli.common import (
    ENDPOINT,
    FILE,
    PEER_ID,
    address_shown,
    async_run,
    node_make,
    node_options,
    replay_mark_default,
)
from qg.cli.text import Progress, SizeType, failures_print, size_text
from qg.extenders.files import FileReceiver, Received, Request, name_shown

_LISTEN = (Endpoint.parse("tcp://0.0.0.0:7447"),)
_RETURN_S = 20.0  # for a sender to come back when its link broke
_ANSWER_MAX = 1024  # bytes of a line from the terminal


@click.command
@click.argument("folder", type=FILE, default=".")
@click.option(
    "--listen",
    type=ENDPOINT,
    multiple=True,
    default=_LISTEN,
    metavar="ENDPOINT",
    help="Where to wait; tcp://0.0.0.0:7447 if not given. May be given several times.",
)
@click.option(
    "--from", "senders", type=PEER_ID, multiple=True, metavar="PEERID", help="Take files from these peers only."
)
@click.option("--ask", is_flag=True, help="Ask before each transfer, except from those of --from.")
@click.option("--max-size", "size_max", type=SizeType(), metavar="SIZE", help="Refuse transfers of more bytes.")
@click.option("--force", is_flag=True, help="Replace files that have the same name.")
@click.option("--keep", is_flag=True, help="Go on after the first transfer, until SIGINT or SIGTERM.")
@node_options
def command(
    folder: str,
    listen: "tuple[qg.Endpoint, ...]",
    senders: "tuple[qg.PeerId, ...]",
    ask: bool,
    size_max: int | None,
    force: bool,
    keep: bool,
    **options: Any,
) -> None:
    """Wait for files and put them into FOLDER (this one if not given). Prints the address for `qg send`.

    A long file comes as NAME.qg-part and becomes NAME once its BLAKE2b is right; what is unfinished after a break is
    gone on with when the same is sent again. Existing files stay unless --force is given; one that is the same is not
    sent again. Nothing is written outside FOLDER, no link in it is followed. With a throw-away identity the address is
    new each time; --identity keeps it.

    \b
    Examples:
      qg receive
      qg receive ~/inbox --keep --identity node.key --from mzxw6ytb...
      qg receive --ask --max-size 2G
      qg receive --listen tcp://127.0.0.1:0
    """
    outcomes: asyncio.Queue[Received] = asyncio.Queue()
    progress = Progress()
    receiver = FileReceiver(
        folder,
        senders=frozenset(senders) or None,
        ask=_Asker(progress).ask if ask else None,
        size_max=size_max,
        existing="replace" if force else "keep",
        on_progress=progress.show,
        on_done=outcomes.put_nowait,
    )
    mark = replay_mark_default(options["identity"])
    node = node_make(**options, listen=listen, extenders=[receiver], replay_mark=mark)
    if not async_run(_receive(node, outcomes, progress, keep)):
        sys.exit(1)


class _Asker:
    """Ask at the terminal, one question at a time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = asyncio.Lock()

    async def ask(self, request: Request) -> bool:
        """Tell whether somebody there wants this transfer; no answer is none."""
        names = ", ".join(request.names)
        what = f"{request.n_files:,} files and folders, {size_text(request.n_bytes)}"
        async with self._lock:
            self._progress.clear()
            question = f"{request.peer_id} wants to send {names} ({what}). Take it? [y/N] "
            print(question, end="", file=sys.stderr, flush=True)
            return (await _line_read()).strip().lower() in ("y", "yes")


def _answer_come(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


async def _line_read() -> str:
    """Read a line from the terminal; a signal may end the waiting."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    fd = sys.stdin.fileno()
    try:
        loop.add_reader(fd, partial(_answer_come, readable))
    except PermissionError:  # a file or /dev/null, which never waits
        return os.read(fd, _ANSWER_MAX).decode(errors="replace")
    try:
        await readable
        return os.read(fd, _ANSWER_MAX).decode(errors="replace")
    finally:
        loop.remove_reader(fd)


async def _receive(node: "qg.Node", outcomes: "asyncio.Queue[Received]", progress: Progress, keep: bool) -> bool:
    """Wait for one transfer, or for all that come; tell whether it is whole."""
    async with node:
        for address in node.addresses:
            print(address_shown(address), flush=True)
        wait_s: float | None = None
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    received = await outcomes.get()
            except TimeoutError:
                return False
            except asyncio.CancelledError:
                if keep:  # a signal is how this is meant to end
                    return True
                raise
            progress.clear()
            _outcome_print(received)
            if received.is_taken and not keep:  # what was refused before it began does not end the waiting
                if not received.is_lost:
                    return received.is_whole
                wait_s = _RETURN_S


def _outcome_print(received: Received) -> None:
    sender = received.request.peer_id
    names = ", ".join(received.request.names) or "a file"
    if received.n_restarted:
        print(f"{received.n_restarted:,} files had changed since an earlier try and came anew", file=sys.stderr)
    if received.n_files and received.error is None:
        print(_summary(received), flush=True)
    lines = [f"{name} from {sender} was not received: {why}" for name, why in received.failures]
    lines += [""] * (received.n_failed - len(lines))  # those beyond what is kept are counted only
    if received.error is not None:
        kept = f"; unfinished: {', '.join(received.parts)}" if received.parts else ""
        came = f", {size_text(received.n_bytes)} of it came{kept}" if received.n_bytes else kept
        lines.append(f"{names} from {sender} was not received: {received.error}{came}")
    failures_print(lines)


def _summary(received: Received) -> str:
    sender = received.request.peer_id
    same = f", {received.n_same:,} of them were here already" if received.n_same else ""
    if received.n_files == 1 and received.path:
        same = ", was here already" if received.n_same else ""
        name = name_shown(os.fspath(received.path))
        return f"{received.digest.hex()}  {name}  ({size_text(received.size)}{same}, from {sender})"
    what = f"{received.n_files:,} files and folders, {size_text(received.n_bytes)} came{same}"
    return f"{', '.join(received.request.names)}  ({what}, from {sender})"
