# SPDX-License-Identifier: MIT
"""The node: client and server at once, in one asyncio event loop.

The data path runs in native threads of the compiled core, which never wait for Python. What concerns the application
comes back through a ring of events: one wake-up of the loop takes many, and resolves futures directly.

Threads: a node belongs to the event loop that started it, and so do its peers and streams. Methods called from another
loop or thread raise `UsageError`; from there, use `asyncio.run_coroutine_threadsafe`. Several nodes, also in several
loops of different threads, do not know of each other. A process that forks must make new nodes in the child.
"""

import asyncio
import logging
import os
import random
import warnings
import weakref
from asyncio.events import _get_running_loop
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from time import monotonic, time
from types import TracebackType
from typing import Any, Self, final

from qg._core import runtime as core
from qg._core.runtime import Runtime
from qg.access import Access
from qg.account import Account
from qg.address import Address, Endpoint
from qg.asked import Connecting, Listening, Request
from qg.audience import broadcast, peers_find
from qg.config import Config
from qg.dial import connect_error, far_target, hop_tuples, hops_of, isolation_number, listen_error
from qg.errors import ClosedError, InvalidValue, Reason, RemoteError, UsageError
from qg.extender import Extender, Registry
from qg.flow import Border, Link, wake
from qg.gossip import Gossip
from qg.identity import Identity, NetworkSecret
from qg.keep import Keeper
from qg.offer import Offer, ids_read
from qg.peer import Peer, links_flush
from qg.reception import Reception
from qg.relays import KnownRelay
from qg.routes import Routes
from qg.settings import Settings
from qg.status import Watch, status_make
from qg.stream import Priority
from qg.types import ExtenderId, LinkKey, PeerId, RelayTerms, Status

__all__ = ["Node"]

_log = logging.getLogger("qg.node")

_EVENTS_MAX = 256  # taken from the ring at a time
_ROUNDS_MAX = 4  # times in one wake-up; then other callbacks of the loop have their turn
_RENEW_S = 86_400.0  # certificates last 90 days
_STOP_S = 5.0  # for goodbyes
_PINGS_SHARE = 0.4  # of the control frames of one link: answers to the peer's pings, and all else, have the rest
_WATCH_S = 10.0  # between two looks at the counters
_TWICE_S = 3600.0  # how often it is said that an identity runs twice
_TWICE_MAX = 64  # identities that it is said of within that time

_SUITES = {1: "chacha20-poly1305", 2: "aes-256-gcm", 4: "aegis-256", 0x8000: "null"}  # docs/protocol.md, section 3.3


