# SPDX-License-Identifier: MIT
"""`qg chat`: talk to the peers of a room."""

import asyncio
import getpass
import os
import re
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager, suppress
from typing import Any, TextIO

import click

import qg
from qg.cli.common import (
    ADDRESS,
    ENDPOINT,
    FILE,
    address_shown,
    async_run,
    node_make,
    node_options,
    replay_mark_default,
    route_options,
)
from qg.extenders.chat import Chat, shown

_LINE_MAX = 1000  # characters that are said at once; a longer line becomes several
_MEET_S = 10.0  # for a peer to say that it is in the room
_HELP = "* /who tells who is here, /quit or Ctrl-D ends; anything else is said to everybody"


@click.command
@click.argument("peers", type=ADDRESS, nargs=-1, metavar="[PEER]...")
@click.option("--listen", type=ENDPOINT, multiple=True, metavar="ENDPOINT", help="Be the host: wait for guests here.")
@click.option("--nick", metavar="NAME", help="What others see beside your PeerID; without it, your login name.")
@click.option("--room", default="lobby", show_default=True, metavar="NAME", help="Only those in the same room meet.")
@click.option("--history", type=FILE, metavar="FILE", help="Add all that is said to this file, for your eyes only.")
@route_options
@node_options
def command(
    peers: "tuple[qg.Address, ...]",
    listen: "tuple[qg.Endpoint, ...]",
    nick: str | None,
    room: str,
    history: str | None,
    via: "tuple[qg.Address, ...]",
    hops: int | None,
    **options: Any,
) -> None:
    """Talk to the nodes at PEER, and to who comes to --listen. Nothing is kept unless --history says where.

    Whoever listens is the host and passes on what the guests say. <ben c4yvo2q5xxzn> is the name that ben has chosen
    and the beginning of his PeerID, which is proved; <ben c4yvo2q5xxzn by anna> is what the host anna says he said.
    Lines that come through a pipe are said, and that ends it; a host stays.

    \b
    Examples:
      qg chat --listen tcp://0.0.0.0:7447
      qg chat 'qg://...@203.0.113.7:7447' --nick ben
      qg chat --identity node.key --hops 3 -c qg.toml 'qg://...'
      uptime | qg chat --nick server 'qg://...'
    """
    if not peers and not listen:
        raise click.UsageError("nobody to talk to: name a PEER, or say by --listen where to wait for one")
    with ExitStack() as stack:
        screen = _Screen(stack.enter_context(_history_open(history)) if history else None)
        chat = Chat(nick or _nick_default(), room, screen.show)
        mark = replay_mark_default(options["identity"]) if listen else None
        node = node_make(**options, listen=listen, extenders=[chat], replay_mark=mark)
        async_run(_chat(node, chat, screen, peers, {"via": via or None, "hops": hops, "keep": True}))


class _Screen:
    """Where lines are shown, and written down if there is a history."""

    def __init__(self, history: TextIO | None) -> None:
        self._history = history

    def show(self, line: str) -> None:
        print(line, flush=True)
        self.record(line)

    def record(self, line: str) -> None:
        if self._history:
            print(time.strftime("%Y-%m-%d %H:%M:%S"), line, file=self._history, flush=True)


@contextmanager
def _history_open(path: str) -> Iterator[TextIO]:
    with open(path, "a", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        os.fchmod(file.fileno(), 0o600)  # it may have been there before
        yield file


def _nick_default() -> str:
    with suppress(OSError, KeyError):  # no such user
        return re.sub(r"[^\w.-]", "_", getpass.getuser())[:24]
    return "somebody"


async def _chat(
    node: "qg.Node", chat: Chat, screen: _Screen, peers: "Sequence[qg.Address]", way: dict[str, Any]
) -> None:
    async with node:
        for address in node.addresses:
            print(address_shown(address), flush=True)
        for address in peers:
            await _meet(chat, await node.connect(address, **way))
        with suppress(asyncio.CancelledError):  # a signal is one way to end it
            async with aclosing(_typed()) as lines:
                await _talk(chat, screen, lines)
            if node.addresses and not sys.stdin.isatty():
                await asyncio.Event().wait()


async def _meet(chat: Chat, peer: "qg.Peer") -> None:
    try:
        async with asyncio.timeout(_MEET_S):
            await chat.meet(peer)
    except TimeoutError:
        raise click.ClickException(
            f"{peer.where} is not in the room: check that `qg chat` runs there, with the same --room"
        ) from None


async def _talk(chat: Chat, screen: _Screen, lines: AsyncIterator[str]) -> None:
    """Do what is typed, until the end of it."""
    async for line in lines:
        text = line.strip()
        if text == "/quit":
            return
        if text == "/who":
            print(*(f"* {name}" for name in chat.people()), sep="\n", flush=True)
        elif text.startswith("/"):
            print(_HELP, flush=True)
        elif text:
            n_heard = await chat.say(text)
            screen.record(f"<{chat.nick}> {shown(text)}")
            if not n_heard:
                screen.show("* nobody is here to hear it")


def _typed() -> AsyncGenerator[str, None]:
    """Give lines from the terminal, or from a pipe."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        with suppress(ImportError):
            from prompt_toolkit import PromptSession

            return _edited(PromptSession("> "))
    return _read()


async def _edited(session: Any) -> AsyncGenerator[str, None]:
    """Let lines be edited below those that come meanwhile."""
    from prompt_toolkit.patch_stdout import patch_stdout

    with patch_stdout(), suppress(EOFError, KeyboardInterrupt):
        while True:
            for line in (await session.prompt_async()).splitlines():
                for start in range(0, len(line), _LINE_MAX):
                    yield line[start : start + _LINE_MAX]


async def _read() -> AsyncGenerator[str, None]:
    """Read standard input in a thread, for it may be anything, one line ahead; nothing waits for the thread."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()
    room = threading.Semaphore()

    def read() -> None:
        with (
            suppress(RuntimeError),  # the loop has ended
            open(0, encoding="utf-8", errors="replace", closefd=False) as file,
        ):
            line = None
            while line != "":
                line = file.readline(_LINE_MAX)
                room.acquire()
                loop.call_soon_threadsafe(lines.put_nowait, line)

    threading.Thread(target=read, daemon=True).start()
    while line := await lines.get():
        room.release()
        yield line
