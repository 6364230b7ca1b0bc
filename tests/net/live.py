# SPDX-License-Identifier: MIT
"""The protocol model in the event loop of a test, over real sockets, with the nodes that it talks to.

    async with talk("node") as t:
        stream = t.peer.stream_open(frames.KIND_BYTES, bytes(Echo.id))
        t.peer.stream_write(stream, b"hello")
        await t.model.until(lambda: stream.receiver.data == b"hello")

Whatever comes on a link of a model is handled at once; then everything the model has to say goes out.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.services import Echo, Held, Mailbox
from model import frames
from model.cert import Identity, network_secret_text
from model.envelope import KIND_NK1, KIND_XK1, KIND_XX1, Network
from model.frames import HelloValues
from model.handshake import Party
from model.peer import ModelPeer, peer_answer, peer_dial
from model.streams import Stream
from model.tcp import TcpLink, answer, dial

import qg

OPEN_NETWORK = bytes(32)
CLOSED_NETWORK = bytes(range(32))
LINK_HELLO = HelloValues(max_pipes=8)
NEVER_S = 1 << 40
LISTEN = "tcp://127.0.0.1:0"


class Model:
    """A party of the model with its links, moved by the running event loop."""

    def __init__(self, secret: bytes = OPEN_NETWORK, suites: int = 7, hello: HelloValues = LINK_HELLO) -> None:
        kinds = (KIND_XK1, KIND_XX1, KIND_NK1)
        self.identity = Identity(os.urandom(32), os.urandom(32), NEVER_S)
        self.party = Party(self.identity, Network(secret), suites, kinds)
        self.hello = hello
        self.handlers: dict[int, Callable[[ModelPeer, Stream], None]] = {}  # of every link, see ModelPeer
        self.steps: list[Callable[[], None]] = []  # what the model does by itself whenever something has come
        self.links: list[TcpLink] = []
        self.arrivals: asyncio.Queue[TcpLink] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._waiters: list[asyncio.Future[None]] = []
        self._listener: socket.socket | None = None

    def dial(self, address: qg.Address, kind: int = KIND_XK1, *, piece_len: int = 0) -> TcpLink:
        """Connect to a node; `piece_len` bounds what one read or write of the socket moves."""
        link_key = b"" if kind == KIND_XX1 else bytes(address.link_key)
        peer = peer_dial(self.party, link_key, kind=kind, hello=self.hello)
        return self._link_add(dial(address.host, address.port, peer), piece_len)

    def listen(self, where: tuple[str, int] = ("127.0.0.1", 0), *, piece_len: int = 0) -> qg.Address:
        """Wait for nodes; their links come into `arrivals`."""
        self._listener = socket.create_server(where, backlog=64)
        self._loop.add_reader(self._listener, self._on_arrival, piece_len)
        host, port = self._listener.getsockname()
        return qg.Address(qg.LinkKey(self.identity.link_public), host, port)

    def _on_arrival(self, piece_len: int) -> None:
        self.arrivals.put_nowait(self._link_add(answer(self._listener, peer_answer(self.party, self.hello)), piece_len))

    def _link_add(self, link: TcpLink, piece_len: int) -> TcpLink:
        if piece_len:
            link.read_len = link.write_len = piece_len
        link.peer.handlers.update(self.handlers)
        self.links.append(link)
        self.resume(link)
        self.move()
        return link

    def pause(self, link: TcpLink) -> None:
        """Let what comes wait in the socket."""
        self._loop.remove_reader(link)

    def resume(self, link: TcpLink) -> None:
        self._loop.add_reader(link, self._on_readable, link)

    def _on_readable(self, link: TcpLink) -> None:
        link.read()
        if link.is_at_eof:
            self._loop.remove_reader(link)
        self.move()

    def move(self) -> None:
        """Act on what has come, send what there is to say, and let those who wait look again."""
        for step in self.steps:
            step()
        for link in self.links:
            link.write()
            if link.has_unsent() and not link.is_at_eof:
                self._loop.add_writer(link, self.move)
            else:
                self._loop.remove_writer(link)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds that depends on what comes; it may read streams and send frames."""
        while True:
            is_true = condition()
            self.move()
            if is_true:
                return
            if self.links and all(link.is_at_eof for link in self.links):
                raise ConnectionError(f"every link has ended; failures: {[link.peer.failure for link in self.links]}")
            self._waiters.append(self._loop.create_future())
            await self._waiters[-1]

    async def connected(self, peer: ModelPeer) -> ModelPeer:
        await self.until(lambda: peer.is_connected or peer.end)
        assert peer.is_connected, f"ended by {peer.end}, reason {peer.end_reason}, failure {peer.failure}"
        return peer

    async def read_all(self, peer: ModelPeer, stream: Stream) -> bytes:
        """Everything that comes on a stream until the other side has finished it."""
        taken = bytearray()

        def is_over() -> bool:
            taken.extend(peer.stream_read(stream))
            assert stream.reset_reason is None, "the stream was reset"
            return stream.fin_received

        await self.until(is_over)
        return bytes(taken)

    async def stream_from(self, peer: ModelPeer, kind: int = frames.KIND_BYTES) -> Stream:
        """The first stream of a kind that the other side has opened and the model still has."""
        found = []

        def is_open() -> bool:
            found.extend(s for s in peer.streams.values() if not s.is_ours and s.kind == kind)
            return bool(found)

        await self.until(is_open)
        return found[0]

    async def hang_up(self, link: TcpLink) -> None:
        """Close a link as the protocol says and forget it."""
        link.peer.close()
        await self.until(lambda: link.is_at_eof)
        self.forget(link)

    def forget(self, link: TcpLink) -> None:
        self.links.remove(link)
        self._loop.remove_reader(link)
        self._loop.remove_writer(link)
        link.sock.close()

    async def __aenter__(self) -> "Model":
        return self

    async def __aexit__(self, *exc: object) -> None:
        for link in list(self.links):
            self.forget(link)
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()


