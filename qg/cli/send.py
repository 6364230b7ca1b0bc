# SPDX-License-Identifier: MIT
"""`qg send`: files and folders to whoever runs `qg receive`."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import click

import qg
from qg.cli.common import ADDRESS, FILE, async_run, node_make, node_options, route_options
from qg.cli.text import Progress, failures_print, size_text
from qg.extenders.files import FileSender, Sent

_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # before another try, where the link broke
# Ways in which a link ends that another one would not mend.
_FINAL = frozenset({qg.Reason.SHUTDOWN, qg.Reason.PROTOCOL, qg.Reason.CANCELLED, qg.Reason.INTERNAL})


@click.command
@click.argument("files", type=FILE, nargs=-1, metavar="FILE...")
@click.argument("address", type=ADDRESS)
@route_options
@node_options
def command(
    files: tuple[str, ...], address: "qg.Address", via: "tuple[qg.Address, ...]", hops: int | None, **options: Any
) -> None:
    """Send FILEs to the node at ADDRESS, which runs `qg receive`. Folders are sent with all that is in them.

    It is done once the other side has all of it and has checked the BLAKE2b of each file. Links, devices and pipes are
    left out. Where the link breaks, or when the same is sent again later, it goes on where it ended: what the other
    side has is not sent twice, unless it changed. With --via or --hops it goes through relays: each sees its two
    neighbours on the way and no content, the receiver does not see your address.

    \b
    Examples:
      qg send holiday.mp4 'qg://...@203.0.113.7:7447'
      qg send ~/photos notes.txt 'qg://...'
      qg send plan.pdf 'qg://...' --via 'qg://...' --network friends.net
      qg send plan.pdf 'qg://...' --hops 3 -c qg.toml
    """
    if not files:
        raise click.UsageError("Missing argument 'FILE...'")
    sent = async_run(_send(node_make(**options), files, address, via, hops))
    _notes_print(sent)
    if sent.n_files:
        print(_summary(sent))
    if sent.failures:
        failures_print([f"{name} was not sent: {why}" for name, why in sent.failures])
        sys.exit(1)


async def _send(
    node: "qg.Node", files: Sequence[str], address: "qg.Address", via: "Sequence[qg.Address]", hops: int | None
) -> Sent:
    progress = Progress()
    sender = FileSender(files, on_progress=progress.show)
    waits_s = iter(_WAITS_S)
    async with node:
        while True:
            try:
                return await sender.run(await node.connect(address, via=via or None, hops=hops))
            except qg.RemoteError as error:
                wait_s = next(waits_s, None)
                if not sender.is_begun or not _may_mend(error) or wait_s is None:
                    raise
                progress.clear()
                print(f"qg: {error}; trying again in {wait_s:g} s", file=sys.stderr, flush=True)
                await asyncio.sleep(wait_s)
            finally:
                progress.clear()


def _may_mend(error: qg.RemoteError) -> bool:
    kinds = (qg.PeerClosed, qg.PeerTimeout, qg.StreamReset, qg.Unreachable, qg.Busy)
    return isinstance(error, kinds) and error.reason not in _FINAL


def _notes_print(sent: Sent) -> None:
    """Say what is not as one would expect."""
    for names, what in (
        (sent.resumed, "went on where an earlier try had ended"),
        (sent.restarted, "changed since an earlier try, and was sent anew"),
    ):
        if names:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            print(f"{names[0]}{more} {what}", file=sys.stderr)
    if sent.n_left_out:
        print(f"{sent.n_left_out:,} links, devices or pipes were left out", file=sys.stderr)


def _summary(sent: Sent) -> str:
    same = ""
    if sent.n_same:
        same = ", was there already" if sent.n_files == 1 else f", {sent.n_same:,} of them were there already"
    if sent.n_files == 1 and sent.digest:
        return f"{sent.digest.hex()}  {sent.names[0]}  ({size_text(sent.n_bytes)}{same}, checked by the receiver)"
    size = size_text(sent.n_bytes)
    return f"{', '.join(sent.names)}  ({sent.n_files:,} files and folders, {size}{same}, checked by the receiver)"
