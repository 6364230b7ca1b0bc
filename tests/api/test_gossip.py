# SPDX-License-Identifier: MIT
"""What a node believes of what peers tell of relays: nothing unsigned, little of one peer, and at a bounded cost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qg
from qg._core.keyfile import KeyRing
from qg.gossip import Gossip
from qg.records import (
    FRAME_LEN_MAX,
    FRAME_RECORDS_MAX,
    Record,
    frame_pack,
    frame_split,
    may_dial,
    record_make,
    record_withdraw,
)
from qg.relays import RelayBook

NOW_S = 1_750_000_000
SETTINGS = {"relay": {"allow": [str(qg.Identity.generate().peer_id)], "targets": ["127.0.0.0/8"]}}
RELAYING = qg.RelayConfig(allow="members", rate_kib_s=2048, burst_kib=512)
NEIGHBOUR, OTHER = qg.Identity.generate().peer_id, qg.Identity.generate().peer_id


class Reader:
    """A node's ear, with clocks that the test moves."""

    def __init__(self):
        self.now_s, self.steady_s = float(NOW_S), 0.0
        self.identity = qg.Identity.generate()
        self.book = RelayBook()
        config = qg.Config.from_dict(SETTINGS)
        self.gossip = Gossip(config, self.identity, self.book, lambda: self.now_s, lambda: self.steady_s)

    def tell(self, *raws, neighbour=NEIGHBOUR):
        """What became of each of the records."""
        before = self.gossip.counts.copy()
        for raw in raws:
            self.gossip.take(neighbour, frame_pack([raw])[1:])
        counts = self.gossip.counts - before
        del counts["verified"]
        return dict(counts)


@pytest.fixture
def reader():
    return Reader()


def record_of(n=1, *, identity=None, now_s=NOW_S, port=7447, relay=RELAYING, host=None):
    endpoints = [qg.Endpoint("tcp", host or f"127.{n >> 8 & 255}.{n & 255}.1", port)]
    return record_make(identity or qg.Identity.generate(), endpoints, relay, now_s)


def test_a_record_says_who_relays_where_and_at_which_terms():
    identity = qg.Identity.generate()
    endpoints = [qg.Endpoint("tcp", host, 7447) for host in ("0.0.0.0", "127.1.0.1", "2001:db8::1", "::")]
    record = Record.read(record_make(identity, endpoints, RELAYING, NOW_S), NOW_S, 0)
    assert record.relay.peer_id == identity.peer_id
    assert record.relay.link_key == identity.link_key
    assert record.relay.endpoints == (("127.1.0.1", 7447), ("2001:db8::1", 7447))
    assert (record.relay.rate_kib, record.relay.burst_kib) == (2048, 512)
    assert (record.issued_s, record.expires_s) == (NOW_S, NOW_S + 86_400)


def test_who_does_not_relay_or_cannot_be_dialled_makes_no_record():
    assert record_of(relay=qg.RelayConfig()) is None
    assert record_of(host="0.0.0.0") is None
    assert record_make(qg.Identity.generate(), [], RELAYING, NOW_S) is None


def test_a_relay_that_is_told_of_is_known(reader):
    raw = record_of()
    assert reader.tell(raw) == {"taken": 1}
    assert reader.tell(raw, neighbour=OTHER) == {"known": 1}
    (relay,) = reader.book.relays(NOW_S)
    assert relay.endpoints == (("127.0.1.1", 7447),)


def test_a_relay_that_takes_its_word_back_is_drawn_no_more_and_older_records_do_not_bring_it_back(reader):
    identity = qg.Identity.generate()
    endpoints = [qg.Endpoint("tcp", "127.0.1.1", 7447)]
    withdrawn = record_withdraw(identity, endpoints, NOW_S + 10)
    reader.now_s += 20
    assert reader.tell(withdrawn) == {"refused": 1}  # nobody knew it
    first = record_of(identity=identity)
    assert reader.tell(first) == {"taken": 1}
    assert reader.tell(withdrawn, neighbour=OTHER) == {"withdrawn": 1}
    assert reader.book.relays(NOW_S) == []
    assert reader.book.raws(99, NOW_S) == [withdrawn]
    assert reader.tell(first) == {"known": 1}
    assert reader.tell(record_of(identity=identity, now_s=NOW_S + 20)) == {"taken": 1}
    assert len(reader.book.relays(NOW_S)) == 1


