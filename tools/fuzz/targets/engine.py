# SPDX-License-Identifier: MIT
"""Four nodes on a virtual network, which relay for each other, while strangers and the network do their worst.

Strangers get no byte; what arrives over circuits is what was sent; at the end all stop, and nothing is left.
"""

from core.endpoint_help import CANCELLED
from sim.graph import Graph
from sim.world import MS_NS, Host

from tools.fuzz import Script

N_HOSTS = 4
N_ACTS_MAX = 40
LENGTH_MAX = 40_000
COVERS: tuple[dict[str, object], ...] = (
    {},
    {"mode": 1, "interval_s": 1, "on_circuits": True},
    {"mode": 2, "per_s": 20, "on_circuits": True},
    {"mode": 3, "per_s": 20, "per_s_max": 200, "size": 300, "budget_len": 1 << 16},
)
TAMPERS = ("flip", "drop", "repeat", "swap", "swallow")


class Stranger:
    """A connection of one who has no keys; what `Host` takes for a `Wire`."""

    def __init__(self, host: Host, conn: int) -> None:
        self.host, self.conn = host, conn
        host.conns[conn] = (self, 1)
        host.tell("accepted", conn, "10.9.9.9", 50000)

    @property
    def is_open(self) -> bool:
        return self.conn in self.host.conns

    def say(self, data: bytes) -> None:
        if self.is_open:
            self.host.tell("received", self.conn, data)

    def end(self) -> None:
        if self.host.conns.pop(self.conn, None):
            self.host.tell("lost", self.conn)

    def send(self, side: int, data: bytes) -> None:
        raise AssertionError(f"a stranger was answered with {len(data)} bytes")

    def finish(self, side: int) -> None:
        pass

    def abort(self, side: int) -> None:
        self.host.conns.pop(self.conn, None)


class Play:
    """Do what an input says."""

    def __init__(self, data: bytes) -> None:
        self.script = Script(data)
        seed = self.script.number()
        self.graph = Graph(f"fuzz {seed}", N_HOSTS, epoch_s=1, rekey_s=2, cover=COVERS[seed % len(COVERS)])
        self.strangers: list[Stranger] = []

    def run(self) -> None:
        acts = (self.circuit, self.circuit, self.wait, self.stranger, self.words, self.flip, self.cut, self.tamper,
                self.cancel, self.reset, self.hang_up, self.part)  # fmt: skip
        for _ in range(N_ACTS_MAX):
            if not self.script:
                break
            acts[self.script.number() % len(acts)]()
        self.end()

    def end(self) -> None:
        graph = self.graph
        graph.world.partition()
        for host in graph.hosts:
            host.honest()
        for stranger in self.strangers:
            stranger.end()
        graph.run()
        graph.close()

    def host(self) -> Host:
        return self.graph.hosts[self.script.number() % N_HOSTS]

    def circuit(self) -> None:
        """A transfer over up to two relays."""
        first, n_hops = self.script.number(), 1 + self.script.number() % (N_HOSTS - 1)
        source, *hops = (self.graph.hosts[(first + idx) % N_HOSTS] for idx in range(n_hops + 1))
        lengths = [self.script.number(2) % LENGTH_MAX for _ in range(2)]
        self.graph.circuit(source, hops, *lengths, read_delays_ns=(0, self.script.number() % 4 * MS_NS))

    def wait(self) -> None:
        self.graph.world.run_for(2 ** (self.script.number() % 16) / 1000)

    def stranger(self) -> None:
        self.strangers.append(Stranger(self.host(), 1_000_000 + 2 * len(self.strangers)))

    def words(self) -> None:
        number, data = self.script.number(), self.script.counted()
        if self.strangers:
            self.strangers[number % len(self.strangers)].say(data)

    def flip(self) -> None:
        wires = list(self.graph.world.wires.values())
        if wires:
            wires[self.script.number() % len(wires)].flip(self.script.number() % 2, self.script.number(2))

    def cut(self) -> None:
        wires = list(self.graph.world.wires.values())
        if wires:
            wires[self.script.number() % len(wires)].cut()

    def tamper(self) -> None:
        how, after = TAMPERS[self.script.number() % len(TAMPERS)], self.script.number()
        self.host().machine.tamper(how, after % 32, bool(after & 32))

    def transfers(self, state: str) -> list:
        return [each for each in self.graph.application.transfers.values() if each.state == state]

    def cancel(self) -> None:
        for transfer in self.transfers("building")[:1]:
            transfer.settle("cancelled")
            transfer.source.tell("cancel", transfer.number)

    def reset(self) -> None:
        for transfer in self.transfers("running")[:1]:
            flow = transfer.flows[self.script.number() % 2]
            if flow and flow.host.flows.pop(flow.id, None) is not None:
                flow.host.tell("reset", flow.id, CANCELLED)
                if flow.side == 0:
                    transfer.settle("cancelled")
                    transfer.leave()
                    transfer.source.settle()

    def hang_up(self) -> None:
        for transfer in self.transfers("running")[:1]:
            transfer.source.tell("close_peer", transfer.channel, 0)

    def part(self) -> None:
        """The network falls apart, or is whole again."""
        bits = self.script.number()
        groups = [[host.ip for idx, host in enumerate(self.graph.hosts) if bits >> idx & 1 == side] for side in (0, 1)]
        self.graph.world.partition(*groups if bits & 16 else ())


def run(data: bytes) -> None:
    Play(data).run()
