# SPDX-License-Identifier: MIT
"""A thousand circuits that nobody reads: the relay's memory stays within its budget, and others keep their rate."""

import pytest
from core.endpoint_help import MEMORY
from sim.graph import MIB, Graph
from sim.world import MS_NS

N_SOURCES = 8
N_STALLED = 1024
N_OTHERS = 8
LENGTH = 100_000  # of each stalled transfer; more than a window
RATE = 2_000_000  # of each other source
MEASURED_S = 3
ONE_PIECE = 70_000  # the budget is looked at when a piece has been taken
OPTIONS = {
    "peer_pipe_sessions": N_STALLED,
    "handshakes_per_s": 10000,
    "slow_reader_s": 600,
    "dead_peer_s": 600,
}


class Crowd:
    """One relay, eight sources with 128 circuits each to one target, and eight of a fixed rate to another."""

    def __init__(self, *, reads=True, budget_len=64 * MIB):
        self.graph = Graph("stalled", 3 + N_SOURCES + N_OTHERS, relay_memory_len=budget_len, **OPTIONS)
        self.relay, self.target, self.other_target, *sources = self.graph.hosts
        self.sources, self.other_sources = sources[:N_SOURCES], sources[N_SOURCES:]
        for host in self.graph.hosts[1:]:
            rate = RATE if host in self.other_sources else 0
            self.graph.world.path_set(host, self.relay, 5 * MS_NS, rate, 16384)
        self.stalled = [self.circuit_build(number, reads) for number in range(N_STALLED)]
        assert self.graph.world.run(lambda: all(each.state == "running" for each in self.stalled), 10)
        hops = [self.relay, self.other_target]
        self.others = [self.graph.circuit(source, hops, 12 * RATE, 0) for source in self.other_sources]
        self.graph.world.run_for(1)
        self.most_len = 0
        self.watch()

    def circuit_build(self, number, reads):
        """Build one whose source does not write yet. A relay opens so many pipes per second on one link, no more."""
        self.graph.world.run_for(0.02)
        hops = [self.relay, self.target]
        return self.graph.circuit(self.sources[number % N_SOURCES], hops, LENGTH, 0, reads=reads, writes=False)

    def write(self):
        for transfer in self.stalled:
            transfer.flows[0].write()

    def watch(self):
        self.most_len = max(self.most_len, self.relay.machine.relay_held_len)
        self.graph.world.after(MS_NS, self.watch)

    def rate(self):
        """Bytes per second that the others get, together."""
        before = sum(each.flows[1].n_read for each in self.others)
        self.graph.world.run_for(MEASURED_S)
        return (sum(each.flows[1].n_read for each in self.others) - before) / MEASURED_S


def test_readers_that_read_nothing_leave_nothing_in_the_relay():
    crowd = Crowd(reads=False)
    alone = crowd.rate()
    crowd.write()
    crowd.graph.world.run_for(1)
    crowd.most_len = 0
    beside = crowd.rate()
    assert all(each.state == "running" for each in crowd.stalled)
    assert min(each.flows[1].n_read for each in crowd.stalled) >= 32768, "the windows are not full"
    assert crowd.most_len < MIB
    assert beside > 0.95 * alone


@pytest.mark.parametrize("budget_len", [64 * MIB, 16 * MIB])
def test_a_target_that_takes_nothing_fills_the_budget_and_not_more(budget_len):
    crowd = Crowd(budget_len=budget_len)
    alone = crowd.rate()
    for wire in crowd.graph.world.wires_between(crowd.relay, crowd.target):
        wire.stall()
    crowd.write()
    beside = crowd.rate()
    reset = [each for each in crowd.stalled if each.state == "failed"]
    print(f"most held {crowd.most_len / MIB:.1f} of {budget_len // MIB} MiB, {len(reset)} circuits reset; "
          f"others {alone / 1e6:.2f} MB/s, then {beside / 1e6:.2f}")  # fmt: skip
    assert budget_len // 2 < crowd.most_len <= budget_len + ONE_PIECE
    assert {each.reason for each in reset} <= {MEMORY}
    assert bool(reset) == (budget_len < 64 * MIB)
    assert beside > 0.95 * alone