async def bytes_wait(sock: socket.socket, n: int) -> None:
    """Wait until at least n bytes can be read from a socket."""
    loop = asyncio.get_running_loop()
    is_readable = asyncio.Event()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, n)
    loop.add_reader(sock, is_readable.set)
    await is_readable.wait()
    loop.remove_reader(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


class Host:
    """A node with the services of the tests."""

    def __init__(self, config: qg.Config | None, secret: bytes) -> None:
        self.held, self.mailbox = Held(), Mailbox()
        self._met: set[qg.Peer] = set()
        network_secret = None if secret == OPEN_NETWORK else qg.NetworkSecret.parse(network_secret_text(secret))
        extenders = [Echo(), self.held, self.mailbox]
        self.node = qg.Node(
            qg.Identity.generate(), listen=[LISTEN], extenders=extenders, config=config, network_secret=network_secret
        )

    async def guest(self) -> qg.Peer:
        """The next peer that has connected."""
        while not (fresh := [peer for peer in self.node.peers if peer not in self._met]):
            await asyncio.sleep(0)
        self._met.add(fresh[0])
        return fresh[0]


@asynccontextmanager
async def host(config: qg.Config | None = None, secret: bytes = OPEN_NETWORK):
    """Run a node; after a block without an error nothing of it must be left."""
    made = Host(config, secret)
    async with made.node:
        yield made
        made.held.release.set()
    left = {name: n for name, n in made.node.remains().items() if n}
    assert not left, f"the node has not given back: {left}"


@dataclass
class Talk:
    """A node and a model with a link between them."""

    host: Host
    model: Model
    link: TcpLink
    far: qg.Peer  # the model, as the node sees it

    @property
    def node(self) -> qg.Node:
        return self.host.node

    @property
    def peer(self) -> ModelPeer:
        return self.link.peer

    async def held(self) -> qg.Stream:
        """The next stream to `Held` that the model has opened, as the node sees it."""
        self.model.move()
        return await self.host.held.streams.get()


@asynccontextmanager
async def talk(
    dialler: str,
    kind: int = KIND_XK1,
    *,
    config: qg.Config | None = None,
    secret: bytes = OPEN_NETWORK,
    suites: int = 7,
    piece_len: int = 0,
    hello: HelloValues = LINK_HELLO,
):
    """Connect a node and a model, by XK or XX; `dialler` is "model" or "node"."""
    async with host(config, secret) as made, Model(secret, suites, hello) as model:
        if dialler == "model":
            link = model.dial(made.node.address, kind, piece_len=piece_len)
            await model.connected(link.peer)
            far = await made.guest()
        else:
            address = model.listen(piece_len=piece_len)
            far = await made.node.connect(address._replace(link_key=None) if kind == KIND_XX1 else address)
            link = await model.arrivals.get()
            await model.connected(link.peer)
        yield Talk(made, model, link, far)
