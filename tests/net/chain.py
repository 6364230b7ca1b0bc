# SPDX-License-Identifier: MIT
"""Nodes on 127.N.0.1, one network each, as on machines that are far apart: relays in a row, or as many as wanted."""

import contextlib
import socket

from net.support import LOOPBACK, Services

import qg
from qg.testing import conserved

SUITES = {"aegis-256": [], "chacha20-poly1305": ["aegis-256", "aes-256-gcm"]}
FIRST_NET = 10  # N of the first node's 127.N.0.1; the source dials from 127.0.0.1


def host(idx):
    return f"127.{FIRST_NET + idx}.0.1"


def port_free(n_hosts):
    """A port that is free on so many hosts: relays list ports, so all nodes have the same."""
    for _ in range(100):
        with contextlib.ExitStack() as stack:
            probe = stack.enter_context(socket.socket())
            probe.bind((host(0), 0))
            port = probe.getsockname()[1]
            with contextlib.suppress(OSError):
                for idx in range(1, n_hosts):
                    stack.enter_context(socket.socket()).bind((host(idx), port))
                return port
    raise AssertionError("no port is free on all hosts")


class World:
    """A source, relays that serve everybody named to them, and a target, each in a network of its own."""

    def __init__(self, nodes, stack, n_hosts):
        self._nodes = nodes
        self._stack = stack
        self.port = port_free(n_hosts)
        self.relays = []

    async def node(self, idx=None, *, identity=None, config=None, **options):
        """Run a node on host `idx`; None: one that only dials."""
        listen = [] if idx is None else [f"tcp://{host(idx)}:{self.port}"]
        node = qg.Node(identity or qg.Identity.generate(), listen=listen, config=config, **options)
        self._nodes.append(await self._stack.enter_async_context(node))
        return node

    def config(self, users=(), **tables):
        """The settings of a relay for these users."""
        relay = {
            "allow": [str(user) for user in users],
            "targets": LOOPBACK,
            "ports": [self.port],
        }
        return qg.Config.from_dict({"relay": relay | tables.pop("relay", {}), **tables})


@contextlib.asynccontextmanager
async def world(n_hosts):
    """Nodes that are closed at the end, and must have given everything back then."""
    async with conserved() as nodes, contextlib.AsyncExitStack() as stack:
        yield World(nodes, stack, n_hosts)


@contextlib.asynccontextmanager
async def chain(n_relays, **tables):
    """A source, so many relays in a row, and a target with all services; each relay serves the one before it only."""
    async with world(n_relays + 1) as made:
        identities = [qg.Identity.generate() for _ in range(n_relays + 2)]
        users = [identity.peer_id for identity in identities]
        relay = tables.pop("relay", {})
        config = qg.Config.from_dict(tables)
        services = Services()
        target = await made.node(n_relays, identity=identities[-1], config=config, extenders=services)
        made.source = await made.node(identity=identities[0], config=config)
        for idx in range(n_relays):
            settings = made.config(users[idx : idx + 1], relay=relay, **tables)
            made.relays.append(await made.node(idx, identity=identities[idx + 1], config=settings))
        target.services = services
        made.target = target
        made.via = [relay.address for relay in made.relays]
        yield made
