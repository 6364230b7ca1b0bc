# SPDX-License-Identifier: MIT
"""`qg send`: a file to whoever runs `qg receive`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import qg
from qg.cli.common import ADDRESS, FILE, async_run, node_make, node_options, route_options
from qg.cli.text import Progress, size_text
from qg.extenders.files import Sent, file_send


@click.command
@click.argument("file", type=FILE)
@click.argument("address", type=ADDRESS)
@route_options
@node_options
def command(file: str, address: "qg.Address", via: "tuple[qg.Address, ...]", hops: int | None, **options: Any) -> None:
    """Send FILE to the node at ADDRESS, which runs `qg receive`. A folder is sent as a tar file.

    It is done once the other side has checked the SHA-256 and its disk has the file. With --via or --hops it goes
    through relays: each sees its two neighbours on the way and no content, the receiver does not see your address.

    \b
    Examples:
      qg send holiday.mp4 'qg://...@203.0.113.7:7447'
      qg send ~/photos 'qg://...'
      qg send plan.pdf 'qg://...' --via 'qg://...' --network friends.net
      qg send plan.pdf 'qg://...' --hops 3 -c qg.toml
    """
    sent = async_run(_send(node_make(**options), Path(file), address, via, hops))
    print(f"{sent.digest.hex()}  {sent.name}  ({size_text(sent.size)}, checked by the receiver)")


async def _send(
    node: "qg.Node", file: Path, address: "qg.Address", via: "Sequence[qg.Address]", hops: int | None
) -> Sent:
    progress = Progress()
    async with node:
        peer = await node.connect(address, via=via or None, hops=hops)
        try:
            return await file_send(peer, file, on_progress=progress.show)
        finally:
            progress.clear()
