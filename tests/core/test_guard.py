# SPDX-License-Identifier: MIT
"""Admission: rates, scores, access, what a relay dials; against obvious models where there is one."""

import random
from collections import Counter
from ipaddress import ip_address, ip_network

import pytest
from core.test_ledger import n_taken
from hypothesis import given
from hypothesis import strategies as st
from qg._core.guard import Guard

OK, E_REPLAY, E_RATE, E_ADDRESS, E_FULL = 0, -14, -21, -24, -32
ENVELOPE, HANDSHAKE, REPLAY, LIMIT, VIOLATION = range(5)
NONE, ANYONE = range(2)
S = 10**9  # ns
MS = 10**6
START = 5 * S
NOW_S = 1_750_000_000  # wall clock
STRANGER = ip_address("203.0.113.7").packed
LOOPBACK = ip_address("127.0.0.1").packed
TABLE_LEN = 65_536


def ip(text):
    return ip_address(text).packed


def m1(number):
    return number.to_bytes(32, "little")


def peer(number):
    return number.to_bytes(32, "big")


def canonical(address):
    return getattr(address, "ipv4_mapped", None) or address


class Flights:
    """Ask for handshakes with a new M1 each time."""

    def __init__(self, guard):
        self.guard, self.n_made = guard, 0

    def __call__(self, address, now_ns):
        self.n_made += 1
        return self.guard.handshake(address, m1(self.n_made), NOW_S, NOW_S, now_ns)


# --- connections ---


def test_an_address_connects_twenty_times_at_once_and_ten_times_a_second():
    guard = Guard()
    assert n_taken(guard.accept, STRANGER, START) == (20, E_RATE)
    assert n_taken(guard.accept, STRANGER, START + S) == (10, E_RATE)
    assert n_taken(guard.accept, ip("203.0.113.8"), START + S) == (20, E_RATE)
    assert guard.counts["accepted"] == 50
    assert guard.counts["accept_rate"] == 3


def test_an_ipv6_address_is_its_64_and_mapped_ipv4_is_ipv4():
    guard = Guard()
    assert n_taken(guard.accept, ip("2001:db8::1"), START) == (20, E_RATE)
    assert guard.accept(ip("2001:db8::ffff:ffff:ffff:ffff"), START) == E_RATE
    assert guard.accept(ip("2001:db8:0:1::1"), START) == OK
    assert n_taken(guard.accept, STRANGER, START) == (20, E_RATE)
    assert guard.accept(bytes(10) + b"\xff\xff" + STRANGER, START) == E_RATE


def test_loopback_and_listed_networks_have_no_rates_and_no_score():
    guard = Guard()
    guard.exempt(ip("203.0.113.0"), 24)
    handshake = Flights(guard)
    for address in (LOOPBACK, ip("::1"), ip("127.9.9.9"), STRANGER):
        for _ in range(100):
            assert guard.accept(address, START) == OK
            assert handshake(address, START) == OK
            guard.penalise(address, VIOLATION, START)
        assert guard.score(address, START) == 100
    assert guard.penalties == [0, 0, 0, 0, 400]
    assert guard.memory_len == 0
    assert n_taken(guard.accept, ip("203.0.114.7"), START) == (20, E_RATE)


def test_loopback_can_be_made_an_address_like_any_other():
    guard = Guard(is_loopback_exempt=0)
    assert n_taken(guard.accept, LOOPBACK, START) == (20, E_RATE)


def test_a_name_is_not_an_address():
    guard = Guard()
    assert guard.accept(b"", START) == E_ADDRESS
    assert guard.handshake(b"", m1(1), NOW_S, NOW_S, START) == E_ADDRESS
    assert guard.session_begin(b"", START) == E_ADDRESS
    assert not guard.allows_target(b"", 7447)


def test_half_open_slots_are_counted_and_a_tenth_is_kept_for_known_addresses():
    guard = Guard(half_open=20)
    known = ip("198.51.100.1")
    assert guard.session_begin(known, START) == OK
    for _ in range(18):
        assert guard.accept(STRANGER, START) == OK
        assert guard.half_open_begin() == OK
    assert guard.accept(STRANGER, START) == E_FULL
    for _ in range(2):
        assert guard.accept(known, START) == OK
        assert guard.half_open_begin() == OK
    assert guard.accept(known, START) == E_FULL
    assert guard.accept(LOOPBACK, START) == E_FULL
    assert guard.half_open_begin() == E_FULL
    assert guard.n_open == (20, 0, 1)
    guard.half_open_end()
    assert guard.accept(known, START) == OK
    assert guard.counts["half_open_full"] == 4


