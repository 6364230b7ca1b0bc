# SPDX-License-Identifier: MIT
"""Networks: lists that hold addresses, and tables in which the longest prefix decides, as `ipaddress` says."""

import random
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qg._core.prefixes import Marks, PrefixList

OK, E_ADDRESS, E_FULL = 0, -24, -32


def ip(text):
    return ip_address(text).packed


def canonical(address):
    return getattr(address, "ipv4_mapped", None) or address


def canonical_network(network):
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    return ip_network((mapped, network.prefixlen - 96)) if mapped and network.prefixlen >= 96 else network


@st.composite
def networks_and_addresses(draw):
    """Make a network, and an address that is likely to be in it or just outside."""
    width = draw(st.sampled_from([32, 128]))
    base = draw(st.integers(0, 2**width - 1))
    if width == 128 and draw(st.booleans()):
        base = (0xFFFF << 32) | (base & 0xFFFFFFFF)
    prefix_len = draw(st.integers(0, width))
    flip = draw(
        st.one_of(st.just(0), st.integers(0, width - 1).map(lambda bit: 1 << bit), st.integers(0, 2**width - 1))
    )
    kind = IPv4Network if width == 32 else IPv6Network
    return (
        kind((base, prefix_len), strict=False),
        base.to_bytes(width // 8, "big"),
        (base ^ flip).to_bytes(width // 8, "big"),
    )


@given(networks_and_addresses(), st.booleans())
def test_a_network_holds_the_addresses_that_ipaddress_says(case, is_mapped):
    network, base, address = case
    prefixes = PrefixList()
    assert prefixes.add(base, network.prefixlen) == OK
    target, expected = canonical(ip_address(address)), canonical_network(network)
    if is_mapped and target.version == 4:
        address = bytes(10) + b"\xff\xff" + target.packed
    assert prefixes.holds(address) == (target.version == expected.version and target in expected)


def test_all_of_ipv6_is_not_all_of_ipv4():
    prefixes = PrefixList()
    prefixes.add(bytes(16), 0)
    assert prefixes.holds(ip("2001:db8::1"))
    assert not prefixes.holds(ip("192.0.2.1"))
    assert not prefixes.holds(ip("::ffff:192.0.2.1"))


def test_a_list_of_networks_is_bounded_and_refuses_nonsense():
    prefixes = PrefixList()
    assert prefixes.add(bytes(4), 33) == E_ADDRESS
    assert prefixes.add(bytes(16), 129) == E_ADDRESS
    assert prefixes.add(bytes(5), 8) == E_ADDRESS
    assert [prefixes.add(ip("10.0.0.0"), 8) for _ in range(65)] == [OK] * 64 + [E_FULL]


# --- tables ---


def form(packed):
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def place(network):
    n_bits = network.prefixlen + (96 if network.version == 4 else 0)
    return form(network.network_address.packed), n_bits


def table(networks):
    """Make a table of networks; gives it, and them in its order."""
    ordered = sorted(set(networks), key=place)
    return Marks([(network.network_address.packed, network.prefixlen) for network in ordered]), ordered


def longest(networks, address):
    """The longest of the networks that hold an address, by looking at each."""
    holding = [network for network in networks if network.version == address.version and address in network]
    return max(holding, key=lambda network: network.prefixlen, default=None)


@st.composite
def crowds(draw):
    """Make networks that are nested and beside each other, and addresses at their borders."""
    width = draw(st.sampled_from([32, 128]))
    kind = IPv4Network if width == 32 else IPv6Network
    heads = draw(st.lists(st.integers(0, 2**width - 1), min_size=1, max_size=3))
    networks = []
    for _ in range(draw(st.integers(0, 20))):
        head = draw(st.sampled_from(heads)) ^ (1 << draw(st.integers(0, width - 1))) * draw(st.booleans())
        networks.append(kind((head, draw(st.integers(0, width))), strict=False))
    numbers = set(heads) | {0, 2**width - 1}
    for network in networks:
        first, last = int(network.network_address), int(network.broadcast_address)
        numbers |= {first, last, max(first - 1, 0), min(last + 1, 2**width - 1)}
    return networks, [ip_address(number.to_bytes(width // 8, "big")) for number in numbers]


@given(crowds(), crowds())
def test_the_longest_prefix_decides(crowd, other):
    networks = crowd[0] + [network for network in other[0] if canonical_network(network).version == network.version]
    networks = [network for network in networks if canonical_network(network).version == network.version]
    marks, ordered = table(networks)
    for address in map(canonical, crowd[1] + other[1]):
        found = marks.find(address.packed)
        expected = longest(networks, address)
        assert (None if found is None else ordered[found]) == expected


def test_an_empty_table_says_nothing():
    marks = Marks([])
    assert (marks.find(ip("0.0.0.0")), marks.find(ip("::")), marks.n_ranges) == (None, None, 2)


def test_all_of_a_family_has_no_end():
    marks, _ = table([ip_network("::/0"), ip_network("0.0.0.0/0"), ip_network("255.255.255.255/32")])
    assert [marks.find(ip(text)) for text in ("0.0.0.0", "255.255.255.254", "255.255.255.255")] == [1, 1, 2]
    assert [marks.find(ip(text)) for text in ("::", "ffff:" * 7 + "ffff")] == [0, 0]
    assert marks.find(form(ip("1.2.3.4"))) == 1


def test_a_hundred_thousand_networks_are_looked_up_like_a_few():
    draw = random.Random(1)
    networks = {IPv4Network((draw.getrandbits(32), draw.randint(12, 32)), strict=False) for _ in range(60_000)}
    networks |= {IPv6Network((draw.getrandbits(128), draw.randint(24, 128)), strict=False) for _ in range(40_000)}
    marks, ordered = table(networks)
    by_place = {}
    for network in networks:
        by_place.setdefault(network.version, {})[int(network.network_address), network.prefixlen] = network
    for _ in range(2000):
        near = draw.choice(ordered)
        number = int(near.network_address) ^ (1 << draw.randint(0, near.max_prefixlen - 1)) * draw.getrandbits(1)
        address = ip_address(number.to_bytes(near.max_prefixlen // 8, "big"))
        # Every prefix of the address, the longest first.
        cut = (
            by_place[near.version].get((number >> left << left, near.max_prefixlen - left))
            for left in range(near.max_prefixlen + 1)
        )
        expected = next(filter(None, cut), None)
        found = marks.find(address.packed)
        assert (None if found is None else ordered[found]) == expected
    assert marks.count(b"".join(form(network.network_address.packed) for network in ordered)) == len(ordered)


@pytest.mark.parametrize(
    "networks",
    [
        [(bytes(4), 33)],
        [(bytes(16), 129)],
        [(bytes(5), 8)],
        [(ip("10.0.0.0"), 8), (ip("9.0.0.0"), 8)],
        [(ip("10.0.0.0"), 8), (ip("10.0.0.0"), 8)],
        [(ip("10.0.0.0"), 9), (ip("10.0.0.0"), 8)],
    ],
)
def test_a_table_is_made_of_networks_in_their_order(networks):
    with pytest.raises(ValueError, match="not"):
        Marks(networks)
