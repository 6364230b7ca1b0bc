# SPDX-License-Identifier: MIT
"""Look-ups of host names: literals, limits, cancelling. No name server is asked."""

import socket
import time

import pytest
from qg._core.probe import Resolver

IP4 = socket.inet_pton(socket.AF_INET, "127.0.0.1")
IP6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7")
OK, E_ADDRESS, E_FULL, E_CLOSED = 0, -24, -32, -40
EAI_NONAME = -3008  # libuv's
LONG_LABEL = "x" * 64  # refused before any server is asked


@pytest.fixture
def resolver():
    resolver = Resolver()
    yield resolver
    resolver.stop()
    assert (resolver.counts["n_lookups"], resolver.counts["n_handles"]) == (0, 0)


def run_until(resolver, is_done):
    give_up = time.monotonic() + 60
    while not is_done():
        assert time.monotonic() < give_up
        resolver.loop.run(50)


@pytest.mark.parametrize(("name", "ip"), [("127.0.0.1", IP4), ("2001:db8::7", IP6), (IP4, IP4), (IP6, IP6)])
def test_a_literal_is_answered_from_the_loop_and_not_from_inside_the_call(resolver, name, ip):
    assert resolver.start(name, 7447, 1) == OK
    assert resolver.answered == []
    run_until(resolver, lambda: resolver.answered)
    assert resolver.answered == [(1, 0, 1, ip, 7447)]
    assert resolver.counts["n_lookups"] == 0


def test_a_name_is_answered_with_the_port_that_was_asked_for(resolver):
    assert resolver.start("localhost", 80, 1) == OK
    run_until(resolver, lambda: resolver.answered)
    ((tag, error, n_addresses, ip, port),) = resolver.answered
    assert (tag, error, port) == (1, 0, 80)
    assert 1 <= n_addresses <= 8
    assert ip in (IP4, bytes(15) + b"\1")


def test_a_name_that_does_not_exist_is_an_answer_too(resolver):
    assert resolver.start(LONG_LABEL, 80, 1) == OK
    run_until(resolver, lambda: resolver.answered)
    assert resolver.answered[0][:3] == (1, EAI_NONAME, 0)
    assert resolver.counts["n_failed"] == 1


@pytest.mark.parametrize("name", ["", "a\0b", "\x00"])
def test_what_cannot_be_a_name_is_refused(resolver, name):
    assert resolver.start(name, 80, 1) == E_ADDRESS
    assert resolver.counts["n_lookups"] == 0


@pytest.mark.parametrize("name", ["127.0.0.1", LONG_LABEL])
def test_the_number_of_lookups_is_bounded_and_a_finished_one_makes_room(resolver, name):
    for tag in range(1, 33):
        assert resolver.start(name, 80, tag) == OK
    assert resolver.start(name, 80, 33) == E_FULL
    run_until(resolver, lambda: len(resolver.answered) == 32)
    assert sorted(answer[0] for answer in resolver.answered) == list(range(1, 33))
    assert resolver.start(name, 80, 33) == OK


@pytest.mark.parametrize("name", ["127.0.0.1", LONG_LABEL])
def test_a_cancelled_lookup_is_not_answered_and_the_others_are(resolver, name):
    for tag in (1, 2, 1, 3):
        assert resolver.start(name, 80, tag) == OK
    resolver.cancel(1)
    resolver.cancel(99)
    run_until(resolver, lambda: resolver.counts["n_lookups"] == 0)
    assert sorted(answer[0] for answer in resolver.answered) == [2, 3]


def test_stop_answers_nothing_and_nothing_can_begin(resolver):
    for name in ("127.0.0.1", LONG_LABEL):
        assert resolver.start(name, 80, 1) == OK
    resolver.stop()
    assert resolver.answered == []
    assert resolver.start("127.0.0.1", 80, 1) == E_CLOSED
