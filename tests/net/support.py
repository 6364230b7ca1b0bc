# SPDX-License-Identifier: MIT
"""What the tests of failures share: settings, strangers that are no nodes, counters that are waited for."""

import asyncio
import contextlib
import socket

from api.services import Echo, Held, Mailbox

import qg
from qg.testing import conserved

LISTEN = ["tcp://127.0.0.1:0"]
LOOPBACK = ["127.0.0.0/8"]
MIB = 1 << 20
SOON = {"handshake_s": 1}  # of relays, so that they give up before their 15 s are over
# What `counters` says of traffic that was in order.
_IN_ORDER = {"accepted", "handshakes", "records_taken", "records_known", "records_own", "records_verified"}


def config(**tables):
    """Settings as a file would give them: config(link={"dead_peer_s": 2})."""
    return qg.Config.from_dict(tables)


def core(node):
    """The numbers of the compiled half; most of them are in no `Status`."""
    return node._border.runtime.status()


def faults(node):
    """The counters of a node that tell of something wrong."""
    return {name: n for name, n in node.status().counters.items() if name not in _IN_ORDER}


class Drain(qg.Extender):
    """Read and count everything, and note how each stream ended."""

    id = qg.ExtenderId("6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9f01")

    def __init__(self):
        self.n_bytes = 0
        self.ends = asyncio.Queue()  # an error, or None for an orderly end

    async def on_stream(self, stream):
        error = None
        try:
            async for chunk in stream:
                self.n_bytes += len(chunk)
        except Exception as raised:
            error = raised
        self.ends.put_nowait(error)


class Services(list):
    """The extenders of one node of these tests."""

    def __init__(self):
        self.drain, self.held = Drain(), Held()
        super().__init__([Echo(), Mailbox(), self.drain, self.held])


async def write_forever(stream):
    while True:
        await stream.write(bytes(65536))


async def until(condition, what):
    """Wait for what a node only counts, and tells nobody."""
    try:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"did not come: {what()}") from None


class Stranger:
    """A TCP connection to a node by something that is no node."""

    def __init__(self, sock):
        self.sock = sock

    async def send(self, data):
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def finish(self):
        self.sock.shutdown(socket.SHUT_WR)

    def answer(self):
        """What has come and was not taken: None for an open connection in silence, b"" for FIN; raises after RST."""
        try:
            return self.sock.recv(65536)
        except BlockingIOError:
            return None

    async def receive(self):
        """Wait for bytes, or b"" for FIN."""
        return await asyncio.get_running_loop().sock_recv(self.sock, 65536)

    async def receive_all(self):
        """Everything until FIN; raises after RST."""
        parts = []
        while data := await self.receive():
            parts.append(data)
        return b"".join(parts)


async def dial(node):
    """Connect a socket to a node."""
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", node.address.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Target:
    """A node to be tried by strangers, and a friend that is connected to it."""

    def __init__(self, node, peer, stack):
        self.node = node
        self.peer = peer
        self._stack = stack

    async def dial(self):
        return Stranger(self._stack.enter_context(await dial(self.node)))

    async def tell(self, *flights):
        """Let one stranger say each of these, and leave the connections open."""
        strangers = [await self.dial() for _ in flights]
        for stranger, flight in zip(strangers, flights, strict=True):
            await stranger.send(flight)
        return strangers

    async def heard(self, **expected):
        """Wait until the node has counted exactly these faults, and has answered all it wants to answer."""
        await until(lambda: sum(faults(self.node).values()) >= sum(expected.values()), lambda: faults(self.node))
        await self.settled()
        assert faults(self.node) == expected

    async def settled(self):
        """Let the node's loop come around: what had arrived before has been worked on."""
        for _ in range(3):
            await self.peer.ping()

    async def close_with(self, strangers):
        """Close the node: each of these strangers gets FIN and not a byte, and goes too."""
        closing = asyncio.create_task(self.node.close())
        for stranger in strangers:
            assert await stranger.receive_all() == b""
            stranger.sock.close()
        await closing


@contextlib.asynccontextmanager
async def target(network_secret=None, friend=None, **tables):
    """Run a node for strangers, and check that nothing is left of it afterwards."""
    async with conserved() as nodes, contextlib.AsyncExitStack() as stack:
        node = qg.Node(qg.Identity.generate(), listen=LISTEN, config=config(**tables), network_secret=network_secret)
        friend = qg.Node(friend or qg.Identity.generate(), network_secret=network_secret)
        for each in (node, friend):
            nodes.append(await stack.enter_async_context(each))
        yield Target(node, await friend.connect(node.address), stack)


def nobody():
    """The address of a node that does not run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return qg.Address(qg.Identity.generate().link_key, "127.0.0.1", port)


class Trial:
    """Make nodes with all services that are closed and checked at the end of the test."""

    def __init__(self, nodes, stack):
        self._nodes = nodes
        self._stack = stack

    async def node(self, **tables):
        services = Services()
        node = qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=services, config=config(**tables))
        self._nodes.append(await self._stack.enter_async_context(node))
        node.services = services
        return node

    async def enter(self, context):
        """Use a context until the test ends, before the nodes close."""
        return await self._stack.enter_async_context(context)

    async def relay(self, *users, to=(), **tables):
        """A node that relays for these nodes, to the ports of the addresses in `to`."""
        allow = [str(user.id) for user in users]
        relay = {"allow": allow, "targets": LOOPBACK, "ports": [address.port for address in to]}
        return await self.node(relay=relay | tables.pop("relay", {}), **({"limits": SOON} | tables))


@contextlib.asynccontextmanager
async def trial():
    """At the end every node must have given everything back while it still runs, and again once it is closed."""
    async with conserved() as nodes, contextlib.AsyncExitStack() as stack:
        yield Trial(nodes, stack)
        for node in nodes:
            await until(lambda node=node: core(node)["n_circuits"] == 0, lambda node=node: core(node))
            await until(lambda node=node: core(node)["n_half_open"] == 0, lambda node=node: core(node))
            assert core(node)["relay_held_len"] == 0