def test_sinks_are_counted():
    guard = Guard()
    assert n_taken(guard.sink_begin) == (256, E_FULL)
    guard.sink_end()
    assert n_taken(guard.sink_begin) == (1, E_FULL)
    assert guard.n_open == (0, 256, 0)
    assert guard.counts["sinks_full"] == 2


# --- handshakes ---


def test_an_address_handshakes_twenty_times_at_once_and_five_times_a_second():
    guard = Guard()
    handshake = Flights(guard)
    assert n_taken(handshake, STRANGER, START) == (20, E_RATE)
    assert n_taken(handshake, STRANGER, START + S) == (5, E_RATE)
    assert guard.counts["address_rate"] == 2
    assert guard.counts["admitted"] == 25


@pytest.mark.parametrize(
    ("inside", "outside"), [("198.51.100.{}", "198.51.101.1"), ("2001:db8:7:{}0::1", "2001:db8:6::1")]
)
def test_a_network_handshakes_sixty_times_at_once_and_twenty_times_a_second(inside, outside):
    guard = Guard()
    handshake = Flights(guard)

    def from_anywhere(now_ns):
        return handshake(ip(inside.format(handshake.n_made % 200)), now_ns)

    assert n_taken(from_anywhere, START) == (60, E_RATE)
    assert n_taken(from_anywhere, START + S) == (20, E_RATE)
    assert handshake(ip(outside), START + S) == OK
    assert guard.counts["network_rate"] == 2


def test_the_node_handshakes_500_times_a_second_with_whomever():
    guard = Guard()
    handshake = Flights(guard)
    assert n_taken(handshake, None, START) == (500, E_FULL)  # not E_RATE: it is nobody's fault
    assert handshake(LOOPBACK, START) == E_FULL
    assert handshake(STRANGER, START) == E_FULL
    assert n_taken(handshake, LOOPBACK, START + S) == (500, E_FULL)
    assert guard.counts["node_rate"] == 4


def test_handshakes_pause_when_they_took_too_much_of_the_processor():
    guard = Guard()
    handshake = Flights(guard)
    for i in range(10):  # 2 ms in every 10 are what it may have
        guard.spend(2 * MS, START + i * 10 * MS)
        assert handshake(None, START + i * 10 * MS) == OK
    now = START + 100 * MS
    guard.spend(20 * MS, now)
    assert handshake(None, now) == OK
    guard.spend(1, now)
    assert handshake(None, now) == E_FULL
    assert handshake(None, now + 1 * MS) == OK
    assert guard.counts["cpu"] == 1


def test_a_pause_ends_however_much_was_spent_while_it_lasted():
    guard = Guard(handshake_cpu_ms=50)
    handshake = Flights(guard)
    guard.spend(S, START)
    assert handshake(None, START + 1900 * MS - 1) == E_FULL
    assert handshake(None, START + 1900 * MS) == OK


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3))))
def test_sessions_over_pipes_are_counted_per_peer(steps):
    guard = Guard(peer_pipe_sessions=2)
    slots = {number: [] for number in range(4)}
    for is_begin, number in steps:
        if is_begin:
            rc, slot = guard.peer_begin(peer(number))
            assert rc == (OK if len(slots[number]) < 2 else E_FULL)
            slots[number] += [slot] * (rc == OK)
        elif slots[number]:
            guard.peer_end(slots[number].pop())


def test_a_refused_address_takes_nothing_from_the_node():
    guard = Guard(node_handshakes_per_s=21)
    handshake = Flights(guard)
    assert n_taken(handshake, STRANGER, START) == (20, E_RATE)
    for _ in range(100):
        assert handshake(STRANGER, START) == E_RATE
    assert handshake(None, START) == OK


def test_a_flight_is_admitted_once_whichever_worker_asks():
    guard = Guard()
    other = Guard(key=b"k" * 16, shares=guard)
    assert guard.handshake(STRANGER, m1(1), NOW_S, NOW_S, START) == OK
    for worker in (guard, other):
        for address in (STRANGER, LOOPBACK, None):
            assert worker.handshake(address, m1(1), NOW_S, NOW_S + 1, START + S) == E_REPLAY
    assert other.handshake(None, m1(2), NOW_S, NOW_S, START) == OK
    assert guard.handshake(None, m1(2), NOW_S, NOW_S, START) == E_REPLAY
    assert guard.counts["replay"] == 4


