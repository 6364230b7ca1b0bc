# SPDX-License-Identifier: MIT
"""Which targets an exit connects to."""

from ipaddress import ip_address, ip_network

import pytest

from qg.errors import InvalidValue
from qg.exit_policy import ExitPolicy, ExitRule

OPEN = ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
CLOSED = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::1",
    "2001:0:0:0:0:0:80ff:fffe",
    "fc00::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
]


def allows(rules, target, port=80, name="", own=()):
    return ExitPolicy(rules, [ip_network(net) for net in own]).allows(name, ip_address(target), port)


@pytest.mark.parametrize("ip", OPEN)
def test_the_open_internet_is_allowed(ip):
    assert allows([], ip)


@pytest.mark.parametrize("ip", CLOSED)
def test_what_is_not_the_open_internet_is_closed(ip):
    assert not allows([], ip)


@pytest.mark.parametrize("ip", CLOSED)
@pytest.mark.parametrize("rule", ["allow *", "allow 0.0.0.0/0", "allow ::/0", "allow evil.example", "allow *.example"])
def test_neither_everything_nor_a_name_opens_what_is_closed(ip, rule):
    assert not allows([rule], ip, name="evil.example")


def test_networks_of_the_machine_itself_are_closed_until_listed():
    assert not allows([], "8.8.8.8", own=["8.8.8.0/24"])
    assert not allows(["allow *:80"], "8.8.8.8", own=["8.8.8.0/24"])
    assert allows(["allow 8.8.8.8"], "8.8.8.8", own=["8.8.8.0/24"])


@pytest.mark.parametrize("ip", ["10.1.2.3", "::ffff:10.1.2.3"])
def test_a_listed_network_is_open_on_its_ports(ip):
    rules = ["allow 10.1.0.0/16:5432"]
    assert allows(rules, ip, 5432)
    assert not allows(rules, ip, 5433)
    assert not allows(rules, "10.2.0.1", 5432)


def test_the_first_rule_that_matches_decides():
    rules = [
        "deny *:25",
        "allow 127.0.0.1:8000-8999",
        "deny 8.8.8.0/24",
        "deny *.bad.example",
        "allow 8.8.0.0/16",
        "deny *",
    ]
    assert not allows(rules, "9.9.9.9", 25)
    assert allows(rules, "127.0.0.1", 8000)
    assert allows(rules, "127.0.0.1", 8999)
    assert not allows(rules, "127.0.0.1", 9000)
    assert not allows(rules, "8.8.8.8")
    assert allows(rules, "8.8.4.4")
    assert not allows(rules, "8.8.4.4", name="x.bad.example")
    assert allows(rules, "8.8.4.4", name="bad.example")
    assert not allows(rules, "9.9.9.9")


@pytest.mark.parametrize("ip", ["64:ff9b::808:808", "2002:808:808::1", "2001:0:1:1:0:0:f7f7:f7f7"])
def test_a_denied_network_is_not_reached_in_the_clothes_of_ipv6(ip):
    assert not allows(["deny 8.8.8.0/24", "allow *"], ip)
    assert allows(["deny 8.8.8.0/24:25", "allow [::]/0", "allow 8.8.8.0/24"], "64:ff9b::808:808")


def test_a_denied_name_need_not_be_resolved():
    policy = ExitPolicy(["deny bad.example", "deny *:25", "allow 8.8.8.8", "deny *"])
    assert policy.denies_name("bad.example", 80)
    assert policy.denies_name("bad.example.", 80)
    assert policy.denies_name("good.example", 25)
    assert not policy.denies_name("good.example", 80)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "allow",
        "permit *",
        "allow * *",
        "allow 10.0.0.1/8",
        "allow 300.1.1.1",
        "allow *:0",
        "allow *:65536",
        "allow *:9-8",
        *[
            "allow *:http",
            "allow [::1",
            "allow [::1]x",
            "allow ex*mple.org",
            "allow *.",
            "allow 1.2.3.4/33",
            "allow 10.1",
        ],
    ],
)
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(InvalidValue, match="exit rule"):
        ExitRule.parse(text)


def test_rules_may_speak_of_ipv6():
    assert allows(["allow [fc00::]/7:80"], "fc00::1")
    assert not allows(["allow [fc00::]/7:80"], "fc00::1", 81)
    assert allows(["allow ::1"], "::1")
