# SPDX-License-Identifier: MIT
"""What one circuit takes, others must not miss: round trips on a link of a fixed rate."""

from sim.graph import Graph
from sim.world import MS_NS

N_CHATS = 100
RATE = 12_500_000  # 100 Mbit/s
SEGMENT_LEN = 4096
MEASURED_S = 3


class Chats:
    """Interactive circuits over one relay. Its link to the target has a fixed rate, the others ten times that."""

    def __init__(self, delay_ns):
        self.graph = Graph("chats", 23)
        self.target, self.relay, self.bulk_source, *sources = self.graph.hosts
        for each in (self.bulk_source, *sources):
            self.graph.world.path_set(each, self.relay, delay_ns, 10 * RATE, SEGMENT_LEN)
        self.graph.world.path_set(self.relay, self.target, delay_ns, RATE, SEGMENT_LEN)
        hops = [self.relay, self.target]
        self.chats = [self.graph.application.chat(sources[i % len(sources)], hops, 50 * MS_NS) for i in range(N_CHATS)]
        for chat in self.chats:
            chat.start()
        self.graph.world.run_for(5)
        assert all(chat.state == "running" for chat in self.chats)

    def p99_ms(self):
        """Of the round trips of the next seconds."""
        for chat in self.chats:
            chat.round_trips_ns.clear()
        self.graph.world.run_for(MEASURED_S)
        ordered = sorted(each for chat in self.chats for each in chat.round_trips_ns)
        return ordered[len(ordered) * 99 // 100] / MS_NS

    def bulk(self, length):
        """Start a circuit that takes what it gets, and let it come to speed."""
        bulk = self.graph.circuit(self.bulk_source, [self.relay, self.target], length, 0)
        self.graph.world.run(lambda: bulk.state == "running")
        self.graph.world.run_for(1)
        return bulk

    def close(self):
        for chat in self.chats:
            chat.stop()
        self.graph.run()
        self.graph.close()


def test_a_bulk_circuit_leaves_the_round_trips_of_interactive_ones_below_three_times_what_they_were():
    chats = Chats(5 * MS_NS)
    alone_ms = chats.p99_ms()
    bulk = chats.bulk(6 * RATE)
    before = bulk.flows[1].n_read
    beside_ms = chats.p99_ms()
    rate = (bulk.flows[1].n_read - before) / MEASURED_S
    chats.close()
    print(f"p99 {alone_ms:.1f} ms alone, {beside_ms:.1f} ms beside bulk at {rate / 1e6:.1f} MB/s")
    assert rate > 0.8 * RATE
    assert beside_ms < 3 * alone_ms