def test_a_replay_costs_no_tokens():
    guard = Guard()
    handshake = Flights(guard)
    assert handshake(STRANGER, START) == OK
    for _ in range(100):
        assert guard.handshake(STRANGER, m1(1), NOW_S, NOW_S, START) == E_REPLAY
    assert n_taken(handshake, STRANGER, START) == (19, E_RATE)


def test_only_admitted_flights_are_remembered():
    guard = Guard()
    handshake = Flights(guard)
    assert n_taken(handshake, STRANGER, START) == (20, E_RATE)
    assert guard.handshake(STRANGER, m1(21), NOW_S, NOW_S, START + S) == OK


def test_a_full_replay_filter_refuses_handshakes():
    guard = Guard(n_replay_slots=256)
    assert n_taken(Flights(guard), LOOPBACK, START) == (256, E_FULL)
    assert guard.counts["replay_full"] == 1
    assert guard.handshake(LOOPBACK, m1(999), NOW_S + 241, NOW_S + 241, START) == OK


# --- sessions ---


def test_a_network_has_32_sessions():
    guard = Guard()
    numbers = iter(range(1, 250))

    def from_anywhere():
        return guard.session_begin(ip(f"198.51.100.{next(numbers)}"), START)

    assert n_taken(from_anywhere) == (32, E_FULL)
    assert guard.session_begin(ip("198.51.101.1"), START) == OK
    guard.session_end(ip("198.51.100.77"))
    assert guard.session_begin(ip("198.51.100.78"), START) == OK
    assert guard.session_begin(ip("198.51.100.79"), START) == E_FULL
    assert guard.counts["sessions_full"] == 2


def test_a_node_has_a_number_of_sessions_pipes_and_loopback_included():
    guard = Guard(sessions=100)
    for _ in range(50):
        assert guard.session_begin(LOOPBACK, START) == OK
        assert guard.session_begin(None, START) == OK
    for address in (LOOPBACK, None, STRANGER):
        assert guard.session_begin(address, START) == E_FULL
    guard.session_end(None)
    assert guard.session_begin(STRANGER, START) == OK


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=300))
def test_session_counts_follow_begin_and_end(steps):
    guard = Guard(sessions=20, network_sessions=3)
    counts = Counter()
    for is_begin, number in steps:
        address = ip(f"198.51.{100 + number % 2}.{number}")
        if is_begin:
            is_free = counts.total() < 20 and counts[number % 2] < 3
            assert guard.session_begin(address, START) == (OK if is_free else E_FULL)
            counts[number % 2] += is_free
        elif counts[number % 2]:
            guard.session_end(address)
            counts[number % 2] -= 1
        assert guard.n_open[2] == counts.total()


# --- scores ---


