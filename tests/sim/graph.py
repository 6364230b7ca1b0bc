# SPDX-License-Identifier: MIT
"""Random graphs of nodes with circuits over them, and what must hold of every such run."""

import random

from sim.traffic import Application
from sim.world import Host, World

MIB = 1 << 20
RELAYS_MAX = 7
OPTIONS = {
    "relays": True,
    "may_anyone_relay": True,
    "relay_targets": [(bytes([10, 0, 0, 0]), 8)],
    "relay_ports": [7447],
    "exempt": [(bytes([10, 0, 0, 0]), 8)],
    "pipes_per_s": 1000,
    "pipes_burst": 4000,
    "handshake_cpu_ms": 100,
}


class Graph:
    """Hosts that all relay for each other, each in a /16 of its own."""

    def __init__(self, seed, n_hosts, *, world=World, **options):
        self.world = world(seed)
        self.start_ns = self.world.now_ns
        self.random = random.Random(f"graph {seed}")
        self.application = Application(self.world)
        self.options = OPTIONS | options
        self.hosts = [self.host(idx) for idx in range(n_hosts)]
        self.gone = []  # hosts that have ended, for the checks at the end

    def host(self, idx, *, skew_s=0, **options):
        host = Host(self.world, f"10.{idx % 250}.{idx // 250}.1", self.options | options, skew_s=skew_s)
        self.application.install(host)
        return host

    def circuit(self, source, hops, up_len=1000, down_len=1000, **options):
        """Start a transfer over these hops; the last one is the target."""
        transfer = self.application.transfer(source, hops, up_len, down_len, **options)
        transfer.start()
        return transfer

    def circuit_draw(self, len_max=20000):
        """Start a transfer over 1 to 7 relays, drawn like its size."""
        n_relays = self.random.randint(1, RELAYS_MAX)
        source, *hops = self.random.sample(self.hosts, n_relays + 2)
        return self.circuit(source, hops, self.random.randrange(len_max), self.random.randrange(len_max))

    def run(self, limit_s=3600):
        assert self.world.run(lambda: self.application.is_settled, limit_s), self.unsettled()

    def unsettled(self):
        return [each for each in self.application.transfers.values() if each.state in ("building", "running")]

    def close(self):
        """Stop all hosts; nothing may be left of any circuit, and no byte may have been wrong."""
        wrong = [(each, each.wrong) for each in self.application.transfers.values() if each.wrong]
        assert not wrong, (len(wrong), wrong[0])
        for host in self.hosts:
            host.tell("stop")
        assert self.world.run(lambda: all(map(is_over, self.hosts)), 60), [h for h in self.hosts if not is_over(h)]
        for host in self.hosts:
            leftovers_check(host)


def is_over(host):
    """Has it stopped, and sent what it had written?"""
    return not host.is_up or (host.is_stopped and host.machine.status()["n_conns"] == 0)


def leftovers_check(host):
    """A stopped machine holds no block, no secret and no session, and once cleared not a byte."""
    machine = host.machine
    status = machine.status()
    if host.is_up:
        counted = {name: status[name] for name in ("n_sessions", "n_half_open", "n_sinks", "n_circuits", "n_flows",
                                                   "n_far_ends", "n_auto_links", "relay_held_len")}  # fmt: skip
        assert not any(counted.values()), (host, counted)
        n_blocks, blocks_len, _, n_slots = machine.held
        assert (n_blocks, blocks_len, n_slots) == (0, 0, 0), (host, machine.held)
        machine.clear(host.world.now_ns)
    assert machine.held == (0, 0, 0, 0), (host, machine.held)
