# SPDX-License-Identifier: MIT
"""What relays and networks do to circuits: who notices, how the stream ends, and that nothing is left."""

import pytest
from core.endpoint_help import BUSY, LIMIT, PROTOCOL, REFUSED, TIMEOUT, UNREACHABLE
from sim.graph import Graph
from sim.world import MS_NS, SECOND_NS

from qg._core import runtime

E_TAG, E_LENGTH = -3, -12
N_RELAYS = 3
LENGTH = 300_000
BUILD_MS = {False: 260, True: 140}  # by whether the links were there


class Line:
    """A source, three relays and a target, 5 ms apart, with one transfer between them."""

    def __init__(self, seed, **options):
        self.graph = Graph(seed, N_RELAYS + 2, **options)
        self.source, *self.hops = self.graph.hosts
        self.blamed = []  # pairs of link keys
        self.source.on_event[runtime.EV_TAMPERED] = lambda channel, near, far: self.blamed.append((near, far))
        for one in self.graph.hosts:
            for other in self.graph.hosts:
                if one is not other:
                    self.graph.world.path_set(one, other, 5 * MS_NS)

    def transfer(self, length=LENGTH):
        return self.graph.circuit(self.source, self.hops, length, length)

    def halfway(self, transfer):
        """Run until both sides have a third of what they get."""
        run = self.graph.world.run
        assert run(lambda: all(flow and flow.n_read > len(flow.expected) // 3 for flow in transfer.flows), 60)

    def finish(self, transfer):
        """Run until the transfer has ended; the seconds that took."""
        began_ns = self.graph.world.now_ns
        self.graph.run()
        took_s = (transfer.end_ns - began_ns) / SECOND_NS
        self.graph.world.run_for(1)
        return took_s

    def noticed(self):
        """Hosts that found records which do not open."""
        counts = {host: host.machine.status()["by_status"] for host in self.graph.hosts}
        return [host for host, by_status in counts.items() if by_status.keys() & {E_TAG, E_LENGTH}]

    def suspects(self):
        """Of the layers that broke, the one farthest from the source: the pair that may have changed something."""
        near, far = self.blamed[-1]
        return [host for host in self.graph.hosts if bytes(host.link_key) in (near, far)]

    def warm(self):
        """Let all links be there, and no circuit."""
        transfer = self.transfer(1000)
        self.graph.run()
        assert transfer.state == "done"
        assert self.graph.world.run(lambda: not any(host.machine.n_circuits for host in self.graph.hosts), 10)


# Relays that alter what they pass on


@pytest.mark.parametrize("relay_idx", range(N_RELAYS))
@pytest.mark.parametrize("how", ["flip", "drop", "repeat", "swap"])
@pytest.mark.parametrize("after", [0, 2])
def test_what_a_relay_does_to_a_piece_is_found_by_the_next_hop(how, relay_idx, after):
    line = Line("forward")
    transfer = line.transfer()
    line.halfway(transfer)
    line.hops[relay_idx].machine.tamper(how, after)
    line.finish(transfer)
    assert line.hops[relay_idx].machine.n_tampered == 1
    assert line.noticed() == [line.hops[relay_idx + 1]]
    # The layer that broke is the one with the next hop; what ran in it was cut off.
    assert (transfer.state, transfer.reason) == ("failed", PROTOCOL if relay_idx == N_RELAYS - 1 else UNREACHABLE)
    assert line.suspects() == [line.hops[relay_idx], line.hops[relay_idx + 1]]
    line.graph.close()


@pytest.mark.parametrize("relay_idx", range(N_RELAYS))
@pytest.mark.parametrize("how", ["flip", "drop", "repeat", "swap"])
def test_what_a_relay_does_on_the_way_back_is_found_by_the_source(how, relay_idx):
    line = Line("back")
    transfer = line.transfer()
    line.halfway(transfer)
    line.hops[relay_idx].machine.tamper(how, 1, True)
    line.finish(transfer)
    assert line.hops[relay_idx].machine.n_tampered == 1
    assert line.noticed() == [line.source]
    assert line.suspects() == [line.hops[relay_idx], line.hops[relay_idx + 1]]
    # The layer that broke is the one with the next hop; what ran in it was cut off.
    assert (transfer.state, transfer.reason) == ("failed", PROTOCOL if relay_idx == N_RELAYS - 1 else UNREACHABLE)
    line.graph.close()


@pytest.mark.parametrize("relay_idx", range(N_RELAYS))
@pytest.mark.parametrize("is_backward", [False, True])
def test_a_relay_that_alters_a_flight_ends_the_build(relay_idx, is_backward):
    line = Line("flights")
    line.warm()
    transfer = line.transfer()
    line.hops[relay_idx].machine.tamper("flip", 0, is_backward)
    line.finish(transfer)
    assert line.hops[relay_idx].machine.n_tampered == 1
    assert transfer.state == "failed"
    assert transfer.reason in (REFUSED, PROTOCOL, UNREACHABLE)
    line.graph.close()


@pytest.mark.parametrize("is_backward", [False, True])
def test_a_relay_that_swallows_everything_ends_in_an_error_within_the_time_of_an_idle_circuit(is_backward):
    line = Line("swallow", relay_idle_s=100)
    transfer = line.transfer(3_000_000)
    line.halfway(transfer)
    line.hops[1].machine.tamper("swallow", 0, is_backward)
    assert line.finish(transfer) < 110
    assert transfer.state == "failed"
    line.hops[1].machine.tamper("none")
    line.graph.close()


# Links that are tampered with


@pytest.mark.parametrize("link_idx", range(N_RELAYS + 1))
@pytest.mark.parametrize("side", [0, 1])
def test_a_bit_flipped_on_a_link_is_found_at_its_end(link_idx, side):
    line = Line("link")
    transfer = line.transfer()
    line.halfway(transfer)
    ends = line.graph.hosts[link_idx : link_idx + 2]
    (wire,) = line.graph.world.wires_between(*ends)
    wire.flip(side, 1000)
    line.finish(transfer)
    assert line.noticed() == [wire.hosts[1 - side]]
    assert transfer.state == "failed"
    line.graph.close()


# Relays that die


@pytest.mark.parametrize("relay_idx", range(N_RELAYS))
@pytest.mark.parametrize("how", ["kill", "vanish"])
@pytest.mark.parametrize("is_warm", BUILD_MS)
def test_a_relay_that_dies_during_the_build_ends_it_in_a_typed_error(relay_idx, how, is_warm):
    for after_ms in range(0, BUILD_MS[is_warm], 20):
        line = Line(f"build {after_ms}")
        if is_warm:
            line.warm()
        transfer = line.transfer()
        line.graph.world.run_for(after_ms / 1000)
        assert transfer.state == "building"
        getattr(line.hops[relay_idx], how)()
        assert line.finish(transfer) < (1 if how == "kill" else 61)
        assert transfer.state == "failed"
        assert transfer.reason in (UNREACHABLE, TIMEOUT)
        line.graph.world.run(lambda line=line: not any(each.machine.n_circuits for each in line.graph.hosts), 100)
        line.graph.close()


def test_the_time_that_the_tests_above_cover_is_that_of_the_build():
    for is_warm, build_ms in BUILD_MS.items():
        line = Line("time")
        if is_warm:
            line.warm()
        transfer = line.transfer()
        assert line.graph.world.run(lambda transfer=transfer: transfer.state == "running")
        assert build_ms - 20 <= (transfer.up_ns - transfer.start_ns) // MS_NS < build_ms + 20


@pytest.mark.parametrize("relay_idx", range(1, N_RELAYS + 1))
@pytest.mark.parametrize("how", ["kill", "vanish"])
def test_a_hop_that_dies_between_accept_and_its_first_record_ends_the_build(relay_idx, how):
    line = Line("accept")
    line.warm()
    transfer = line.transfer()
    before = line.hops[relay_idx - 1]
    assert line.graph.world.run(lambda: before.machine.n_circuits == 1, 10)
    assert line.hops[relay_idx].machine.status()["n_far_ends"] == 0, "it has the first record already"
    getattr(line.hops[relay_idx], how)()
    assert line.finish(transfer) < (1 if how == "kill" else 61)
    assert (transfer.state, transfer.hop_idx) == ("failed", relay_idx)
    assert transfer.reason in (UNREACHABLE, TIMEOUT)
    line.graph.close()


@pytest.mark.parametrize("hop_idx", range(N_RELAYS + 1))
@pytest.mark.parametrize("how", ["kill", "vanish"])
def test_a_hop_that_dies_during_the_transfer_ends_the_stream(hop_idx, how):
    line = Line("transfer")
    transfer = line.transfer()
    line.halfway(transfer)
    getattr(line.hops[hop_idx], how)()
    assert line.finish(transfer) < (1 if how == "kill" else 61)
    assert transfer.state == "failed"
    assert transfer.reason in (UNREACHABLE, TIMEOUT)
    line.graph.close()


@pytest.mark.parametrize("draining_idx", range(N_RELAYS))
@pytest.mark.parametrize("victim_idx", range(N_RELAYS + 1))
@pytest.mark.parametrize("how", ["kill", "vanish"])
def test_a_hop_that_dies_while_a_relay_of_the_path_drains_ends_the_stream_and_the_drain(draining_idx, victim_idx, how):
    """Until then the transfer goes on; new circuits are refused, wherever in the path the relay stands."""
    line = Line("drain")
    transfer = line.transfer(12 * LENGTH)
    line.halfway(transfer)
    draining, victim = line.hops[draining_idx], line.hops[victim_idx]
    drained = []
    draining.on_event[runtime.EV_DRAINED] = drained.append
    draining.tell("drain")
    refused = line.transfer()
    assert line.graph.world.run(lambda: refused.state != "building", 60)
    assert (refused.state, refused.reason, refused.hop_idx) == ("failed", BUSY, draining_idx)
    n_read = [flow.n_read for flow in transfer.flows]
    assert line.graph.world.run(
        lambda: all(flow.n_read > n for flow, n in zip(transfer.flows, n_read, strict=True)), 60
    )
    assert transfer.state == "running"
    assert not drained
    getattr(victim, how)()
    assert line.finish(transfer) < (1 if how == "kill" else 61)
    assert transfer.state == "failed"
    assert transfer.reason in (UNREACHABLE, TIMEOUT)
    assert line.graph.world.run(
        lambda: not any(each.machine.n_circuits for each in line.graph.hosts if each.is_up), 100
    )
    assert len(drained) == (victim is not draining)
    line.graph.close()


def test_a_source_without_room_for_one_more_layer_gives_up_those_it_has():
    line = Line("room")
    line.graph.hosts[0] = line.source = line.graph.host(9, max_sessions=3)
    transfer = line.transfer()
    line.finish(transfer)
    assert (transfer.state, transfer.reason, transfer.hop_idx) == ("failed", LIMIT, 2)
    assert [host.machine.n_circuits for host in line.graph.hosts] == [0] * 5
    line.graph.close()


# Partitions, clocks


@pytest.mark.parametrize("link_idx", range(N_RELAYS + 1))
def test_a_short_partition_delays_the_transfer_and_no_more(link_idx):
    line = Line("short")
    transfer = line.transfer()
    line.halfway(transfer)
    ips = [host.ip for host in line.graph.hosts]
    line.graph.world.partition(ips[: link_idx + 1], ips[link_idx + 1 :])
    line.graph.world.after(20 * SECOND_NS, line.graph.world.partition)
    assert line.finish(transfer) > 19
    assert transfer.state == "done"
    line.graph.close()


@pytest.mark.parametrize("link_idx", range(N_RELAYS + 1))
def test_a_long_partition_ends_the_stream_once_a_peer_counts_as_dead(link_idx):
    line = Line("long", dead_peer_s=20)
    transfer = line.transfer()
    line.halfway(transfer)
    ips = [host.ip for host in line.graph.hosts]
    line.graph.world.partition(ips[: link_idx + 1], ips[link_idx + 1 :])
    assert 5 < line.finish(transfer) <= 21
    assert transfer.state == "failed"
    assert transfer.reason in (UNREACHABLE, TIMEOUT)
    line.graph.world.run_for(25)  # the other side counts from the last that it heard
    line.graph.world.partition()
    line.graph.close()


def test_hops_whose_clocks_differ_by_less_than_the_window_make_a_circuit():
    graph = Graph("skew", 0)
    skews = [0, 40, -40, 45, -45]
    source, *hops = [graph.host(idx, skew_s=skew) for idx, skew in enumerate(skews)]
    graph.hosts += [source, *hops]
    transfer = graph.circuit(source, hops)
    graph.run()
    assert transfer.state == "done"
    graph.close()


@pytest.mark.parametrize("hop_idx", range(N_RELAYS + 1))
@pytest.mark.parametrize("skew_s", [-200, 200])
def test_a_hop_whose_clock_is_wrong_by_more_is_named(hop_idx, skew_s):
    graph = Graph("wrong clock", 0)
    for idx in range(N_RELAYS + 2):
        graph.hosts.append(graph.host(idx, skew_s=skew_s if idx == hop_idx + 1 else 0))
    source, *hops = graph.hosts
    transfer = graph.circuit(source, hops)
    graph.run()
    assert (transfer.state, transfer.hop_idx) == ("failed", hop_idx)
    assert transfer.reason in (UNREACHABLE, TIMEOUT)
    graph.close()
