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

__all__ = ["Forwarder", "NotForwarded"]

_log = logging.getLogger("qg.forward")

_WORDS_MAX: Final = 512  # bytes that a peer may say about why it does not listen
_PAUSE_MAX_S: Final = 10.0  # before the peer is asked again to listen


class NotForwarded(qg.RemoteError):
    """Report that the peer does not forward; the text says why."""


class Forwarder:
    """Forward ports over a session with a peer, which is made again when it is gone. Used in `async with`.

    `service` is an extender of the node: what comes from ports of the peer comes through it. `local` lead to what the
    peer reaches, `remote` are listened on by the peer and lead to what this machine reaches. Entering raises
    `ListenError` when a local port cannot be listened on. `counts` holds for each forward how often what happened.
    Belongs to the event loop in which it was started.
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
        self._local = tuple(local)
        self._remote = tuple(remote)
        self.counts: dict[qg.ForwardSpec, Counter[str]] = {}
        self._ends: dict[qg.ForwardSpec, TcpEnd | UdpEnd] = {}
        self._listens = {spec: _Listen() for spec in self._remote}
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for spec in self._local:
                await self._end_start(spec, stack)
            self._stack = stack.pop_all()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._way.run(), name="qg.Forwarder way")]
        for spec in self._remote:
            self._tasks.append(loop.create_task(self._listen_keep(spec), name=f"qg.Forwarder {spec}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._stack.aclose()

    @property
    def local(self) -> tuple[tuple[Target, Target], ...]:
        """Give the places of this machine that are listened on, ports filled in, and where they lead to."""
        return tuple((self._ends[spec].address, _target(spec)) for spec in self._local)

    @property
    def remote(self) -> tuple[tuple[Target, Target], ...]:
        """Give the places that the peer listens on, ports filled in once it does, and where they lead to."""
        return tuple((Target(spec.host, self._listens[spec].port or spec.port), _target(spec)) for spec in self._remote)

    async def reach(self) -> qg.Peer:
        """Wait until all is in place; raises the `RemoteError` that says why it is not. It is tried again anyway."""
        peer = await self._way.reach()
        if FORWARD_ID not in peer.extenders:
            raise NotForwarded(
                f"{peer.where} forwards nothing: its operator lists in [[forward.offer]] what it lets peers reach"
            )
        for listen in self._listens.values():
            await listen.tried.wait()
            if listen.error is not None:
                raise listen.error
        return peer

    # Ports of this machine

    async def _end_start(self, spec: qg.ForwardSpec, stack: AsyncExitStack) -> None:
        kind = Kind.CONNECT if spec.protocol == "tcp" else Kind.DATAGRAMS
        open_ = partial(self._way.opened, bytes((kind,)) + bytes(_target(spec)))
        counts = self.counts[spec] = Counter()
        end = (TcpEnd if spec.protocol == "tcp" else UdpEnd)(Target.make(spec.host, spec.port), open_, counts)
        await end.start()
        stack.push_async_callback(end.close)
        self._ends[spec] = end

    # Ports of the peer

    async def _listen_keep(self, spec: qg.ForwardSpec) -> None:
        """Have the peer listen, and again after a while when it has ceased to."""
        listen = self._listens[spec]
        pause_max_s = 1.0
        while True:
            try:
                async with self._listened(spec) as (stream, port):
                    listen.port, listen.error = port, None
                    listen.tried.set()
                    pause_max_s = 1.0
                    async for _ in stream:
                        pass
                    listen.error = NotForwarded(f"the peer has ceased to listen on {spec.host}:{port}")
            except qg.QGError as error:
                listen.error = error
            listen.tried.set()
            _log.warning("not_listening forward=%s: %s", spec, listen.error)
            await asyncio.sleep(random.uniform(0, pause_max_s))
            pause_max_s = min(_PAUSE_MAX_S, pause_max_s * 2)

    @asynccontextmanager
    async def _listened(self, spec: qg.ForwardSpec) -> AsyncIterator[tuple[qg.Stream, int]]:
        kind = Kind.LISTEN if spec.protocol == "tcp" else Kind.LISTEN_DATAGRAMS
        peer = await self._way.up_wait()
        with self._service.expecting(peer.id, spec.protocol, _target(spec)) as token:
            metadata = bytes((kind,)) + bytes(Target.make(spec.host, spec.port)) + token
            async with self._way.opened(metadata) as stream:
                if await outcome_read(stream) is not Outcome.OK:
                    words = (await stream.read(_WORDS_MAX)).decode(errors="replace")
                    raise NotForwarded(f"{stream.peer.where} does not listen: {words or 'it does not say why'}")
                yield stream, int.from_bytes(await stream.readexactly(2), "big")


class _Listen:
    """How listening at the peer stands."""

    def __init__(self) -> None:
        self.tried = asyncio.Event()
        self.port = 0
        self.error: qg.QGError | None = None


def _target(spec: qg.ForwardSpec) -> Target:
    return Target.make(spec.target_host, spec.target_port)
