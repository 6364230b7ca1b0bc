# SPDX-License-Identifier: MIT
"""Identifiers, addresses, endpoints and networks: one value, one text."""

import base64
import ipaddress
import pickle
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qg.address import Address, Endpoint, Prefix
from qg.errors import AddressError, InvalidValue
from qg.types import ExtenderId, LinkKey, PeerId, base32_decode, base32_encode

settings.register_profile("qg", deadline=None)  # a busy machine is no failure
settings.load_profile("qg")

KEY = LinkKey(bytes(range(32)))
PEER = PeerId(b"\xff" * 32)
KEY_TEXT = "aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq"
PEER_TEXT = "777777777777777777777777777777777777777777777777777q"

link_keys = st.binary(min_size=32, max_size=32).map(LinkKey)
peer_ids = st.none() | st.binary(min_size=32, max_size=32).map(PeerId)
labels = st.from_regex(r"[a-z0-9_]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=5).map(".".join).filter(lambda name: not name.split(".")[-1].isdigit())
ips = st.ip_addresses().map(str)
hosts = names | ips.filter(lambda ip: "%" not in ip)
ports = st.integers(1, 65535)
relays = st.builds(Address, link_keys, hosts, ports, peer_ids, st.just(()))
addresses = st.builds(Address, st.none() | link_keys, hosts, ports, peer_ids, st.lists(relays, max_size=7).map(tuple))


def host_normal(host: str) -> str:
    """The one spelling of a host that qg prints (Python's own differs for IPv4 inside IPv6)."""
    return Endpoint.parse(f"tcp://[{host}]:1").host if ":" in host else host


@given(addresses)
def test_an_address_reads_back_as_it_was_printed(address):
    address = address._replace(
        host=host_normal(address.host), via=tuple(relay._replace(host=host_normal(relay.host)) for relay in address.via)
    )
    assert Address.parse(str(address)) == address
    assert str(Address.parse(str(address))) == str(address)


@given(st.text(max_size=80) | st.text(max_size=80).map("qg://".__add__))
def test_any_text_is_an_address_or_a_one_line_error(text):
    try:
        address = Address.parse(text)
    except AddressError as error:
        assert "\n" not in str(error)
    else:
        assert Address.parse(str(address)) == address


def test_addresses_look_as_documented():
    full = Address(KEY, "::1", 7447, PEER, (Address(KEY, "relay.example", 1, PEER), Address(KEY, "192.0.2.1", 2)))
    assert str(full) == (
        f"qg://{KEY_TEXT}@[::1]:7447?id={PEER_TEXT}"
        f"&via={KEY_TEXT}@relay.example:1?id={PEER_TEXT}&via={KEY_TEXT}@192.0.2.1:2"
    )
    assert str(Address(None, "node.example", 7447)) == "qg://node.example:7447"
    assert Address.parse("  qg://Node.EXAMPLE:7447\n") == Address(None, "node.example", 7447)
    assert Address.parse("qg://[2001:DB8:0:0::1]:1").host == "2001:db8::1"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("http://a:1", "must start with qg://"),
        ("qg://a", "port is missing"),
        ("qg://[::1]", "port is missing"),
        ("qg://a:0", "1 to 65535"),
        ("qg://a:65536", "1 to 65535"),
        ("qg://a:07", "1 to 65535"),
        ("qg://a:\u0663", "1 to 65535"),
        ("qg://::1:7", "in brackets"),
        ("qg://[::1%eth0]:7", "zones"),
        ("qg://[1.2.3.4]:7", "IPv6"),
        ("qg://1.2.3:7", "looks like an IPv4 address"),
        ("qg://1.2.3.256:7", "looks like an IPv4 address"),
        ("qg://b\u00fccher.example:7", "xn--"),
        ("qg://a..b:7", "host name"),
        ("qg://-a:7", "host name"),
        (f"qg://{'a' * 64}:7", "host name"),
        ("qg://:7", "host name"),
        ("qg://a/b:7", "host name"),
        ("qg://abc@a:7", "52 base32 characters, not 3"),
        ("qg://@a:7", "52 base32 characters, not 0"),
        (f"qg://{KEY_TEXT.upper()}@a:7", "lower case"),
        (f"qg://{KEY_TEXT[:-1]}r@a:7", "unused bits"),
        (f"qg://{KEY_TEXT[:-1]}1@a:7", "'1'"),
        ("qg://a:7?", "cannot stand here"),
        ("qg://a:7?ID=x", "cannot stand here"),
        (f"qg://a:7?id={PEER_TEXT}&id={PEER_TEXT}", "cannot stand here"),
        (f"qg://a:7?via={KEY_TEXT}@b:1&id={PEER_TEXT}", "cannot stand here"),
        ("qg://a:7?" + "&".join([f"via={KEY_TEXT}@b:1"] * 8), "at most 7"),
        ("qg://a:7?via=b:1", "has no link key"),
        (f"qg://a:7?via={KEY_TEXT}@b:1?via={KEY_TEXT}@c:2", "relays of its own"),
        (f"qg://a:7?via={KEY_TEXT}@b:99999", "1 to 65535"),
    ],
)
def test_a_wrong_address_is_told_what_is_wrong(text, part):
    with pytest.raises(AddressError, match=r"is not an address|has ") as caught:
        Address.parse(text)
    assert part in str(caught.value)


