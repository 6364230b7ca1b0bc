# SPDX-License-Identifier: MIT
"""`qg receive`: wait for a file from whoever runs `qg send`."""

import asyncio
import sys
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
from qg.cli.text import Progress, size_text
from qg.extenders.files import FileReceiver, Received

_LISTEN = (Endpoint.parse("tcp://0.0.0.0:7447"),)


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
@click.option("--force", is_flag=True, help="Replace files that have the same name.")
@click.option("--keep", is_flag=True, help="Go on after the first file, until SIGINT or SIGTERM.")
@node_options
def command(
    folder: str,
    listen: "tuple[qg.Endpoint, ...]",
    senders: "tuple[qg.PeerId, ...]",
    force: bool,
    keep: bool,
    **options: Any,
) -> None:
    """Wait for a file and put it into FOLDER (this one if not given). Prints the address for `qg send`.

    A file comes as NAME.part and becomes NAME once its SHA-256 is right and the disk has it. Existing files stay
    unless --force is given. With a throw-away identity the address is new each time; --identity keeps it.

    \b
    Examples:
      qg receive
      qg receive ~/inbox --keep --identity node.key --from mzxw6ytb...
      qg receive --listen tcp://127.0.0.1:0
    """
    outcomes: asyncio.Queue[Received] = asyncio.Queue()
    progress = Progress()
    receiver = FileReceiver(
        folder,
        senders=frozenset(senders) or None,
        existing="replace" if force else "keep",
        on_progress=progress.show,
        on_done=outcomes.put_nowait,
    )
    mark = replay_mark_default(options["identity"])
    node = node_make(**options, listen=listen, extenders=[receiver], replay_mark=mark)
    if not async_run(_receive(node, outcomes, progress, keep)):
        sys.exit(1)


async def _receive(node: "qg.Node", outcomes: "asyncio.Queue[Received]", progress: Progress, keep: bool) -> bool:
    """Wait for one file, or for all that come; tell whether it is whole."""
    async with node:
        for address in node.addresses:
            print(address_shown(address), flush=True)
        while True:
            try:
                received = await outcomes.get()
            except asyncio.CancelledError:
                if keep:  # a signal is how this is meant to end
                    return True
                raise
            progress.clear()
            _outcome_print(received)
            if received.name and not keep:  # what was refused before it began does not end the waiting
                return received.error is None


def _outcome_print(received: Received) -> None:
    if received.error is None:
        facts = f"{size_text(received.size)}, from {received.peer_id}"
        print(f"{received.digest.hex()}  {received.path}  ({facts})", flush=True)
        return
    name = f"{received.name!r}" if received.name else "a file"
    kept = f"; {size_text(received.size)} of it are in {received.name}.part" if received.size else ""
    print(f"qg: {name} from {received.peer_id} was not received: {received.error}{kept}", file=sys.stderr, flush=True)
