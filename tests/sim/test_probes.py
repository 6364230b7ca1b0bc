# SPDX-License-Identifier: MIT
"""Ten thousand probes of one engine: no byte of an answer, and no time that tells why (docs/protocol.md 3.8, P3)."""

import random
from collections import defaultdict

import pytest
from core.endpoint_help import SECOND_NS
from looks.measure import ks_uniform
from looks.probes import ways_compare
from looks.silence import START_NS, Ground, ground_probed

N_PROBES = 10_000
MANY = {"max_sinks": 20_000, "max_half_open": 20_000, "max_sessions": 40_000}


@pytest.fixture(scope="module")
def probed():
    return ground_probed(7447, N_PROBES, **MANY)


def test_no_probe_is_answered_with_a_single_byte(probed):
    ground, ways = probed
    assert len(ways) == N_PROBES
    assert not ground.answered


def test_wrong_slow_and_silent_clients_are_closed_after_times_of_one_distribution(probed):
    ground, ways = probed
    lives = ground.lives_s(ways)
    assert min(ways_compare(lives).values()) > 0.01
    assert ks_uniform([life for values in lives.values() for life in values], 30, 90) > 0.01


@pytest.mark.parametrize("way", ["wrong", "slow", "silent"])
@pytest.mark.parametrize("bias_s", [5, -5])
def test_five_seconds_more_or_less_would_be_seen(probed, way, bias_s):
    ground, ways = probed
    lives = ground.lives_s(ways)
    lives[way] = [life + bias_s for life in lives[way]]
    assert min(ways_compare(lives).values()) < 0.01


def test_nothing_is_left_of_them(probed):
    ground, _ = probed
    status = ground.machine.status()
    assert (status["n_sessions"], status["n_half_open"], status["n_sinks"]) == (0, 0, 0)


def test_who_came_first_goes_first_whatever_kind_of_client_it_is():
    """Silent clients become sinks 10 s after they came, slow ones up to 15, wrong ones at once."""
    ground = Ground(7447, max_sinks=64, sink_min_s=5000, sink_max_s=5000)
    rng = random.Random(7447)
    ways = {}
    for client in range(600):
        way = ways[client] = rng.choice(["silent", "slow", "head", "wrong"])
        flight = ground.flights.make()
        data = {"silent": b"", "slow": flight[:79], "head": flight[:-1], "wrong": rng.randbytes(3543)}[way]
        ground.come(START_NS + client * SECOND_NS // 2, client, [(0, data)] if data else [])
    ground.run(limit_s=1000)
    assert not ground.answered
    closed = sorted(ground.closed_ns)
    assert closed == list(range(600 - 64))
    closed_ns = [ground.closed_ns[client] for client in closed]
    assert closed_ns == sorted(closed_ns)
    lives = defaultdict(list)
    for client in closed[100:]:
        lives[ways[client]].append(ground.closed_ns[client] - ground.accepted_ns[client])
    assert min(ways_compare(lives).values()) > 0.01