@pytest.mark.parametrize(
    ("penalty", "points"), [(ENVELOPE, 1), (HANDSHAKE, 10), (REPLAY, 20), (LIMIT, 20), (VIOLATION, 50)]
)
def test_a_penalty_costs_its_points_until_the_address_is_refused(penalty, points):
    guard = Guard()
    for n in range(1, 100 // points):
        guard.penalise(STRANGER, penalty, START)
        assert guard.score(STRANGER, START) == 100 - n * points
        assert guard.accept(STRANGER, START + n * S) == OK
    guard.penalise(STRANGER, penalty, START)
    assert guard.score(STRANGER, START) == 0
    assert guard.accept(STRANGER, START + 599 * S) == E_RATE
    assert Flights(guard)(STRANGER, START + 599 * S) == E_RATE
    assert guard.accept(STRANGER, START + 600 * S) == OK
    assert guard.counts["refused"] == 2
    assert guard.penalties[penalty] == 100 // points


def test_a_score_gains_ten_every_ten_minutes():
    guard = Guard()
    guard.penalise(STRANGER, VIOLATION, START)
    for n_steps in range(12):
        assert guard.score(STRANGER, START + (n_steps + 1) * 600 * S - 1) == min(100, 50 + 10 * n_steps)
    guard.penalise(STRANGER, HANDSHAKE, START + 7000 * S)
    assert guard.score(STRANGER, START + 7599 * S) == 90
    assert guard.score(STRANGER, START + 7600 * S) == 100


def test_a_further_penalty_does_not_put_off_the_gain():
    guard = Guard()
    guard.penalise(STRANGER, VIOLATION, START)
    guard.penalise(STRANGER, HANDSHAKE, START + 599 * S)
    assert guard.score(STRANGER, START + 600 * S) == 50


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4000)), max_size=60))
def test_improvement_does_not_depend_on_how_often_one_looks(steps):
    looked_at, left_alone, now_ns = Guard(), Guard(), START
    for penalty, gap_s in steps:
        for guard in (looked_at, left_alone):
            guard.penalise(STRANGER, penalty, now_ns)
        for part in range(4):
            looked_at.score(STRANGER, now_ns + part * gap_s * S // 4)
        now_ns += gap_s * S
    assert looked_at.score(STRANGER, now_ns) == left_alone.score(STRANGER, now_ns)


def refusal_end_s(guard, now_s, length_s):
    """Offend until refused; check that it lasts so long."""
    while guard.score(STRANGER, now_s * S):
        guard.penalise(STRANGER, HANDSHAKE, now_s * S)
    assert guard.score(STRANGER, (now_s + length_s) * S - 1) == 0
    assert guard.score(STRANGER, (now_s + length_s) * S) == 10
    return now_s + length_s


def test_each_refusal_lasts_twice_as_long_as_the_last_up_to_a_day():
    guard, now_s = Guard(), 100
    for n in range(11):
        now_s = refusal_end_s(guard, now_s, min(600 * 2**n, 86_400))


def test_a_whole_score_makes_refusals_short_again():
    guard, now_s = Guard(), 100
    for length_s in (600, 1200, 2400):
        now_s = refusal_end_s(guard, now_s, length_s)
    now_s += 9 * 600
    assert guard.score(STRANGER, (now_s - 1) * S) == 90
    assert guard.score(STRANGER, now_s * S) == 100
    refusal_end_s(guard, now_s, 600)


def test_what_was_under_way_does_not_lengthen_a_refusal():
    guard = Guard()
    for _ in range(50):
        guard.penalise(STRANGER, VIOLATION, START)
    assert guard.score(STRANGER, START + 600 * S) == 10


def test_a_network_is_scored_with_its_addresses():
    guard = Guard()
    for host in range(4):
        guard.penalise(ip(f"198.51.100.{host}"), LIMIT, START)
    assert guard.score(ip("198.51.100.1"), START) == 20
    assert guard.score(ip("198.51.100.200"), START) == 20
    guard.penalise(ip("198.51.100.9"), LIMIT, START)
    assert guard.accept(ip("198.51.100.200"), START) == E_RATE
    assert guard.score(ip("198.51.101.1"), START) == 100


# --- the table of addresses ---


def test_the_table_of_addresses_is_made_when_first_used_and_never_grows():
    guard = Guard()
    assert guard.memory_len == 0
    guard.accept(STRANGER, START)
    memory_len = guard.memory_len
    assert memory_len <= 88 * TABLE_LEN
    for number in range(2 * TABLE_LEN):
        assert guard.accept((0x0B000000 + number).to_bytes(4, "big"), START) == OK
    assert guard.memory_len == memory_len


def test_new_addresses_displace_old_ones_but_no_refusal():
    guard = Guard()
    refused, spent = ip("198.51.100.1"), ip("198.51.101.1")
    guard.penalise(refused, VIOLATION, START)
    guard.penalise(refused, VIOLATION, START)
    n_taken(guard.accept, spent, START)
    for number in range(4 * TABLE_LEN):
        guard.accept((0x0B000000 + number).to_bytes(4, "big"), START + number)
    assert guard.accept(refused, START + S) == E_RATE
    assert guard.counts["refused"] == 1
    assert n_taken(guard.accept, spent, START) == (20, E_RATE)


def test_recent_addresses_are_remembered():
    guard = Guard()
    recent = [(0x0B000000 + number).to_bytes(4, "big") for number in range(2000)]
    for number in range(2 * TABLE_LEN):
        guard.accept((0x0C000000 + number).to_bytes(4, "big"), START)
    for address in recent:
        for _ in range(20):
            guard.accept(address, START + 1)
    assert all(guard.accept(address, START + 1) == E_RATE for address in recent)


# --- who ---


def test_nobody_is_allowed_until_somebody_is():
    guard = Guard()
    assert not guard.allows(peer(1))
    assert not guard.allows_relay(peer(1))
    guard.set_access(ANYONE)
    assert guard.allows(peer(1))
    assert not guard.allows_relay(peer(1))
    guard.set_relay(NONE, [peer(1)])
    assert guard.allows_relay(peer(1))
    assert not guard.allows_relay(peer(2))
    guard.set_access(NONE)
    assert not guard.allows(peer(1))
    assert guard.counts["peer_denied"] == 2
    assert guard.counts["relay_denied"] == 3


peer_ids = st.one_of(st.integers(0, 30).map(peer), st.binary(min_size=32, max_size=32))


@given(st.lists(peer_ids, max_size=60), st.lists(peer_ids, max_size=60))
def test_listed_peers_are_allowed_and_no_others(listed, others):
    guard = Guard()
    guard.set_access(NONE, listed)
    for peer_id in [*listed, *others]:
        assert guard.allows(peer_id) == (peer_id in listed)


def test_a_long_list_is_bounded_and_gives_its_memory_back():
    guard, draw = Guard(), random.Random(7447)
    listed = [draw.randbytes(32) for _ in range(65_536)]
    guard.set_access(NONE, listed)
    assert all(map(guard.allows, listed))
    assert not any(guard.allows(draw.randbytes(32)) for _ in range(1000))
    with pytest.raises(MemoryError):
        guard.set_access(NONE, [*listed, peer(1)])
    assert guard.allows(listed[0])
    guard.set_access(NONE)
    assert not guard.allows(listed[0])
    assert guard.memory_len < 100


# --- what is dialled ---

NEVER = """0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16 224.0.0.0/4
    240.0.0.0/4 ::/8 fc00::/7 fe80::/10 fec0::/10 ff00::/8 2002::/16""".split()


@pytest.mark.parametrize("text", NEVER)
def test_a_network_that_is_never_dialled_is_dialled_when_listed(text):
    guard, network = Guard(), ip_network(text)
    edges = [network[0].packed, network[-1].packed]
    if network.version == 4:
        edges += [bytes(10) + b"\xff\xff" + edge for edge in edges]
    assert not any(guard.allows_target(edge, 7447) for edge in edges)
    guard.list_target(network[0].packed, network.prefixlen)
    assert all(guard.allows_target(edge, 7447) for edge in edges)
    assert guard.counts["target_denied"] == len(edges)


@given(st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)))
def test_an_address_is_dialled_unless_a_network_forbids_it(address):
    target = canonical(ip_address(address))
    is_never = any(target in network for network in map(ip_network, NEVER) if network.version == target.version)
    assert Guard().allows_target(address, 7447) != is_never
    if target.is_loopback or target.is_link_local or target.is_multicast or target.is_unspecified or target.is_reserved:
        assert is_never or (target.version == 6 and target.is_reserved)