@pytest.mark.parametrize("how", ["it is about to stop", "its configuration says so"])
def test_a_node_that_relays_no_more_takes_its_record_back(reader, how):
    identity, endpoints = qg.Identity.generate(), (qg.Endpoint("tcp", "127.0.1.1", 7447),)
    config = qg.Config(relay=RELAYING)
    teller = Gossip(config, identity, RelayBook(), lambda: reader.now_s, lambda: reader.steady_s)

    def told():
        (raw,) = frame_split(teller.frame_make(endpoints, NEIGHBOUR)[1:])
        return raw

    assert reader.tell(told()) == {"taken": 1}
    if how == "it is about to stop":
        assert teller.leave()
    else:
        teller.configure(qg.Config(), identity)
    reader.now_s += 1
    assert reader.tell(told()) == {"withdrawn": 1}
    assert reader.book.relays(NOW_S) == []
    reader.steady_s += 100_000
    assert teller.frame_make(endpoints, NEIGHBOUR) is not None


def test_a_node_that_never_relayed_takes_nothing_back():
    teller = Gossip(qg.Config(), qg.Identity.generate(), RelayBook())
    assert not teller.leave()
    assert teller.frame_make((qg.Endpoint("tcp", "127.0.1.1", 7447),), NEIGHBOUR) is None


def test_a_relay_for_listed_peers_only_is_passed_on_and_not_drawn(reader):
    raw = record_of(relay=qg.RelayConfig(allow=(NEIGHBOUR,)))
    assert reader.tell(raw) == {"taken": 1}
    assert reader.book.relays(NOW_S) == []
    assert reader.book.raws(99, NOW_S) == [raw]


def test_what_is_forged_cut_expired_or_of_the_future_is_dropped_by_its_reason(reader):
    raw = record_of()
    forged = raw[:-1] + bytes([raw[-1] ^ 1])
    assert reader.tell(forged) == {"refused": 1}
    assert reader.tell(raw[:40], raw + b"\0", b"") == {"malformed": 3}
    assert reader.tell(record_of(now_s=NOW_S - 86_400 - 121)) == {"refused": 1}
    assert reader.tell(record_of(now_s=NOW_S + 121)) == {"refused": 1}
    assert reader.tell(record_of(now_s=NOW_S + 119), record_of(now_s=NOW_S - 86_400 - 119)) == {"taken": 2}
    assert reader.tell(record_of(identity=reader.identity)) == {"own": 1}
    assert len(reader.book) == 2


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=500), st.integers(0, 8 * 270))
def test_nothing_but_a_signed_record_is_taken(noise, bit):
    reader, raw = Reader(), bytearray(record_of())
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    reader.tell(noise, bytes(raw))
    assert len(reader.book) == 0


def test_the_newest_record_counts_whatever_comes_first(reader):
    identity = qg.Identity.generate()
    older, newer = (record_of(identity=identity, now_s=NOW_S - age_s, port=7447) for age_s in (50, 10))
    assert reader.tell(newer, older) == {"taken": 1, "known": 1}
    assert reader.book.issued_s(identity.peer_id) == NOW_S - 10


@pytest.mark.parametrize(
    ("host", "port", "is_dialled"),
    [
        ("198.41.0.4", 7447, True),
        ("198.41.0.4", 25, False),
        ("2a00:1450::1", 7447, True),
        ("192.168.1.1", 7447, False),
        ("10.1.2.3", 7447, False),
        ("100.64.0.1", 7447, False),
        ("169.254.0.1", 7447, False),
        ("224.0.0.1", 7447, False),
        ("0.0.0.1", 7447, False),
        ("fe80::1", 7447, False),
        ("fd00::1", 7447, False),
        ("::1", 7447, False),
        ("2002:c000:204::1", 7447, False),
        ("::ffff:198.41.0.4", 7447, False),
        ("127.5.0.1", 7447, True),  # listed
    ],
)
def test_a_record_sends_a_node_nowhere_that_its_relay_would_not_dial(host, port, is_dialled):
    assert may_dial(host, port, [qg.Prefix.parse("127.0.0.0/8")], (7447,)) is is_dialled