@given(ips.filter(lambda ip: "%" not in ip), st.integers(0, 65535))
def test_an_endpoint_reads_back_as_it_was_printed(host, port):
    endpoint = Endpoint("tcp", host_normal(host), port)
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("127.0.0.1:1", "must start with tcp://"),
        ("udp://127.0.0.1:1", "must start with tcp://"),
        ("tcp://localhost:1", "is a name"),
        ("tcp://127.0.0.1", "port is missing"),
        ("tcp://127.0.0.1:65536", "0 to 65535"),
    ],
)
def test_a_wrong_endpoint_is_told_what_is_wrong(text, part):
    with pytest.raises(AddressError, match="is not an endpoint") as caught:
        Endpoint.parse(text)
    assert part in str(caught.value)


@given(ips.filter(lambda ip: "%" not in ip), st.integers(0, 128))
def test_a_network_is_what_the_standard_library_says(ip, n_bits):
    text = f"{ip}/{n_bits}"
    try:
        expected = ipaddress.ip_network(text)
    except ValueError:
        with pytest.raises(AddressError, match="is not a network"):
            Prefix.parse(text)
    else:
        prefix = Prefix.parse(text)
        assert prefix == (expected.network_address.packed, n_bits)
        assert Prefix.parse(str(prefix)) == prefix


@given(st.binary(max_size=64))
def test_base32_is_rfc_4648_in_lower_case_without_padding(raw):
    text = base32_encode(raw)
    assert text == base64.b32encode(raw).decode().lower().strip("=")
    assert base32_decode(text) == raw


@given(st.text("abcxyz2347A=01-", max_size=20))
def test_no_two_texts_give_the_same_bytes(text):
    try:
        raw = base32_decode(text)
    except InvalidValue:
        return
    assert base32_encode(raw) == text


@pytest.mark.parametrize("kind", [PeerId, LinkKey])
def test_an_identifier_is_a_value(kind):
    value = kind(bytes(range(32)))
    assert kind(str(value)) == value
    assert hash(kind(str(value))) == hash(value)
    assert pickle.loads(pickle.dumps(value)) == value
    assert bytes(value) == bytes(range(32))
    with pytest.raises(AttributeError):
        value._raw = b""
    for wrong in (b"", bytes(31), "a", 32, None):
        with pytest.raises(InvalidValue):
            kind(wrong)


def test_identifiers_of_two_kinds_are_never_equal():
    assert PeerId(bytes(32)) != LinkKey(bytes(32))
    assert PeerId(bytes(32)) != bytes(32)


def test_a_peer_is_shown_as_a_uuid_of_version_8():
    shown = PeerId(b"\xff" * 32).uuid
    assert shown.version == 8
    assert shown.variant == uuid.RFC_4122
    assert str(shown) == "ffffffff-ffff-8fff-bfff-ffffffffffff"


@given(st.uuids())
def test_an_extender_id_is_a_uuid(value):
    extender = ExtenderId(str(value))
    assert str(extender) == str(value)
    assert extender == ExtenderId(value) == ExtenderId(value.bytes) == ExtenderId(str(value).upper())
    assert extender.uuid == value


@pytest.mark.parametrize(
    "text", ["", "6f1d6a52", "6f1d6a524a5e4f8c9d0e3b2a1c0d9e8f", "6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9e8g", 5]
)
def test_a_wrong_extender_id_is_refused(text):
    with pytest.raises(InvalidValue):
        ExtenderId(text)
