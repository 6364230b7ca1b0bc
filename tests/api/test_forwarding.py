# SPDX-License-Identifier: MIT
"""How forwards, and the rules of those that are offered, are written."""

from ipaddress import ip_address

import pytest

from qg import Config, ConfigError, ForwardRule, ForwardSpec, InvalidValue


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("8080:a.example:80", "127.0.0.1:8080:a.example:80"),
        ("0:10.0.0.1:80", "127.0.0.1:0:10.0.0.1:80"),
        ("localhost:1:b:2", "127.0.0.1:1:b:2"),
        ("0.0.0.0:1/tcp:b:2", "0.0.0.0:1:b:2"),
        ("5353/udp:10.0.0.1:53", "127.0.0.1:5353/udp:10.0.0.1:53"),
        ("[::1]:1/udp:[fd00::0001]:2", "[::1]:1/udp:[fd00::1]:2"),
    ],
)
def test_a_forward_is_read_and_written(text, whole):
    forward = ForwardSpec.parse(text)
    assert str(forward) == whole
    assert ForwardSpec.parse(whole) == forward


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        "80:a",
        "80:a:1:",
        ":80:a:1",
        "80::1",
        "80:a:0",
        "70000:a:1",
        "80:a:70000",
        "x:a:1",
        "80/icmp:a:1",
        "80/:a:1",
        "name:80:a:1",
        "::1:80:a:1",
        "[::1:80:a:1",
        "[::1]80:a:1",
        "80:a b:1",
        "1:2:3:4:5",
    ],
)
def test_what_is_no_forward_is_named(text):
    with pytest.raises(InvalidValue, match=r"^'"):
        ForwardSpec.parse(text)


@pytest.mark.parametrize(
    ("rule", "protocol", "name", "address", "port", "is_allowed"),
    [
        ("tcp 127.0.0.1:22", "tcp", "", "127.0.0.1", 22, True),
        ("tcp 127.0.0.1:22", "udp", "", "127.0.0.1", 22, False),
        ("tcp 127.0.0.1:22", "tcp", "", "127.0.0.1", 23, False),
        ("tcp 127.0.0.1:22", "tcp", "", "127.0.0.2", 22, False),
        ("tcp 127.0.0.1:22", "tcp", "", "::ffff:127.0.0.1", 22, True),
        ("tcp [::]/0", "tcp", "", "::ffff:127.0.0.1", 22, False),
        ("tcp 127.0.0.1:22", "tcp", "evil.example", "127.0.0.1", 22, True),
        ("udp 10.0.0.0/8:50-60", "udp", "", "10.9.9.9", 60, True),
        ("udp 10.0.0.0/8:50-60", "udp", "", "10.9.9.9", 61, False),
        ("tcp db.example:5432", "tcp", "db.example", "10.0.0.1", 5432, True),
        ("tcp db.example:5432", "tcp", "db.example.", "10.0.0.1", 5432, True),
        ("tcp db.example:5432", "tcp", "xdb.example", "10.0.0.1", 5432, False),
        ("tcp db.example:5432", "tcp", "", "10.0.0.1", 5432, False),
        ("tcp *.example:443", "tcp", "a.b.example", "10.0.0.1", 443, True),
        ("tcp *.example:443", "tcp", "example", "10.0.0.1", 443, False),
        ("tcp *:22", "tcp", "", "192.0.2.1", 22, True),
        ("tcp 127.0.0.1", "tcp", "", "127.0.0.1", 0, True),
        ("tcp 127.0.0.1:1-65534", "tcp", "", "127.0.0.1", 0, False),
    ],
)
def test_a_rule_allows_what_it_names(rule, protocol, name, address, port, is_allowed):
    assert ForwardRule.parse(rule).allows(protocol, name, ip_address(address), port) is is_allowed


@pytest.mark.parametrize(
    "text", ["", "tcp", "127.0.0.1:22", "icmp *", "tcp a b", "tcp 1.2.3.4/33", "tcp a:0", "tcp a*"]
)
def test_what_is_no_rule_is_named(text):
    with pytest.raises(InvalidValue, match=r"^'"):
        ForwardRule.parse(text)


def test_all_that_is_wrong_in_the_tables_is_told_at_once():
    offers = [{"allow": ["tcp 127.0.0.1:x"], "peers": "x", "y": 1}, 3]
    to = [{"local": ["80:a"]}, {"peer": 5, "hops": 9}]
    with pytest.raises(ConfigError) as caught:
        Config.from_dict({"forward": {"offer": offers, "to": to}})
    names = [problem.split(": ", 1)[1].split(" ")[0].rstrip(":") for problem in caught.value.problems]
    assert names == [
        "forward.offer[0].allow[0]",
        "forward.offer[0].peers",
        "forward.offer[0].y",
        "forward.offer[1]",
        "forward.to[0].peer",
        "forward.to[0].local[0]",
        "forward.to[1].peer",
        "forward.to[1].hops",
    ]


def test_an_offer_to_nobody_is_not_one_to_anybody():
    (offer,) = Config.from_dict({"forward": {"offer": [{"peers": []}]}}).forward.offer
    assert offer.peers == ()
