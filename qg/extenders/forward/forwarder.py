# SPDX-License-Identifier: MIT
"""Forwards over a session with one peer: local ports that lead to what it reaches, its ports that lead here."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Final, Self

import qg
from qg.extenders.forward.ends import TcpEnd, UdpEnd
from qg.extenders.forward.service import FORWARD_ID, Forward, Kind
from qg.extenders.forward.way import Way
from qg.extenders.sockets.outcome import Outcome, outcome_read
from qg.extenders.sockets.target import Target

__all__ = ["Forwarder", "Forwarding", "NotForwarded"]

_log = logging.getLogger("qg.forward")

_WORDS_MAX: Final = 512  # bytes that a peer may say about why it does not listen
_PAUSE_MAX_S: Final = 10.0  # before the peer is asked again to listen


class NotForwarded(qg.RemoteError):
    """Report that the peer does not forward; the text says why."""


class Forwarding:
    """Tell how one forward stands: what it is, where is listened for it, how often what has happened."""

    def __init__(self, spec: qg.ForwardSpec) -> None:
        self.spec = spec
        self.address = Target.make(spec.host, spec.port)  # the port is filled in once it is listened on
        self.target = Target.make(spec.target_host, spec.target_port)
        self.counts: Counter[str] = Counter()
        self.error: qg.QGError | None = None  # why it is not listened on
        self.tried = asyncio.Event()  # to listen, once at least


class Forwarder:
    """Forward ports over a session with a peer, which is made again when it is gone. Used in `async with`.

    `service` is an extender of the node: what comes from ports of the peer comes through it. `local` lead to what the
    peer reaches, `remote` are listened on by the peer and lead to what this machine reaches. Entering raises
    `ListenError` when a local port cannot be listened on. Belongs to the event loop in which it was started.
    """

    def __init__(
        self,
        node: qg.Node,
        service: Forward,
        address: qg.Address,
        *,
        local: Iterable[qg.ForwardSpec] = (),
        remote: Iterable[qg.ForwardSpec] = (),
        hops: int | None = None,
        via: Sequence[qg.Address] | None = None,
    ) -> None:
        self._service = service
        self._way = Way(node, service, address, hops=hops, via=via)
        self.local = tuple(map(Forwarding, local))
        self.remote = tuple(map(Forwarding, remote))
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for forwarding in self.local:
                await self._end_start(forwarding, stack)
            self._stack = stack.pop_all()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._way.run(), name="qg.Forwarder way")]
        for forwarding in self.remote:
            name = f"qg.Forwarder {forwarding.spec}"
            self._tasks.append(loop.create_task(self._listen_keep(forwarding), name=name))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._stack.aclose()

    async def reach(self) -> qg.Peer:
        """Wait until all is in place; raises the `RemoteError` that says why it is not. It is tried again anyway."""
        peer = await self._way.reach()
        if FORWARD_ID not in peer.extenders:
            raise NotForwarded(
                f"{peer.where} forwards nothing: its operator lists in [[forward.offer]] what it lets peers reach"
            )
        for forwarding in self.remote:
            await forwarding.tried.wait()
            if forwarding.error is not None:
                raise forwarding.error
        return peer

    # Ports of this machine

    async def _end_start(self, forwarding: Forwarding, stack: AsyncExitStack) -> None:
        is_tcp = forwarding.spec.protocol == "tcp"
        kind = Kind.CONNECT if is_tcp else Kind.DATAGRAMS
        open_ = partial(self._way.opened, bytes((kind,)) + bytes(forwarding.target))
        end = (TcpEnd if is_tcp else UdpEnd)(forwarding.address, open_, forwarding.counts)
        await end.start()
        stack.push_async_callback(end.close)
        forwarding.address = end.address

    # Ports of the peer

    async def _listen_keep(self, forwarding: Forwarding) -> None:
        """Have the peer listen, and again after a while when it has ceased to."""
        pause_max_s = 1.0
        said = ""
        while True:
            try:
                async with self._listened(forwarding) as (stream, port):
                    forwarding.address = forwarding.address._replace(port=port)
                    forwarding.error = None
                    forwarding.tried.set()
                    pause_max_s, said = 1.0, ""
                    async for _ in stream:
                        pass
                forwarding.error = NotForwarded("the peer has ceased to listen")
            except qg.QGError as error:
                forwarding.error = error
            forwarding.tried.set()
            if str(forwarding.error) != said:
                said = str(forwarding.error)
                _log.warning("not_listening forward=%s: %s", forwarding.spec, said)
            await asyncio.sleep(random.uniform(0, pause_max_s))
            pause_max_s = min(_PAUSE_MAX_S, pause_max_s * 2)

    @asynccontextmanager
    async def _listened(self, forwarding: Forwarding) -> AsyncIterator[tuple[qg.Stream, int]]:
        spec = forwarding.spec
        kind = Kind.LISTEN if spec.protocol == "tcp" else Kind.LISTEN_DATAGRAMS
        peer = await self._way.up_wait()
        with self._service.expecting(peer.id, spec.protocol, forwarding.target, forwarding.counts) as token:
            metadata = bytes((kind,)) + bytes(Target.make(spec.host, spec.port)) + token
            async with self._way.opened(metadata) as stream:
                if await outcome_read(stream) is not Outcome.OK:
                    words = (await stream.read(_WORDS_MAX)).decode(errors="replace")
                    words = "".join(char if char.isprintable() else "?" for char in words) or "it does not say why"
                    raise NotForwarded(f"{stream.peer.where} does not listen: {words}")
                yield stream, int.from_bytes(await stream.readexactly(2), "big")