@final
class Node:
    """Run a node: listen for peers, connect to peers, offer services to them.

    `identity` says who the node is, `listen` where it waits for peers (texts such as "tcp://127.0.0.1:0", or
    `Endpoint`), `extenders` what it offers, `config` everything else; what `listen` gives replaces `config.listen`.
    `network_secret` makes it a member of a closed network; if it is not given, it is read from the file that
    `config.network_secret` names, if any.

    Used in `async with`, or by `start` and `close`. A node that is never closed does not keep the process alive; it is
    stopped when the interpreter ends. See the module's text for threads.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        listen: Iterable[str | Endpoint] = (),
        extenders: Iterable[Extender] = (),
        config: Config | None = None,
        network_secret: NetworkSecret | None = None,
    ) -> None:
        if not isinstance(identity, Identity):
            raise InvalidValue(f"{identity!r} is not a qg.Identity: make one with Identity.generate or load_or_create")
        if isinstance(listen, str):
            raise InvalidValue(f"listen = {listen!r}: give a list of endpoints, even for one")
        if isinstance(extenders, Extender | type):
            raise InvalidValue(f"extenders = {extenders!r}: give a list of instances, even for one")
        self._settings = Settings(identity, config or Config(), network_secret, self._shut_out)
        wanted = tuple(Endpoint.parse(item) if isinstance(item, str) else item for item in listen)
        self._wanted = wanted or self._settings.config.listen
        self._registry = Registry(extenders)
        self._offer: Offer | None = None
        self._bound: list[Endpoint] = []
        self._border: Border | None = None  # from start on
        self._closing: asyncio.Task[None] | None = None
        self._stopped: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None  # from drain on
        self._routes: Routes | None = None  # from start on
        self._gossip: Gossip | None = None  # from start on
        self._telling: asyncio.TimerHandle | None = None
        self._requests: dict[int, Request[Any]] = {}
        self._last_request = 0
        self._links: dict[int, Link] = {}  # by channel
        self._direct: dict[bytes, Peer] = {}  # by PeerID, those that are not relayed
        self._by_key: dict[bytes, Peer] = {}  # the same by link key
        self._twice_s: dict[bytes, float] = {}  # when it was said that an identity runs twice
        self._keepers: list[Keeper] = []
        self._kept: dict[Address, Keeper] = {}  # of them, those that the configuration names
        self._started_s = 0.0
        self._account: Account | None = None  # from start on
        self._renewal: asyncio.TimerHandle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._loop_end: AsyncGenerator[None, None] | None = None  # from start on
        self._finalizer: weakref.finalize[..., Node] | None = None
        self._handlers: dict[int, Callable[[tuple[Any, ...]], None]] = {}  # from start on

    # Life

    async def start(self) -> None:
        """Start the native threads and the extenders, then listen.

        Raises `ListenError` when an endpoint cannot be listened on, `KeyFileError` for the network secrets' files,
        `ConfigError` for settings that do not go together, `LocalError` when the machine refuses a thread or memory,
        an extender refuses to start, another node keeps its `replay_mark` in the same file, or the file of `guards` or
        `relay_account` is damaged. A store of access rules that cannot be read is no error: nobody may connect then, or
        who could at last (`config.access.snapshot`).
        """
        if self._border is not None or self._settings.access.is_open:
            raise UsageError("the node has been started before: make a new one to start again")
        config = self._settings.config
        self._account = Account(config.relay_account, config.relay.monthly_gib << 30)
        self._routes = Routes(config, self._settings.identity)
        self._gossip = Gossip(config, self._settings.identity, self._routes.book)
        loop = asyncio.get_running_loop()
        runtime = await self._settings.start(self._registry.keys)
        self._offer = Offer(self, self._registry, runtime)
        limits = config.limits
        self._border = Border(
            runtime,
            loop,
            self._settings.access,
            send_queue_max=limits.send_queue_kib << 10,
            message_max=limits.message_max_kib << 10,
            pending_max=limits.receive_credit_mib << 20,
            opens_per_s=limits.service_streams_per_s,
            pings_per_s=limits.control_frames_per_s * _PINGS_SHARE,
        )
        self._handlers = self._handlers_make(Reception(self._border, self._links, self._registry))
        self._started_s = monotonic()
        self._renewal = loop.call_later(_RENEW_S, self._renew)
        self._account_look(self._border, 0)
        watch = Watch(_lines_max(self._settings.config), self._settings.config.link.clock_window_s)
        self._watching = loop.call_later(_WATCH_S, self._look, watch)
        self._telling = loop.call_later(self._gossip.tell_wait_s(), self._tell)
        self._finalizer = weakref.finalize(self, _runtime_end, runtime, repr(self), os.getpid())
        loop.add_reader(runtime.fileno(), self._on_readable)
        self._loop_end = self._loop_watch(self._border)
        await anext(self._loop_end)
        await self._settings.access.attach(runtime)
        try:
            await self._offer.start()
            for endpoint in self._wanted:
                self._bound.append(await self._listen(endpoint))
        except BaseException:
            await self.close()
            raise
        self._keep_configured()
        _log.info("node_started peer=%s listen=%s", self.id, ",".join(map(str, self._bound)) or "-")
        barred_s = runtime.status()["replay_floor_s"] - time()
        if barred_s > -self._settings.config.link.clock_window_s:
            _log.info(
                "replay_mark wait_s=%d: peers whose clock is behind that of the last one before are not answered yet",
                max(barred_s, 0),
            )

    async def configure(self, config: Config, *, identity: Identity | None = None) -> list[str]:
        """Take a changed configuration while the node runs, all of it or, where this raises, nothing.

        Returns the names of the settings that changed. `identity` is this node's with renewed link keys; secrets are
        read from their files again. What was promised to sessions that run stays so; a session with a peer that dialled
        us and is no longer allowed ends, circuits of one that may no longer relay go on until they end.

        Raises `ConfigError` with a line for each setting that needs a restart, `KeyFileError` for files of secrets,
        `UsageError` for another identity or while another configuration is being taken over.
        """
        border = self._border_now()
        if border.is_closing:
            raise UsageError("the node takes no configuration now: it is being closed")
        if identity is not None and identity.peer_id != self.id:
            raise UsageError(f"the key file holds another identity, {identity.peer_id}: a node keeps its own")
        changes = await self._settings.change(config, identity or self._settings.identity)
        if self._routes is not None and self._gossip is not None:
            self._routes.configure(config, self._settings.identity)
            self._gossip.configure(config, self._settings.identity)
        if self._account is not None:
            self._account.limit_set(config.relay.monthly_gib << 30)
            self._account_look(border, border.runtime.status()["relayed_len"])
        self._keep_configured()
        _log.info("configured changes=%s", ",".join(changes) or "-")
        return changes

    def _shut_out(self) -> None:
        """End the sessions of those that what is in force no longer lets in."""
        border = self._border_now()
        for link in self._links.values():
            peer = link.peer
            host = None if peer.is_relayed else peer.host
            if self._settings.access.is_shut_out(peer.id, host, is_outgoing=link.is_outgoing):
                border.runtime.close_peer(link.channel, Reason.REFUSED)

    def _keep_configured(self) -> None:
        """Keep the peers that the configuration names, and no longer those that it named before."""
        # One list of all nodes may serve all of them.
        own_key = self._settings.identity.link_key
        wanted = [address for address in self._settings.config.peers if address.link_key != own_key]
        for address in set(self._kept) - set(wanted):
            self._kept.pop(address).stop()
        for keeper in self._kept.values():
            keeper.peer_retake()
        for address in wanted:
            if address not in self._kept and self._drained is None:
                self._kept[address] = self._keep(address, partial(self._dial, hops_of(address, None), None, 0))
                self._kept[address].start(None)

    async def drain(self, timeout: float | None = None) -> int:
        """Take no more connections and circuits, and wait until the last circuit through this node has ended.

        Waits `timeout` seconds at most, `config.relay.drain_s` unless it is given, and returns how many circuits are
        left. Sources whose circuits are refused, or cut by the `close` that follows, get `Busy`. Peers, streams and
        messages that are there go on, and so does `connect`; kept peers are not dialled again. There is no way back but
        a new node. May be called again, to wait longer.
        """
        border = self._border_now()
        if self._drained is None:
            self._drained = border.loop.create_future()
            for keeper in self._keepers:
                keeper.stop()
            if self._gossip is not None and self._gossip.leave():
                for link in self._links.values():
                    self._relays_tell(link)
            border.runtime.refuse_circuits()
        wait_s = self._settings.config.relay.drain_s if timeout is None else timeout
        await asyncio.wait([self._drained], timeout=wait_s)
        if self._drained.done():
            return 0
        border.runtime.links()  # once this has an answer the listeners are closed
        n_left: int = border.runtime.status()["n_circuits"]
        return n_left

    async def add_extender(self, extender: Extender) -> None:
        """Offer one more service while the node runs; peers are told.

        Raises `InvalidValue` if the node has an extender of this id, or 250 of them, `LocalError` if its `on_start`
        refuses, `ClosedError` if the node is closed meanwhile.
        """
        await self._offer_now().add(extender)

    async def remove_extender(self, extender_id: ExtenderId, *, grace_s: float = 60.0) -> None:
        """Offer a service no more; peers are told, and no new stream or message of it is taken.

        What is under way may end within `grace_s`; then it is cancelled. Returns when all has ended. Raises
        `InvalidValue` if the node has no such extender.
        """
        if not await self._offer_now().remove(extender_id, grace_s):
            raise InvalidValue(f"removing an extender failed: the node has none of the id {extender_id}")

    def _offer_now(self) -> Offer:
        self._border_now()
        assert self._offer is not None
        return self._offer

    async def close(self) -> None:
        """Close all peers and stop.

        What was written is sent first if that takes no time, tasks of extenders are cancelled, peers are told. Takes a
        few seconds at most. Closing twice does no harm; a cancelled `close` goes on behind the scenes.
        """
        if self._border is None:
            return
        if _get_running_loop() is not self._border.loop:
            raise self._border.foreign_error()
        if self._closing is None:
            self._closing = self._border.loop.create_task(self._close(self._border), name="qg.Node.close")
        await asyncio.shield(self._closing)

    async def _close(self, border: Border) -> None:
        border.is_closing = True
        await self._settings.close()
        if self._offer is not None:
            self._offer.close()
        stopping = [task for keeper in self._keepers if (task := keeper.stop())]
        if stopping:
            await asyncio.wait(stopping)
        for request in list(self._requests.values()):
            request.fail(ClosedError("the node was closed meanwhile"))
        await links_flush(self._links.values())
        await self._registry.serving_stop()
        self._stopped = border.loop.create_future()
        border.runtime.stop()
        await asyncio.wait([self._stopped], timeout=_STOP_S)  # `join` does not wait for goodbyes that hang
        wake(self._drained)
        self._settings.taken()
        self._account_look(border, border.runtime.status()["relayed_len"])
        if self._account is not None:
            self._account.save()
        self._end(border)
        if self._loop_end is not None:
            await self._loop_end.aclose()
        # The thread may wait for connections to take their last bytes.
        await asyncio.to_thread(border.runtime.join)
        await self._registry.hooks_stop()
        if self._offer is not None:
            await self._offer.stop()
        if self._finalizer is not None:
            self._finalizer.detach()
        _log.info("node_closed peer=%s", self.id)

    async def _loop_watch(self, border: Border) -> AsyncGenerator[None, None]:
        """Wait for the end of the loop, which then closes this generator: from there on no task may begin."""
        try:
            yield
        finally:
            self._loop_end = None  # nobody closes it twice
            if not border.is_closed:
                border.is_closing = True
                await self._registry.serving_stop()
                await self._registry.hooks_stop()
                if self._offer is not None:
                    await self._offer.stop()

    def _renew(self) -> None:
        """Take certificates of today, and new link keys if the identity has some."""
        border = self._border_now()
        border.runtime.renew(self._settings.identity._ring)
        self._renewal = border.loop.call_later(_RENEW_S, self._renew)

    def _look(self, watch: Watch) -> None:
        border = self._border_now()
        watch.lines_max = _lines_max(self._settings.config)
        watch.clock_window_s = self._settings.config.link.clock_window_s
        core_status = border.runtime.status()
        watch.look(core_status)
        self._account_look(border, core_status["relayed_len"])
        self._watching = border.loop.call_later(_WATCH_S, self._look, watch)

    def _account_look(self, border: Border, n_relayed: int) -> None:
        if self._account is not None:
            self._account.look(n_relayed, time())
            border.runtime.relay_spend(self._account.is_spent)

    def _end(self, border: Border) -> None:
        """Take no more events and commands; what is still open is told."""
        for timer in (self._renewal, self._watching, self._telling):
            if timer is not None:
                timer.cancel()
        border.is_closed = True
        border.loop.remove_reader(border.runtime.fileno())
        for flow in list(border.flows.values()):
            flow.on_reset(Reason.SHUTDOWN)
        border.flows.clear()
        for link in list(self._links.values()):
            self._link_down(link, Reason.SHUTDOWN)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "new" if self._border is None else "closed" if self._border.is_closed else "running"
        return f"<Node {str(self.id)[:12]}…, {state}>"

    # What is known

    @property
    def access(self) -> Access:
        """Give what says who may connect to this node, and what they may."""
        return self._settings.access

    @property
    def id(self) -> PeerId:
        """Give the PeerID of the node."""
        return self._settings.identity.peer_id

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Give the addresses by which others reach this node; `str` gives the line to paste.

        They are those of `config.advertise`, else those of the endpoints listened on, ports filled in.
        """
        told = self._settings.config.advertise if self._bound and self._settings.config.advertise else self._bound
        return tuple(Address(self._settings.identity.link_key, endpoint.host, endpoint.port) for endpoint in told)

    @property
    def address(self) -> Address:
        """Give the first of the addresses; raises `UsageError` if there is none."""
        if not self._bound:
            raise UsageError("the node has no address: it is not started, or listen is empty")
        return self.addresses[0]

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Give the peers connected now, in the order in which they came."""
        return tuple(dict.fromkeys(link.peer for link in self._links.values()))

    def find_peers(
        self, *extender_ids: ExtenderId, is_relayed: bool | None = None, is_outgoing: bool | None = None
    ) -> list[Peer]:
        """Give the peers connected now that offer all of these services.

        `is_relayed` narrows it to those over relays, or not; `is_outgoing` to those that this side dialled, or that
        came. Each has proved its PeerID, whoever dialled.
        """
        return peers_find(self.peers, extender_ids, is_relayed=is_relayed, is_outgoing=is_outgoing)

    def broadcast(
        self,
        extender_id: ExtenderId,
        message: bytes | bytearray | memoryview,
        *,
        peers: Iterable[Peer] | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> list[Peer]:
        """Send a message to all peers that offer an extender, or to `peers`; give those it was sent to.

        Nobody is waited for: who cannot take it at once is left out, as is who is gone. Raises `InvalidValue` for a
        message longer than `limits.message_max_kib`.
        """
        return broadcast(self.find_peers(extender_id) if peers is None else peers, extender_id, message, priority)

    def status(self) -> Status:
        """Take a snapshot of the node's counters, peers and links.

        Blocks until the native thread has come around, which takes less than a millisecond and at most a second.
        """
        return self._status(self.peers)

    def totals(self) -> Status:
        """Take the same without its lists of peers and links, at a cost that does not grow with them."""
        return self._status(())

    def _status(self, listed: tuple[Peer, ...]) -> Status:
        border = self._border_now()
        records = {} if self._gossip is None else self._gossip.counts
        made = self._settings
        status = status_make(border, made.identity, self._bound, listed, self._started_s, records, made.config)
        kept = tuple(keeper.info() for keeper in self._keepers if not keeper.is_stopped)
        if self._account is not None:
            self._account_look(self._border_now(), status.relayed_bytes)
            status = status._replace(relayed_month_bytes=self._account.used, relayed_month_limit=self._account.limit)
        status = status._replace(n_peers=len(self.peers), n_links=len(self._links), extenders=self._registry.infos())
        return status._replace(is_draining=self._drained is not None, kept=kept, access=self.access.store_state)

    def is_working(self) -> bool:
        """Tell whether all native threads take their turns; waits for them, a second each at most."""
        return self._border_now().runtime.is_turning()

    def remains(self) -> dict[str, int]:
        """Count what a closed node should have given back; for tests."""
        if self._border is None:
            return {}
        core_status = self._border.runtime.status()
        names = ("n_blocks", "n_border_blocks", "n_sessions", "n_flows", "n_conns", "n_tunnels", "n_served")
        return {name: core_status[name] for name in names} | {
            "streams": len(self._border.flows),
            "links": len(self._links),
            "requests": len(self._requests),
            "bytes of messages": self._border.n_pending,
        }

    def calls_with_messages(self, key: bytes) -> bool:
        """Tell whether an extender of this node is called with messages for this id."""
        return self._registry.takes_messages(key)

    def _border_now(self) -> Border:
        if self._border is None:
            raise UsageError("the node is not started: use `async with Node(...)`, or await node.start()")
        self._border.check()
        return self._border

    # Requests

    def _request(self, request: Request[Any]) -> int:
        self._last_request += 1
        self._requests[self._last_request] = request
        return self._last_request

    async def _listen(self, endpoint: Endpoint) -> Endpoint:
        border = self._border_now()
        request = Listening(border.loop.create_future(), endpoint)
        number = self._request(request)
        border.runtime.listen(number, endpoint.host, endpoint.port)
        try:
            return await request.future
        finally:
            self._requests.pop(number, None)

    async def connect(
        self,
        address: str | Address,
        *,
        via: Sequence[str | Address] | None = None,
        hops: int | None = None,
        identity: Identity | None = None,
        isolation: str | bytes | None = None,
        keep: bool = False,
    ) -> Peer:
        """Connect to a peer, over relays if `via` names some, the nearest first; else over those of the address.

        With `hops` the node draws so many relays, 1 to 7, from those that it knows: no two of them lie in one network
        (/16, IPv6 /48), and none in one of this node or of the target. Others are drawn where one fails; the first is
        always one of the same two (`Config.guards`).

        A direct session that exists already is used, except with an `identity`: that is a throw-away one, which the
        peer sees instead of the node's, and the session a new one. A cancelled call leaves no session behind that was
        made for it alone.

        Circuits of an equal `isolation` share their layers as far as their paths begin with the same relays, which
        saves handshakes and lets these relays see that they belong together. Without one, each has layers of its own.

        With `keep` the peer is dialled again whenever it is gone, until `Peer.close` or the end of the node, after a
        random time of up to a second that doubles with each failure, up to five minutes. The call itself raises when
        the first session does not come about, and keeps nothing then. See `Peer` for what a kept peer does while it
        is down.

        Raises `Unreachable` when nobody answers there, `PeerTimeout` when there is silence, as also after a wrong link
        key or network secret, `HandshakeFailed` for another identity than the address pins, `Refused` or `Busy` by a
        relay, `AddressError` for a bad address, `NoRoute` where too few relays are known.
        """
        isolated = isolation_number(isolation, self._settings.identity)
        if hops is None:
            path = hops_of(address, via)
            way, shown = partial(self._dial, path, identity, isolated), path[-1]._replace(via=path[:-1])
        else:
            shown = far_target(address, via)
            way = partial(self._dial_far, shown, hops, identity, isolated)
        peer = await way(None)
        if keep and peer.keeper is None:
            self._keep(shown, way).start(peer)
        return peer

    def _keep(self, address: Address, way: Callable[[Peer | None], Awaitable[Peer]]) -> Keeper:
        self._keepers = [keeper for keeper in self._keepers if not keeper.is_stopped]
        keeper = Keeper(str(address), way)
        self._keepers.append(keeper)
        return keeper

    async def _dial_far(
        self, target: Address, n_hops: int, identity: Identity | None, isolation: int, gone: Peer | None
    ) -> Peer:
        """Connect to a target over relays that are drawn."""
        self._border_now()
        assert self._routes is not None
        hosts = [endpoint.host for endpoint in (*self._bound, *self._settings.config.advertise)]
        build = partial(self._dial, identity=identity, isolation=isolation, gone=gone)
        linked = KnownRelay.linked(self._links.values())
        abandon = None if gone is not None else _abandon  # one that comes back does so once
        return await self._routes.connect(target, n_hops, hosts, linked, build, abandon)

    async def _dial(
        self,
        hops: tuple[Address, ...],
        identity: Identity | None,
        isolation: int,
        gone: Peer | None,
        others: Sequence[Any] = (),
    ) -> Peer:
        """Connect to the last of the hops; a peer that is `gone` comes back as the same object."""
        border = self._border_now()
        if border.is_closing:
            raise ClosedError("connecting failed: the node is being closed")
        request = Connecting(border.loop.create_future(), hops, gone, is_masked=identity is not None)
        number = self._request(request)
        ring = None if identity is None else identity._ring
        request.isolation = isolation
        near = None if identity is not None and len(hops) == 1 else self._channel_near(hops, isolation)
        try:
            request.wanted = hop_tuples(hops, others)
            border.runtime.connect(number, request.wanted, identity is not None, ring, isolation, near)
            return await request.future
        except asyncio.CancelledError:
            self._connect_cancel(border, number, request)
            raise
        finally:
            self._requests.pop(number, None)

    def _channel_near(self, hops: Sequence[Address], isolation: int) -> int | None:
        """Give the session whose worker is to make a connection: the one that is there, or the only way.

        Circuits go round all workers, which dial the first relay each; a relay that this node has not dialled may be
        out of their reach.
        """
        key = hops[0].link_key
        peer = None if key is None else self._by_key.get(bytes(key))
        if peer is None or not peer.links or (len(hops) > 1 and any(link.is_outgoing for link in peer.links)):
            return None
        return peer.links[-1 if len(hops) == 1 else (isolation or self._last_request) % len(peer.links)].channel

    def _connect_cancel(self, border: Border, number: int, request: Connecting) -> None:
        """Leave nothing behind of a connect that nobody waits for any more."""
        if border.is_closed:
            return
        border.runtime.cancel(number)
        if request.peer is not None:
            request.peer.n_claims -= 1
            self._unclaimed_close(border, request.peer)

    def _unclaimed_close(self, border: Border, peer: Peer) -> None:
        """Close a peer that was dialled for calls of `connect` which have all been cancelled, unless it is in use."""
        if peer.n_claims or not all(link.is_asked for link in peer.links) or border.is_closing:
            return
        if not any(flow.peer is peer for flow in border.flows.values()):
            peer.close_start(Reason.CANCELLED)

    # Events of the core

    def _handlers_make(self, reception: Reception) -> dict[int, Callable[[tuple[Any, ...]], None]]:
        return {
            core.EV_LISTENING: self._on_listening,
            core.EV_PEER_UP: self._on_peer_up,
            core.EV_PEER_DOWN: self._on_peer_down,
            core.EV_CONNECT_FAILED: self._on_connect_failed,
            core.EV_STREAM_OPEN: reception.on_open,
            core.EV_STREAM_ACCEPTED: reception.on_accepted,
            core.EV_STREAM_FIN: reception.on_fin,
            core.EV_STREAM_RESET: reception.on_reset,
            core.EV_STREAM_DONE: reception.on_done,
            core.EV_PONG: self._on_pong,
            core.EV_IDENTITY_TWICE: self._on_identity_twice,
            core.EV_PEERS: self._on_peers,
            core.EV_SERVICES: self._on_services,
            core.EV_TAMPERED: self._on_tampered,
            core.EV_DRAINED: self._on_drained,
            core.EV_CONFIGURED: self._on_configured,
            core.EV_STOPPED: self._on_stopped,
        }

    def _on_readable(self) -> None:
        """Take events from the ring until it is empty; only then does the descriptor tell of the next ones."""
        border = self._border
        if border is None or border.is_closed:
            return
        drain, flows, handlers = border.runtime.drain, border.flows, self._handlers
        data_event, sent_event = core.EV_STREAM_DATA, core.EV_STREAM_SENT
        for _ in range(_ROUNDS_MAX):
            events = drain(_EVENTS_MAX)
            if not events:
                return
            for event in events:
                kind = event[0]
                if kind == data_event:
                    flow = flows.get(event[1])
                    if flow is not None:
                        flow.on_data(event[2])
                elif kind == sent_event:
                    flow = flows.get(event[1])
                    if flow is not None:
                        flow.on_sent(event[2])
                else:
                    handlers[kind](event)
        border.loop.call_soon(self._on_readable)

    def _on_listening(self, event: tuple[Any, ...]) -> None:
        _, number, error, host, port = event
        request = self._requests.get(number)
        if not isinstance(request, Listening):
            return
        if error:
            request.fail(listen_error(request.endpoint, error))
        else:
            request.resolve(Endpoint(request.endpoint.transport, host, port))

    def _on_peer_up(self, event: tuple[Any, ...]) -> None:
        _, channel, number, is_relayed, is_outgoing, peer_id, link_key, host, port, *more = event
        suite, is_preferred, services, terms = more
        border = self._border_now()
        link = self._links.get(channel)
        request = self._requests.get(number)
        if link is None:
            gone = request.gone if isinstance(request, Connecting) else None
            is_own = is_relayed or (isinstance(request, Connecting) and request.is_masked)
            peer = gone if is_own else self._direct.get(peer_id)
            place = LinkKey(link_key), host, port, _SUITES.get(suite, str(suite))
            if peer is None or not peer.takes_links or bytes(peer.id) != peer_id:
                peer = Peer(self, border, PeerId(peer_id), *place)
                peer.is_relayed = is_relayed
                if not is_own:
                    self._direct[peer_id] = peer
            elif not peer.is_connected:
                peer.revive(*place)
            if not is_own:
                self._by_key[link_key] = peer
            elif isinstance(request, Connecting):
                peer.via = request.hops[:-1]
            link = self._links[channel] = Link(border, channel, peer, is_outgoing=is_outgoing, is_asked=number != 0)
            self._link_up(link, is_preferred=is_preferred)
            peer.extenders = ids_read(services or b"")
            self._registry.peer_look(peer)
        link.peer.relay_terms = None if terms is None else RelayTerms(*terms)
        if number:
            if isinstance(request, Connecting):
                request.give(link.peer)
            else:  # cancelled; the same session may be reported to another request yet
                border.loop.call_soon(self._unclaimed_close, border, link.peer)

    def _link_up(self, link: Link, *, is_preferred: bool) -> None:
        """Take in a new session: the first of its peer, or one more."""
        peer = link.peer
        if bytes(peer.id) == bytes(self.id):
            _log.warning("identity_twice peer=%s remote=%s: another node runs with this identity", peer.id, peer.host)
        is_first = not peer.links
        _log.info(
            "%s peer=%s remote=%s:%d suite=%s relayed=%s",
            "peer_up" if is_first else "link_up",
            peer.id,
            peer.host,
            peer.port,
            peer.suite,
            peer.is_relayed,
        )
        peer.link_add(link, is_preferred=is_preferred)
        self._relays_tell(link)
        if is_first and peer.keeper is not None:
            peer.keeper.on_up()

    def _on_peer_down(self, event: tuple[Any, ...]) -> None:
        _, channel, reason, is_remote, status = event
        link = self._links.get(channel)
        if link is None:
            return
        _log.info(
            "%s peer=%s reason=%s remote=%s status=%d",
            "link_down" if len(link.peer.links) > 1 else "peer_down",
            link.peer.id,
            Reason(reason).name.lower(),
            is_remote,
            status,
        )
        self._link_down(link, Reason(reason))

    def _link_down(self, link: Link, reason: Reason) -> None:
        del self._links[link.channel]
        peer = link.peer
        if peer.link_drop(link, reason):
            is_direct = self._direct.get(bytes(peer.id)) is peer
            if is_direct and peer.keeper is None:
                del self._direct[bytes(peer.id)]
            if self._by_key.get(bytes(peer.link_key)) is peer:
                del self._by_key[bytes(peer.link_key)]
            self._registry.peer_look(peer)
            if is_direct and reason is Reason.DUPLICATE:
                _log.warning(
                    "identity_twice peer=%s at=%s: another node with this identity has a newer session there",
                    self.id,
                    peer.id,
                )

    def _on_identity_twice(self, event: tuple[Any, ...]) -> None:
        """Say it once per identity and hour: whoever has a copied key can bring it about as often as he likes."""
        now_s = monotonic()
        peer_id = event[2]
        self._twice_s = {twin: at_s for twin, at_s in self._twice_s.items() if now_s - at_s < _TWICE_S}
        if peer_id in self._twice_s or len(self._twice_s) >= _TWICE_MAX:
            return
        self._twice_s[peer_id] = now_s
        _log.warning(
            "identity_twice peer=%s: two nodes run with this identity, or it has restarted without a goodbye;"
            " the older session is closed",
            PeerId(peer_id),
        )

    # Relays that peers tell of

    def _relays_tell(self, link: Link) -> None:
        """Tell a direct peer of this node, if it relays, and of others; the core leaves out sessions that may not."""
        border = self._border_now()
        assert self._gossip is not None
        if not link.peer.is_relayed and not border.is_closing:
            endpoints = self._settings.config.advertise or self._bound
            frame = self._gossip.frame_make(endpoints, link.peer.id)
            if frame is not None:
                border.runtime.tell_peers(link.channel, frame)

    def _tell(self) -> None:
        """Tell one peer, and do so again after a while."""
        border = self._border_now()
        assert self._gossip is not None
        self._telling = border.loop.call_later(self._gossip.tell_wait_s(), self._tell)
        links = [link for link in self._links.values() if not link.peer.is_relayed]
        if links:
            self._relays_tell(random.choice(links))

    def _on_peers(self, event: tuple[Any, ...]) -> None:
        link = self._links.get(event[1])
        if link is not None and self._gossip is not None:
            self._gossip.take(link.peer.id, event[2])

    def _on_services(self, event: tuple[Any, ...]) -> None:
        link = self._links.get(event[1])
        if link is not None:
            self._offer_now().heard(link.peer, event[2], event[3])

    def _on_tampered(self, event: tuple[Any, ...]) -> None:
        if self._routes is not None:
            self._routes.tampered(LinkKey(event[2]), LinkKey(event[3]))

    def _on_connect_failed(self, event: tuple[Any, ...]) -> None:
        _, number, reason, hop_idx, status, by_relay, terms = event
        request = self._requests.get(number)
        if isinstance(request, Connecting):
            if self._connect_again(number, request, hop_idx, Reason(reason)):
                return
            error = connect_error(request.hops, hop_idx, Reason(reason), status, by_relay, terms)
            if isinstance(error, RemoteError):
                error.hop_idx = hop_idx
            request.fail(error)

    def _connect_again(self, number: int, request: Connecting, hop_idx: int, reason: Reason) -> bool:
        """Try once more where a worker could not reach the first hop and another worker has a session with it."""
        key = request.hops[0].link_key
        if request.is_second or hop_idx or reason not in (Reason.UNREACHABLE, Reason.TIMEOUT) or key is None:
            return False
        peer = self._by_key.get(bytes(key))
        if request.is_masked or peer is None or not peer.is_connected or peer.is_closed_here:
            return False
        request.is_second = True
        runtime = self._border_now().runtime
        runtime.connect(number, request.wanted, isolation=request.isolation, near=peer.links[-1].channel)
        return True

    def _on_pong(self, event: tuple[Any, ...]) -> None:
        link = self._links.get(event[1])
        if link is not None:
            link.peer.on_pong(event[2])

    def _on_configured(self, event: tuple[Any, ...]) -> None:
        self._settings.taken()

    def _on_drained(self, event: tuple[Any, ...]) -> None:
        wake(self._drained)

    def _on_stopped(self, event: tuple[Any, ...]) -> None:
        wake(self._stopped)


def _abandon(peer: Peer) -> None:
    peer.close_start(Reason.NONE)


def _lines_max(config: Config) -> int:
    """Give how many lines one look at the counters may log."""
    return max(1, int(config.limits.log_lines_per_s * _WATCH_S))


def _runtime_end(runtime: Runtime, name: str, pid: int) -> None:
    """Stop a runtime whose node was never closed: when the node is collected, or when the interpreter ends."""
    if os.getpid() == pid:  # a forked child has no such thread
        warnings.warn(
            f"{name} was never closed: use `async with`, or await node.close()", ResourceWarning, stacklevel=2
        )
        runtime.join()
