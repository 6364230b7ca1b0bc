# SPDX-License-Identifier: MIT
"""Cover traffic on the virtual clock: what an observer of the line learns, what it costs, and that nothing is lost."""

import itertools

import pytest
from looks.observer import share_right
from sim.covered import WINDOW_S, Link, Watched
from sim.graph import Graph
from sim.world import MS_NS, SECOND_NS

from qg._core import runtime

OFF, CHAFF, POISSON, SHAPED = range(4)
SIZE = 1200
N_WINDOWS = 2000  # half of them to learn from, half to judge


def cover(mode, **more):
    return {"mode": mode, "size": SIZE, **more}


# What shows


@pytest.mark.slow
def test_an_observer_of_a_link_under_poisson_cover_learns_nothing_of_its_use():
    link = Link("poisson", cover=cover(POISSON, per_s=10))
    assert share_right(link.windows(N_WINDOWS), "judge") <= 0.55
    link.close()


def test_the_same_observer_tells_use_where_there_is_no_cover():
    link = Link("bare")
    assert share_right(link.windows(N_WINDOWS), "judge") >= 0.9
    link.close()


@pytest.mark.slow
def test_the_same_observer_sees_a_scheduler_that_is_a_little_quicker_when_there_is_something_to_say():
    """The control of the control: a link with 10 turns a second, and one with 11."""
    windows = []
    for is_used, per_s in ((False, 10), (True, 11)):
        link = Link(f"at {per_s}", cover=cover(POISSON, per_s=per_s))
        windows += [(window, is_used) for window, _ in link.windows(N_WINDOWS // 2)]
    assert share_right(windows, "judge") >= 0.6


def test_a_link_that_is_covered_sends_pieces_of_one_size_at_random_moments():
    link = Link("pieces", cover=cover(POISSON, per_s=20))
    link.use(100, 60)
    pieces = link.watch(100)[0]
    assert {length for _, length in pieces} == {SIZE}
    assert 2000 - 5 * 45 < len(pieces) < 2000 + 5 * 45
    gaps = [later - sooner for (sooner, _), (later, _) in itertools.pairwise(pieces)]
    assert sum(gap < 0.05 for gap in gaps) / len(gaps) == pytest.approx(0.632, abs=0.06)  # 1 - 1/e, as of no memory
    link.close()


def test_what_is_above_the_rate_waits_and_comes_whole():
    link = Link("bulk", cover=cover(POISSON, per_s=50))
    for _ in range(20):
        link.say(20_000)
    pieces = link.watch(4)[0]
    assert {length for _, length in pieces} == {SIZE}
    assert link.world.run(lambda: len(link.back) == len(link.sent), 60)
    assert link.world.now_ns / SECOND_NS - pieces[0][0] > 400_000 / (50 * SIZE)
    link.close()


def test_no_more_waits_for_a_kernel_that_takes_nothing():
    link = Link("stalled", cover=cover(POISSON, per_s=100))
    link.wire.stall()
    link.near.machine.send_buffer_len = 1 << 17
    link.world.run_for(20)
    assert link.near.machine.held[1] < 400_000


# Circuits


def over_relays(seed):
    """A session whose ends cover it, over two relays that cover nothing."""
    return Link(seed, n_relays=2, cover=cover(POISSON, per_s=10, on_links=False, on_circuits=True))


@pytest.mark.slow
def test_an_observer_of_the_sources_line_learns_nothing_of_the_use_of_a_covered_circuit():
    link = over_relays("over relays")
    assert share_right(link.windows(N_WINDOWS), "judge") <= 0.55
    link.close()


@pytest.mark.slow
def test_the_same_observer_tells_use_of_a_circuit_that_is_not_covered():
    link = Link("bare over relays", n_relays=2)
    assert share_right(link.windows(N_WINDOWS), "judge") >= 0.9
    link.close()


def test_a_session_over_relays_sends_records_of_one_size_whether_it_is_used_or_not():
    link = over_relays("sizes")
    for n in (0, 60):
        link.use(60, n)
        out, back = link.watch(60)
        assert all(480 < len(pieces) < 720 for pieces in (out, back))
        # Records of 1,024 bytes with head and tag, and now and then one of the link itself.
        assert {length % 1058 for _, length in (*out, *back)} <= {0, 98}
    link.close()


def test_relays_cover_their_links_and_not_the_circuits_in_them():
    graph = Graph("relays", 4, world=Watched, cover=cover(POISSON, per_s=40, on_circuits=True))
    for idx in range(3):
        graph.circuit(graph.hosts[idx], [graph.hosts[(idx + 1) % 4], graph.hosts[(idx + 2) % 4]], 20_000, 20_000)
    graph.run()
    assert all(each.state == "done" for each in graph.application.transfers.values())
    graph.close()


# Rates that change


def test_a_shaped_link_doubles_its_rate_under_load_and_halves_it_later_in_steps():
    link = Link("shaped", cover=cover(SHAPED, per_s=10, per_s_max=80))
    rates = [len(link.watch(30)[0]) / 30 for _ in range(3)]
    assert all(8 < rate < 12 for rate in rates)
    for _ in range(100):
        link.say(60_000)
    rates = [len(link.watch(30)[0]) / 30 for _ in range(6)]
    assert max(rates) > 60
    assert all(later < 3 * sooner for sooner, later in itertools.pairwise(rates))
    assert link.world.run(lambda: len(link.back) == len(link.sent), 600)
    link.world.run_for(240)
    assert 8 < len(link.watch(60)[0]) / 60 < 12
    link.close()


def test_all_links_share_the_budget_of_an_hour():
    budget = 40 << 20  # a link of 10 turns a second takes 41 MiB
    options = cover(POISSON, per_s=10, budget_len=budget)
    graph = Graph("budget", 3, world=Watched, cover=options)
    hub = graph.hosts[0]
    for number, host in enumerate(graph.hosts[1:], 1):
        hub.tell("connect", number, [host.hop])
    graph.world.run_for(60)
    before = hub.machine.status()["out_len"]
    graph.world.run_for(3540)
    spent = hub.machine.status()["out_len"] - before
    assert 0.9 * budget < spent < 1.02 * budget
    graph.close()


def test_a_budget_that_is_used_up_does_not_stop_a_link():
    link = Link("overdrawn", cover=cover(POISSON, per_s=50, budget_len=1 << 20))
    link.world.run_for(1000)
    link.say(50_000)
    assert link.world.run(lambda: len(link.back) == len(link.sent), 60)
    link.close()


# Chaff


def test_chaff_is_sent_beside_what_is_said_at_once():
    link = Link("chaff", cover=cover(CHAFF, interval_s=10, records=(5, 15), lengths=(100, 900)))
    per_interval = [len(link.watch(10)[0]) for _ in range(30)]
    assert 5 <= sum(per_interval) / 30 <= 15
    assert len({length for _, length in link.watch(100)[0]}) > 2
    said_ns = link.world.now_ns
    link.say(1000)
    assert link.world.run(lambda: len(link.back) == len(link.sent), 60)
    assert link.world.now_ns - said_ns <= 10 * MS_NS
    assert link.near.machine.status()["n_cover_records"] > 100
    link.close()


def test_chaff_keeps_to_the_budget_of_an_hour():
    budget = 200_000
    options = cover(CHAFF, interval_s=1, records=(10, 10), lengths=(500, 500), budget_len=budget)
    link = Link("chaff budget", cover=options)
    link.world.run_for(3600)
    assert 0.85 * budget < link.near.machine.status()["cover_len"] < 1.05 * budget
    link.close()


def test_chaff_stays_away_while_bytes_wait():
    """A kernel that takes nothing any more gets none."""
    link = Link("chaff waits", cover=cover(CHAFF, interval_s=1, records=(500, 500), lengths=(100, 100)))
    link.wire.stall()
    link.world.run_for(10)
    before = link.near.machine.status()
    assert 131_072 < before["cover_len"] < 131_072 + 2 * 65_536
    link.world.run_for(20)
    assert link.near.machine.status()["n_cover_records"] == before["n_cover_records"]


# Beginning and end


def test_no_handshake_is_covered_and_every_link_says_goodbye():
    link = Link("ends", cover=cover(POISSON, per_s=10))
    down = []
    link.far.on_event[runtime.EV_PEER_DOWN] = lambda *event: down.append(event)
    link.near.tell("close_peer", link.channel, 0)
    assert link.world.run(lambda: down, 10)
    assert down[0][2], "the far side was told"
    link.graph.close()


def test_keys_change_on_a_covered_link():
    link = Link("keys", cover=cover(POISSON, per_s=10), rekey_s=20, epoch_s=5)
    for _ in range(20):
        link.use(WINDOW_S, 3)
        pieces = link.watch(WINDOW_S)[0]
        assert {length for _, length in pieces} == {SIZE}
    link.close()


@pytest.mark.parametrize("seed", range(8))
def test_hello_is_said_first_however_late_its_turn_comes(seed):
    """Keys are due to change before it: those of a covered session over relays do so by the clock."""
    slow = cover(POISSON, per_s=0.4, on_links=False, on_circuits=True)
    link = Link(f"late {seed}", n_relays=1, rekey_s=1, cover=slow)
    link.say(100)
    link.world.run_for(60)
    assert [host.machine.status()["by_status"] for host in link.graph.hosts] == [{}] * 3
    link.close()