def test_a_record_without_an_address_to_dial_is_dropped(reader):
    assert reader.tell(record_of(host="192.168.1.1"), record_of(port=22)) == {"not_dialled": 2}


def test_a_neighbour_has_so_many_checks_and_more_as_time_passes(reader):
    raws = [record_of(n) for n in range(80)]
    assert reader.tell(*raws[:70]) == {"taken": 64, "over_rate": 6}
    assert reader.tell(raws[70], neighbour=OTHER) == {"taken": 1}
    reader.steady_s += 10
    assert reader.tell(*raws[71:]) == {"taken": 2, "over_rate": 7}


def test_a_hundred_thousand_records_cost_few_checks_and_little_memory(reader):
    """Each is new and looks right. What is counted are verified signatures, and what the book holds."""
    ring = KeyRing.generate(NOW_S)
    address = b"\x04\x7f\x01\x00\x01\x1d\x17"
    template = bytearray(ring.peer_record(1, 0, 0, 1, address, NOW_S, 86_400))
    honest = [record_of(n) for n in range(16)]
    assert reader.tell(*honest, neighbour=OTHER) == {"taken": 16}
    for n in range(100_000 // FRAME_RECORDS_MAX):
        raws = []
        for idx in range(FRAME_RECORDS_MAX):
            template[1:5] = (n * FRAME_RECORDS_MAX + idx).to_bytes(4, "big")  # of another PeerID each
            raws.append(bytes(template))
        reader.gossip.take(NEIGHBOUR, frame_pack(raws)[1:])
    assert reader.gossip.counts["verified"] == 16 + 64
    assert reader.gossip.counts["refused"] == 64
    assert reader.gossip.counts["over_rate"] > 99_000
    assert sorted(reader.book.raws(99, NOW_S)) == sorted(honest)


def test_a_frame_holds_a_dozen_records_and_no_more_than_its_length():
    raws = [record_of(n) for n in range(20)]
    frame = frame_pack(raws)
    assert len(frame) <= FRAME_LEN_MAX
    assert frame[0] == FRAME_RECORDS_MAX
    assert frame_split(frame[1:]) == raws[:FRAME_RECORDS_MAX]
    longest = [bytes(339)] * 13
    assert len(frame_pack(longest)) <= FRAME_LEN_MAX


def test_a_node_tells_of_itself_and_of_others_but_nobody_of_what_he_told(reader):
    config = qg.Config(relay=RELAYING)
    identity = qg.Identity.generate()
    gossip = Gossip(config, identity, reader.book, lambda: reader.now_s, lambda: reader.steady_s)
    raws = [record_of(n) for n in range(5)]
    reader.tell(*raws)
    endpoints = [qg.Endpoint("tcp", "127.9.0.1", 7447)]
    told = frame_split(gossip.frame_make(endpoints, OTHER)[1:])
    assert sorted(told[1:]) == sorted(raws)
    assert Record.read(told[0], NOW_S, 0).relay.peer_id == identity.peer_id
    assert frame_split(gossip.frame_make(endpoints, NEIGHBOUR)[1:]) == told[:1]
    assert Gossip(qg.Config(), identity, RelayBook()).frame_make(endpoints, OTHER) is None


def test_other_settings_make_another_record():
    identity = qg.Identity.generate()
    gossip = Gossip(qg.Config(), identity, RelayBook())
    endpoints = [qg.Endpoint("tcp", "127.9.0.1", 7447)]
    assert gossip.frame_make(endpoints, OTHER) is None
    gossip.configure(qg.Config(relay=RELAYING), identity)
    assert gossip.frame_make(endpoints, OTHER) is not None


def test_a_nodes_own_record_is_made_anew_before_it_ends():
    reader = Reader()
    gossip = Gossip(
        qg.Config(relay=RELAYING), reader.identity, RelayBook(), lambda: reader.now_s, lambda: reader.steady_s
    )
    endpoints, issued = [qg.Endpoint("tcp", "127.9.0.1", 7447)], set()
    for _ in range(48):
        (raw,) = frame_split(gossip.frame_make(endpoints, OTHER)[1:])
        record = Record.read(raw, int(reader.now_s), 0)
        assert record.expires_s - reader.now_s > 60_000
        issued.add(record.issued_s)
        reader.now_s += 1800
        reader.steady_s += 1800
    assert len(issued) == 4
