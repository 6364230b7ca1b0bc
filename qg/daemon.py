# SPDX-License-Identifier: MIT
"""A node as a service: runs until a signal or its control socket ends it, in the steps that operators expect.

SIGTERM and `qg stop` let circuits end first (`Node.drain`); SIGINT and `qg stop --now` close at once, in good order.
Each further signal goes one step on: a drain is cut short, and a node that is closing already is killed. SIGHUP and
`qg reload` take what the files say now, or reject it whole.
"""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from typing import TYPE_CHECKING, final

from qg.access.answers import access_answers
from qg.config import Config
from qg.control import ControlServer, status_object
from qg.errors import ConfigError, QGError
from qg.extender import Extender
from qg.identity import Identity
from qg.loading import extenders_load
from qg.logs import logs_start
from qg.metrics import MetricsServer, metrics_text
from qg.node import Node
from qg.notify import Notifier

if TYPE_CHECKING:
    from qg.extenders.forward import Forward

__all__ = ["Daemon"]

_log = logging.getLogger("qg.daemon")

_CLOSE_S = 30.0  # what closing may take after the drain, at the very most


@final
class Daemon:
    """Run one node from its start to its end; `announce` is called once it listens.

    `read` gives the configuration anew, and the identity if its key file has changed; it runs in a thread of its own.
    """

    def __init__(
        self,
        identity: Identity,
        config: Config,
        notifier: Notifier,
        announce: Callable[[Node], None],
        read: Callable[[], tuple[Config, Identity | None]],
    ) -> None:
        self._config = config
        self._notifier = notifier
        self._announce = announce
        self._read = read
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()  # reloads that a signal began
        self._forward = _forward(config)
        self._node = Node(identity, config=config, extenders=_extenders(config, self._forward))
        self._asked = asyncio.Event()  # to stop
        self._hurried = asyncio.Event()  # without waiting for circuits

    async def run(self, control_path: str | os.PathLike[str]) -> None:
        """Start the node and return when it has closed; raises what `Node.start` and `ControlServer` do."""
        answers: dict[str, Callable[..., object]] = {
            **access_answers(self._node.access),
            "status": self._status,
            "reload": self._reload,
            "security": self._security,
            "stop": self._stop,
            "stop_now": self._stop_now,
        }
        # The socket is taken before the node starts and given back after it has closed: it tells who is running.
        async with ControlServer(control_path, answers):
            with closing(self._notifier), self._signals():
                async with self._node, self._watched(), self._metrics(), self._forwards():
                    self._announce(self._node)
                    _log.info("running control_socket=%s", control_path)
                    self._notifier.ready(self._running_text())
                    await self._asked.wait()
                    await self._drain()
                    _log.info("closing")

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._notifier.watch(self._node.is_working), name="qg.Daemon.watch")
        try:
            yield
        finally:
            watching.cancel()

    @asynccontextmanager
    async def _metrics(self) -> AsyncIterator[None]:
        place = self._config.metrics
        if place is None:
            yield
            return
        async with MetricsServer(place.host, place.port, lambda: metrics_text(self._node.totals())) as server:
            _log.info("metrics url=http://%s/metrics", place._replace(port=server.port))
            yield

    @asynccontextmanager
    async def _forwards(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for to in self._config.forward.to:
                from qg.extenders.forward import Forwarder  # only who forwards needs what it imports

                assert self._forward is not None
                forwarder = Forwarder(
                    self._node, self._forward, to.peer, local=to.local, remote=to.remote, hops=to.hops
                )
                await stack.enter_async_context(forwarder)
                for one in forwarder.local:
                    _log.info("forwarding at=%s target=%s peer=%s", one.address, one.target, to.peer)
            yield

    async def _drain(self) -> None:
        wait_s = 0 if self._hurried.is_set() else self._config.relay.drain_s
        self._notifier.stopping(f"stopping, circuits have {wait_s} s to end")
        self._notifier.extend(wait_s + _CLOSE_S)
        draining = asyncio.create_task(self._node.drain(), name="qg.Daemon.drain")
        hurried = asyncio.create_task(self._hurried.wait())
        await asyncio.wait([draining, hurried], return_when=asyncio.FIRST_COMPLETED)
        self._hurried.set()
        n_left = await draining if draining.done() else self._node.status().n_splices
        draining.cancel()
        await asyncio.wait([draining, hurried])
        if n_left:
            _log.warning("drain_cut n_circuits=%d: circuits that are left are reset", n_left)

    # Requests of the control socket

    def _status(self) -> object:
        return status_object(self._node.status())

    def _stop(self) -> object:
        if not self._asked.is_set():
            _log.info("draining drain_s=%d", self._config.relay.drain_s)
            self._asked.set()
        return {"wait_s": self._config.relay.drain_s}

    def _stop_now(self) -> object:
        self._asked.set()
        self._hurried.set()
        return {"wait_s": 0}

    # Reloading

    def _running_text(self) -> str:
        return f"running as {self._node.id}"

    async def _reload(self) -> object:
        """Take what the files say now, or say line by line why not and go on as before."""
        async with self._reloading:
            self._notifier.reloading()
            try:
                config, identity = await asyncio.to_thread(self._read)
                if config.forward.offer and self._forward is None:
                    raise ConfigError("forward.offer: needs a restart, since the node has begun without forwards")
                changes = await self._node.configure(config, identity=identity)
            except QGError as error:
                for line in str(error).splitlines():
                    _log.error("reload_rejected: %s", line)
                raise
            finally:
                self._notifier.ready(self._running_text())
            self._config = config
            if self._forward is not None:
                self._forward.offers = config.forward.offer
            logs_start(config.log_level, config.log_format)
            return {"changes": changes}

    async def _security(self, level: str | None = None) -> object:
        """Go to a level of security, until the next reload; say which one is in force."""
        changes: list[str] = []
        if level is not None:
            async with self._reloading:
                config = self._config.at_level(level)
                changes = await self._node.configure(config)
                self._config = config
                _log.info("security level=%s", level)
        return {"level": self._config.security, "changes": changes}

    async def _reload_logged(self) -> None:
        with suppress(QGError):
            await self._reload()

    # Signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_signal, signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, self._on_signal, signal.SIGINT)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _on_hangup(self) -> None:
        task = asyncio.create_task(self._reload_logged(), name="qg.Daemon.reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._hurried.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif number == signal.SIGTERM and not self._asked.is_set():
            self._stop()
        else:
            self._stop_now()


def _forward(config: Config) -> "Forward | None":
    if not config.forward.offer and not config.forward.to:
        return None
    from qg.extenders.forward import Forward  # only who forwards needs what it imports

    return Forward(config.forward.offer)


def _extenders(config: Config, forward: "Forward | None") -> list[Extender]:
    """Make what the configuration has the node offer."""
    extenders: list[Extender] = [] if forward is None else [forward]
    if config.exit.enabled:
        extenders.append(_exit(config))
    return extenders + extenders_load(config.extenders)


def _exit(config: Config) -> Extender:
    from qg.extenders.proxy.exit import Exit, ExitLimits  # only exits need what they import

    limits = ExitLimits(
        connections=config.exit.connections,
        peer_connections=config.exit.peer_connections,
        peer_connections_per_s=config.exit.peer_connections_per_s,
    )
    return Exit(config.exit.rules, limits)
