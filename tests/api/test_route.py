# SPDX-License-Identifier: MIT
"""The choice of relays: at random, and by rules that are never bent; the book of known relays; the guards."""

import asyncio
import json
import os
from collections import Counter
from contextlib import suppress
from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import qg
from qg.guards import N_GUARDS, Guards
from qg.relays import KnownRelay, RelayBook, network_of
from qg.route import Bars, relays_draw, relays_usable, route_choose
from qg.routes import Routes
from qg.types import LinkKey, PeerId

PATIENCE_S = 3600.0
NOBODY = Bars((), frozenset())


def relay_of(number, *hosts):
    """A relay with identifiers made of a number, at 10.<number>.0.1 if no host is given."""
    raw = number.to_bytes(32, "big")
    return KnownRelay(LinkKey(raw), PeerId(raw), tuple((host, 7447) for host in hosts or (f"10.{number}.0.1",)))


hosts = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda n: str(ip_address(n & 0xFF0300FF))),  # few networks
    st.integers(0, 2**128 - 1).map(lambda n: str(ip_address(n & (0x20010DB8 << 96 | 0x3 << 80 | 0xFF)))),
)
relays = st.builds(
    lambda number, some: relay_of(number, *some), st.integers(0, 60), st.lists(hosts, min_size=1, max_size=4)
)


@example(
    [relay_of(0, "0.0.0.0"), relay_of(0, "0.1.0.0")], 2, [], set(), Random(0)
)  # one relay, said to be in two places
@given(
    st.lists(relays, max_size=40),
    st.integers(0, 7),
    st.lists(relays, max_size=3),
    st.sets(st.integers(0, 60)),
    st.randoms(),
)
def test_every_path_keeps_the_rules(known, n, ends, failed, random):
    bars = Bars(tuple(ends), frozenset().union(*(end.networks for end in ends)))
    avoided = [relay for relay in known if int.from_bytes(bytes(relay.link_key)) in failed]
    try:
        path = route_choose(known, n, bars, avoided, random)
    except qg.NoRoute as error:
        left = len(known) - sum(error.removed.values())
        assert 0 <= left < n
        assert str(len(known)) in str(error)
        return
    assert len(path) == n
    taken = list(bars.networks)
    for relay in path:
        assert relay in known
        assert relay not in avoided
        assert not any(relay.is_same(end) for end in ends)
        taken += relay.networks
    assert len(taken) == len(set(taken))
    assert len({relay.link_key for relay in path}) == n


@given(st.lists(hosts, unique=True, max_size=40), st.integers(1, 7), st.randoms())
def test_a_path_is_found_wherever_there_are_as_many_networks(some, n, random):
    known = [relay_of(idx, host) for idx, host in enumerate(some)]
    n_networks = len({network_of(host) for host in some})
    assert len(relays_draw(known, n, random)) == min(n, n_networks)


def test_a_network_full_of_relays_is_drawn_as_often_as_one_with_a_single_relay():
    crowd = [relay_of(idx, f"192.0.2.{idx}") for idx in range(1, 200)]
    random = Random(7)
    drawn = Counter(network_of(relays_draw([*crowd, relay_of(1)], 1, random)[0].endpoints[0][0]) for _ in range(400))
    assert min(drawn.values()) > 150


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("10.1.2.3", "10.1.200.3", True),
        ("10.1.2.3", "10.2.2.3", False),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", True),
        ("2001:db8:1::1", "2001:db8:2::1", False),
        ("::ffff:10.1.2.3", "10.1.9.9", True),
        ("2002:0a01:203::1", "10.1.9.9", True),
        ("127.1.0.1", "127.2.0.1", False),
    ],
)
def test_networks(one, other, is_same):
    assert (network_of(one) == network_of(other)) is is_same