@pytest.mark.parametrize(
    "text",
    "1.0.0.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 169.255.0.0"
    " 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 223.255.255.255 192.0.2.1 2001:db8::1 2600::1"
    " ::ffff:9.9.9.9".split(),
)
def test_what_lies_beside_is_dialled(text):
    assert Guard().allows_target(ip(text), 7447)


def test_a_relay_does_not_dial_its_own_networks_unless_listed():
    guard = Guard()
    guard.own(ip("203.0.113.0"), 24)
    assert not guard.allows_target(STRANGER, 7447)
    assert not guard.allows_target(bytes(10) + b"\xff\xff" + STRANGER, 7447)
    guard.list_target(STRANGER, 32)
    assert guard.allows_target(STRANGER, 7447)
    assert not guard.allows_target(ip("203.0.113.8"), 7447)


def test_a_relay_dials_its_ports_only():
    guard = Guard()
    guard.list_target(ip("203.0.113.0"), 24)
    assert [port for port in range(65_536) if guard.allows_target(STRANGER, port)] == [7447]
    assert guard.set_ports([22, 443]) == OK
    assert [port for port in range(65_536) if guard.allows_target(STRANGER, port)] == [22, 443]
    assert guard.set_ports(range(65)) == E_FULL
    assert guard.set_ports([]) == OK
    assert not guard.allows_target(STRANGER, 7447)


def test_a_neighbour_names_ten_new_targets_in_ten_seconds():
    guard = Guard()
    assert n_taken(guard.target_take, peer(1), START) == (10, E_RATE)
    assert n_taken(guard.target_take, peer(2), START) == (10, E_RATE)
    assert n_taken(guard.target_take, peer(1), START + S) == (1, E_RATE)
    assert n_taken(guard.target_take, peer(1), START + 11 * S) == (10, E_RATE)
    assert guard.counts["target_rate"] == 4


# --- settings ---


def test_limits_are_those_of_the_configuration():
    assert Guard(accepts_per_s=3).limits["accepts_per_s"] == 3
    with pytest.raises(ValueError, match="handshakes_burst"):
        Guard(accepts=3)