def test_the_error_says_which_rule_removed_how_many():
    known = [relay_of(number) for number in range(1, 5)] + [relay_of(5, "10.4.9.9")]
    bars = Bars((known[0],), frozenset([network_of("10.2.0.9")]))
    with pytest.raises(
        qg.NoRoute, match="5 are known, of which 1 on the path or at its ends, 1 failed lately"
    ) as caught:
        route_choose(known, 2, bars, avoided=[known[2]])
    assert caught.value.removed == {
        "on the path or at its ends": 1,
        "failed lately": 1,
        "in a network of the path or its ends": 1,
        "in one network with another": 1,
    }


# The book


def neighbour_of(number):
    return PeerId(bytes([number]) * 32)


def taken(book, number, neighbour, issued_s=1000, expires_s=10**9):
    relay = relay_of(number, f"10.{number >> 8 & 255}.{number & 255}.1")
    return book.record_take(relay, neighbour_of(neighbour), issued_s, expires_s, b"%d" % number)


def test_the_newest_record_of_an_identity_is_kept():
    book = RelayBook()
    assert taken(book, 1, 1, issued_s=1000)
    assert not taken(book, 1, 2, issued_s=1000)
    assert not taken(book, 1, 2, issued_s=999)
    assert taken(book, 1, 2, issued_s=1001)
    assert len(book) == len(book.relays(0)) == 1


def test_expired_records_are_no_relays_and_go():
    book = RelayBook()
    taken(book, 1, 1, expires_s=500)
    assert book.relays(500)
    assert not book.relays(501)
    assert book.raws(9, 500)
    assert not book.raws(9, 501)
    book.expired_drop(501)
    assert len(book) == 0


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 12), st.integers(1, 50)), max_size=600))
def test_the_book_is_bounded_and_no_neighbour_owns_more_than_its_share(records):
    book = RelayBook(known_max=64)
    for number, neighbour, issued_s in records:
        taken(book, number, neighbour, issued_s)
        assert len(book) <= 64
        assert sum(map(book.n_told, map(neighbour_of, range(13)))) == len(book)
        assert all(book.n_told(neighbour_of(each)) <= 16 for each in range(13))


def test_one_neighbour_cannot_push_out_what_others_told():
    book = RelayBook(known_max=256)
    for neighbour in range(1, 9):
        for idx in range(16):
            taken(book, 1000 * neighbour + idx, neighbour)
    for number in range(10_000, 20_000):
        taken(book, number, 99, issued_s=number)
    assert [book.n_told(neighbour_of(neighbour)) for neighbour in range(1, 9)] == [16] * 8
    assert book.n_told(neighbour_of(99)) <= 18


def test_a_relay_that_failed_is_avoided_longer_each_time_and_forgiven_when_it_works():
    book, relay = RelayBook(), relay_of(1)
    for now_s, pause_s in ((0, 600), (1000, 1200), (3000, 2400), (9000, 3600), (20_000, 3600)):
        book.failed(relay, relay_of(2), now_s)
        book.failed(relay, relay_of(3), now_s)
        assert book.is_avoided(relay, now_s + pause_s - 1)
        assert not book.is_avoided(relay, now_s + pause_s)
    book.worked(relay)
    book.failed(relay, relay_of(2), 40_000)
    book.failed(relay, relay_of(3), 40_000)
    assert not book.is_avoided(relay, 40_600)


def test_what_one_relay_says_of_another_avoids_nobody_until_a_second_one_says_it_within_the_hour():
    book, relay = RelayBook(), relay_of(1)
    for now_s in range(10):
        book.failed(relay, relay_of(2), now_s)
    book.failed(relay, relay_of(3), 4000)
    assert not book.is_avoided(relay, 4000)
    book.worked(relay)
    book.failed(relay, relay_of(2), 4001)
    assert not book.is_avoided(relay, 4001)
    book.failed(relay, relay_of(3), 4002)
    assert book.is_avoided(relay, 4002)


@pytest.mark.anyio
async def test_a_hostile_guard_does_not_lead_circuits_to_its_friends_by_calling_others_unreachable():
    now_s, guard, friends = [1e9], relay_of(40), {31, 32, 33}
    routes = Routes(
        qg.Config(relays=tuple(relay_of(n).address for n in range(1, 41))), qg.Identity.generate(), lambda: now_s[0]
    )
    routes.guards.add([guard], now_s[0])
    asked = []

    async def build(path, others):
        first, second = (int.from_bytes(bytes(hop.link_key)) for hop in path[:2])
        if first == 40:
            asked.append(second)
            if second not in friends:
                error = qg.Unreachable("far", qg.Reason.UNREACHABLE)
                error.hop_idx = 1
                raise error

    for _ in range(200):
        with suppress(qg.Unreachable):
            await routes.connect(relay_of(200).address, 3, (), (), build)
        now_s[0] += 10
    assert sum(second in friends for second in asked[-50:]) < 20  # 4 by chance, all of them if it were believed


class Slow:
    """Circuits over relays of which some are silent until they are told how it goes on."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr("qg.routes._SLOW_S", 0.01)
        relays = tuple(relay_of(n).address for n in range(1, 10))
        self.routes = Routes(qg.Config(relays=relays), qg.Identity.generate(), lambda: 1e9)
        self.routes.guards.add([relay_of(1), relay_of(2)], 1e9)
        self.silent = None  # the first of the first path
        self.told = asyncio.get_running_loop().create_future()
        self.paths = []
        self.n_cancelled = 0
        self.abandoned = []

    async def build(self, path, others):
        self.paths.append([hop.link_key for hop in path[:-1]])
        self.silent = self.silent or path[0].link_key
        if path[0].link_key == self.silent:
            try:
                await asyncio.shield(self.told)
            except asyncio.CancelledError:
                self.n_cancelled += 1
                raise
        return path[0].link_key

    async def connect(self):
        return await self.routes.connect(relay_of(200).address, 3, (), (), self.build, self.abandoned.append)


@pytest.mark.anyio
async def test_a_silent_relay_is_gone_round_and_blamed_when_its_time_is_up(monkeypatch):
    slow = Slow(monkeypatch)
    assert await slow.connect() != slow.silent
    first, second = slow.paths
    assert first[0] not in second
    assert slow.n_cancelled == 0
    error = qg.PeerTimeout("silent", qg.Reason.TIMEOUT)
    error.hop_idx = 0
    slow.told.set_exception(error)
    await asyncio.sleep(0.01)
    assert slow.routes.guards.order(1e9)[0].link_key != slow.silent
    assert await slow.connect() != slow.silent
    assert len(slow.paths) == 3
    assert not slow.abandoned


@pytest.mark.anyio
async def test_a_circuit_that_comes_too_late_is_given_up(monkeypatch):
    slow = Slow(monkeypatch)
    assert await slow.connect() != slow.silent
    slow.told.set_result(None)
    await asyncio.sleep(0.01)
    assert slow.abandoned == [slow.silent]


@pytest.mark.anyio
async def test_who_waits_no_more_ends_all_tries(monkeypatch):
    slow = Slow(monkeypatch)

    async def silent(path, others):
        slow.silent = path[0].link_key
        return await slow.build(path, others)

    task = asyncio.create_task(slow.routes.connect(relay_of(200).address, 3, (), (), silent, slow.abandoned.append))
    while len(slow.paths) < 2:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert slow.n_cancelled == len(slow.paths)


@pytest.mark.anyio
async def test_a_guard_that_leads_to_its_friends_only_is_passed_over_with_a_warning(caplog):
    now_s, friends = [1e9], {31, 32, 33}
    routes = Routes(
        qg.Config(relays=tuple(relay_of(n).address for n in range(1, 42))), qg.Identity.generate(), lambda: now_s[0]
    )
    routes.guards.add([relay_of(40), relay_of(41)], now_s[0])
    asked = []

    async def build(path, others):
        first, second = (int.from_bytes(bytes(hop.link_key)) for hop in path[:2])
        asked.append(first)
        if first == 40 and second not in friends:
            error = qg.Unreachable("far", qg.Reason.UNREACHABLE)
            error.hop_idx = 1
            raise error

    with caplog.at_level("WARNING", "qg.node"):
        for _ in range(120):
            with suppress(qg.Unreachable):
                await routes.connect(relay_of(200).address, 3, (), (), build)
            now_s[0] += 10
    assert asked.count(40) < 20
    assert set(asked[-40:]) == {41}
    assert [record.getMessage().split()[0] for record in caplog.records] == ["guard_passed_over"]
    assert str(relay_of(40).address) in caplog.text
    now_s[0] += 3600
    assert {routes.guards.order(now_s[0])[0] for _ in range(60)} == {relay_of(40), relay_of(41)}


def test_a_guard_is_doubted_only_when_it_led_to_fewer_than_half_of_the_relays_behind_it(path):
    guards, guard = Guards(path, PATIENCE_S), relay_of(1)
    guards.add([guard, relay_of(2)], 0)
    for number in range(100):  # of the last twenty, ten
        assert not guards.extended(guard, relay_of(10 + number), 0, is_led=number % 2 == 0)
        assert not guards.extended(guard, relay_of(9), 0, is_led=True)
        assert not guards.extended(relay_of(3), relay_of(10 + number), 0, is_led=False)  # no guard
    other = relay_of(2)
    assert not any(guards.extended(other, relay_of(number % 5), 0, is_led=False) for number in range(100))  # too few
    assert guards.extended(other, relay_of(5), 0, is_led=False)
    assert guards.order(3599) == [guard, other]
    guards.failed(guard, 3599)  # one that does not answer is worse than one that is doubted
    assert guards.order(3599) == [other, guard]
    assert not guards.is_doubted(other, 3600)


def test_both_guards_doubted_serve_on(path):
    """Then it is rather this node, or the network, that is at fault."""
    guards = Guards(path, PATIENCE_S)
    guards.add([relay_of(1), relay_of(2)], 0)
    for guard in guards.relays:
        assert any(guards.extended(guard, relay_of(number), 0, is_led=False) for number in range(10, 16))
    assert {guards.order(1)[0] for _ in range(60)} == {relay_of(1), relay_of(2)}


def test_layers_that_fail_to_open_with_two_others_within_ten_minutes_bar_a_relay_for_an_hour():
    book, relay, (one, two, three) = RelayBook(), relay_of(1), (relay_of(n).link_key for n in (2, 3, 4))
    assert not book.tampered(relay.link_key, one, 0)
    assert not book.tampered(two, relay.link_key, 600)
    assert not book.is_avoided(relay, 601)
    assert book.tampered(relay.link_key, three, 1100) == [relay.link_key]
    book.worked(relay)
    assert book.is_avoided(relay, 1100 + 3599)
    assert book.is_suspect(relay, 1100 + 3599)
    assert not book.is_suspect(relay, 1100 + 3600)
    assert not book.is_avoided(relay, 1100 + 3600)


def test_one_relay_that_breaks_layers_bars_itself_and_none_of_those_it_is_beside():
    book, evil, others = RelayBook(), relay_of(1), [relay_of(n) for n in range(2, 9)]
    for now_s, other in enumerate(others):
        for pair in ((other, evil), (other, evil), (evil, other)):
            book.tampered(*(relay.link_key for relay in pair), now_s)
    assert book.is_avoided(evil, 10)
    assert book.is_suspect(evil, 10)
    assert not any(book.is_avoided(other, 10) for other in others)


def test_a_relay_whose_own_layer_breaks_twice_is_barred():
    book, relay = RelayBook(), relay_of(1)
    assert not book.tampered(relay.link_key, relay.link_key, 0)
    assert book.tampered(relay.link_key, relay.link_key, 1) == [relay.link_key]


def test_who_names_the_link_key_of_another_relay_in_his_record_does_it_no_harm():
    book, relay = RelayBook(), relay_of(1)
    liar = relay_of(2)._replace(link_key=relay.link_key)
    book.record_take(liar, neighbour_of(2), 1000, 10**9, b"")
    assert book.relays(0, [relay]) == [liar, relay]
    book.record_take(relay, neighbour_of(1), 1000, 10**9, b"")
    assert book.relays(0) == [liar, relay]
    book.failed(liar, relay_of(3), 0)
    book.failed(liar, relay_of(4), 0)
    assert book.is_avoided(liar, 1)
    assert not book.is_avoided(relay, 1)
    assert relays_usable([liar, relay], NOBODY, [liar])[0] == [relay]
    for other in (3, 4):
        book.tampered(relay.link_key, relay_of(other).link_key, 0)  # whoever has the key itself
    assert book.is_avoided(relay, 1)


def test_records_are_drawn_alike_and_not_told_to_whom_they_came_from():
    book = RelayBook()
    for number in range(8):
        taken(book, number, neighbour=1 + number % 2)
    drawn = Counter(raw for _ in range(400) for raw in book.raws(3, 0))
    assert len(drawn) == 8
    assert min(drawn.values()) > 90
    told = {int(raw) % 2 for _ in range(40) for raw in book.raws(3, 0, without=neighbour_of(1))}
    assert told == {1}


def test_a_relay_of_the_configuration_stands_for_its_record():
    relay = relay_of(1)
    book = RelayBook([relay.address])
    taken(book, 1, 1)
    assert [known.endpoints for known in book.relays(0)] == [relay.endpoints]


def test_a_relay_that_the_configuration_names_at_several_addresses_is_one_relay():
    hosts = [f"10.{n}.0.1" for n in range(6)]
    one = [relay_of(1, host).address._replace(peer_id=None) for host in hosts]
    one[2] = relay_of(1, hosts[2]).address
    other = relay_of(2, "10.9.0.1")
    (first, second) = RelayBook([*one[:2], other.address, *one[2:], one[0]]).relays(0)
    assert first == relay_of(1, *hosts[:4])
    assert second == other
    assert len(first.networks) == 4


def test_a_record_that_names_the_link_key_of_another_relay_does_not_hide_it():
    book, relay = RelayBook(), relay_of(1)
    liar = relay_of(2)._replace(link_key=relay.link_key)
    for each in (liar, relay):
        book.record_take(each, neighbour_of(1), 1000, 2000, b"raw")
    assert book.relays(0) == [liar, relay]
    assert RelayBook([relay.address._replace(peer_id=None)]).relays(0, [liar]) == [relay._replace(peer_id=None)]


# Guards


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "node.guards")


def test_guards_are_kept_across_restarts(path):
    guards = Guards(path, PATIENCE_S)
    assert guards.wanted() == N_GUARDS == 2
    guards.add([relay_of(1), relay_of(2)], 0)
    assert os.stat(path).st_mode & 0o777 == 0o600
    again = Guards(path, PATIENCE_S)
    assert again.relays == (relay_of(1), relay_of(2))
    assert again.wanted() == 0
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


def test_all_addresses_of_a_guard_are_kept(path):
    relay = relay_of(1, "10.1.0.1", "2001:db8:1::1", "10.2.0.1")
    Guards(path, PATIENCE_S).add([relay], 0)
    assert Guards(path, PATIENCE_S).relays == (relay,)


def test_the_guards_take_turns_and_one_that_failed_comes_last_for_a_while(path):
    guards = Guards(path, PATIENCE_S)
    guards.add([relay_of(1), relay_of(2)], 0)
    assert {guards.order(0)[0] for _ in range(60)} == {relay_of(1), relay_of(2)}
    guards.failed(relay_of(1), 100)
    for again in (guards, Guards(path, PATIENCE_S)):
        assert {again.order(159)[0] for _ in range(20)} == {relay_of(2)}
        assert {again.order(160)[0] for _ in range(60)} == {relay_of(1), relay_of(2)}
    guards.worked(relay_of(1), 161)
    assert {guards.order(161)[0] for _ in range(60)} == {relay_of(1), relay_of(2)}


def test_a_guard_gone_for_good_is_replaced_after_the_stated_time_and_not_before(path):
    guards = Guards(path, PATIENCE_S)
    guards.add([relay_of(1), relay_of(2)], 0)
    guards.failed(relay_of(1), 100)
    guards.failed(relay_of(1), 100 + PATIENCE_S - 1)
    assert not guards.candidate_wanted()
    assert guards.replaced_s() == 100 + PATIENCE_S
    guards.failed(relay_of(1), 100 + PATIENCE_S)
    assert guards.candidate_wanted()
    guards.candidate_set(relay_of(3))
    assert guards.order(5000)[0] == relay_of(3)
    assert guards.relays == (relay_of(1), relay_of(2))
    assert guards.worked(relay_of(3), 5000) == relay_of(1)
    assert Guards(path, PATIENCE_S).relays == (relay_of(3), relay_of(2))


def test_while_this_node_itself_is_cut_off_no_guard_is_replaced(path):
    guards = Guards(path, PATIENCE_S)
    guards.add([relay_of(1), relay_of(2)], 0)
    for now_s in range(0, 10_000, 500):
        for relay in guards.order(now_s):
            guards.failed(relay, now_s)
        if guards.candidate_wanted():
            guards.candidate_set(relay_of(3))
    guards.worked(relay_of(1), 10_001)
    guards.worked(relay_of(2), 10_001)
    assert guards.relays == (relay_of(1), relay_of(2))
    assert guards.replaced_s() is None
    assert not guards.candidate_wanted()


def test_a_guard_that_comes_back_keeps_its_place(path):
    guards = Guards(path, PATIENCE_S)
    guards.add([relay_of(1), relay_of(2)], 0)
    guards.failed(relay_of(1), 0)
    guards.failed(relay_of(1), 2 * PATIENCE_S)
    guards.candidate_set(relay_of(3))
    guards.worked(relay_of(1), 3 * PATIENCE_S)
    assert guards.worked(relay_of(3), 3 * PATIENCE_S) is None
    assert guards.relays == (relay_of(1), relay_of(2))


def test_a_clock_that_is_set_back_does_not_keep_a_guard_for_ever(path):
    guards = Guards(path, PATIENCE_S)
    guards.add([relay_of(1)], 0)
    guards.failed(relay_of(1), 1_000_000)
    guards.failed(relay_of(1), 100)
    guards.failed(relay_of(1), 100 + PATIENCE_S)
    assert guards.candidate_wanted()


WHOLE = {"relay": str(relay_of(1).address), "chosen_s": 0, "down_s": None, "failed_s": 0, "n_failed": 0}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", '{"guards": [{}]}', '{"guards": [{"relay": "qg://a.example:1"}]}', "[" * 100_000),
        *(
            json.dumps({"guards": [WHOLE | {name: value}]})
            for name, value in (
                *(("relay", 1), ("chosen_s", 10**400), ("down_s", float("nan"))),
                *(("failed_s", float("inf")), ("n_failed", float("inf"))),
            )
        ),
    ],
    ids=str.__len__,
)
def test_a_file_that_is_none_of_guards_is_named(path, text):
    with open(path, "w") as file:
        file.write(text)
    with pytest.raises(qg.LocalError, match=r"node\.guards is not a file of guards"):
        Guards(path, PATIENCE_S)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    guards = Guards(str(tmp_path / "none" / "guards"), PATIENCE_S)
    with pytest.raises(qg.LocalError, match="name another file by `guards`"):
        guards.add([relay_of(1)], 0)


def test_the_file_can_be_read_by_people(path):
    Guards(path, PATIENCE_S).add([relay_of(1)], 7)
    with open(path) as file:
        (guard,) = json.load(file)["guards"]
    assert qg.Address.parse(guard["relay"]).host == "10.1.0.1"
    assert guard["chosen_s"] == 7
