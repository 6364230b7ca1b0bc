# SPDX-License-Identifier: MIT
"""Buckets of bytes hold their rate however many take from them, and lanes take turns."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qg._core.rate import Bucket, Shaper

S = 1_000_000_000
START = 1000 * S
NEVER = (1 << 64) - 1
RATE, BURST = 1_000_000, 100_000
RECORD = 16418


def drain(shaper, number, length, now_ns):
    """Send until the lane has to wait; bytes."""
    return length * next(n for n in itertools.count() if not shaper.send(number, length, now_ns))


def serve(shaper, end_ns, length_of=lambda number: RECORD):
    """Serve whoever waits until then, each with pieces of its length: bytes by lane."""
    sent, now_ns = [0] * 64, START
    while now_ns <= end_ns:
        while (number := shaper.peek) is not None and (turn := shaper.turn(now_ns, length_of(number))) is not None:
            sent[turn[0]] += turn[1]
        assert shaper.deadline_ns > now_ns
        now_ns = shaper.deadline_ns
    return sent


def test_a_burst_goes_out_at_once_and_then_the_rate():
    shaper = Shaper(Bucket(RATE, BURST))
    assert BURST - 8192 <= drain(shaper, 0, 1000, START) <= BURST + 1000
    assert 0.99 < serve(shaper, START + 10 * S)[0] / (10 * RATE) < 1.02


def test_what_is_not_used_is_there_later_but_never_more_than_a_burst():
    shaper = Shaper(Bucket(RATE, BURST))
    drain(shaper, 0, 1000, START)
    shaper.leave(0)
    assert drain(shaper, 0, 1000, START + S // 20) < 60_000
    shaper.leave(0)
    assert BURST - 16384 <= drain(shaper, 0, 1000, START + 60 * S) <= BURST + 16384


def test_no_rate_is_no_limit():
    shaper = Shaper(Bucket(0, 0))
    assert all(shaper.send(0, 1 << 40, START) for _ in range(1000))
    assert shaper.deadline_ns == NEVER


@pytest.mark.parametrize("n_workers", [1, 2, 7])
def test_workers_share_one_bucket(n_workers):
    bucket = Bucket(RATE, BURST)
    workers = [Shaper(bucket) for _ in range(n_workers)]
    sent = sum(drain(worker, 0, RECORD, START) for worker in workers)
    now_ns = START
    while now_ns <= START + 10 * S:
        for worker in workers:
            while worker.deadline_ns <= now_ns and (turn := worker.turn(now_ns, RECORD)):
                sent += turn[1]
        now_ns = min(worker.deadline_ns for worker in workers)
    assert 0.95 < sent / (10 * RATE + BURST) < 1.03


@pytest.mark.parametrize("is_turned", [False, True])
def test_a_worker_with_large_pieces_is_not_starved_by_one_with_small_ones(is_turned):
    bucket = Bucket(RATE, 65536)
    workers = [(Shaper(bucket), RECORD), (Shaper(bucket), 100)]
    for worker, length in workers:
        drain(worker, 0, length, START)
    sent, now_ns = {RECORD: 0, 100: 0}, START
    while now_ns <= START + 10 * S:
        for worker, length in reversed(workers) if is_turned else workers:
            while worker.deadline_ns <= now_ns and (turn := worker.turn(now_ns, length)):
                sent[length] += turn[1]
        now_ns = min(worker.deadline_ns for worker, _ in workers)
    assert min(sent.values()) > 4.8 * RATE
    assert sum(sent.values()) < 10.3 * RATE


@pytest.mark.parametrize(("per_s", "burst_len"), [(RATE, 100 * RATE), (RATE // 100, BURST)])
def test_a_rate_that_was_lower_or_a_burst_that_was_larger_leaves_no_debt(per_s, burst_len):
    bucket = Bucket(per_s, burst_len)
    shaper = Shaper(bucket)
    drain(shaper, 0, RECORD, START)
    bucket.set(RATE, BURST)
    assert serve(shaper, START + 10 * S)[0] > 9 * RATE


@given(st.lists(st.integers(1, RECORD), min_size=2, max_size=6))
def test_lanes_get_even_shares_whatever_their_pieces(lengths):
    shaper = Shaper(Bucket(RATE, BURST))
    drain(shaper, 63, 1000, START)
    shaper.leave(63)
    for number in range(len(lengths)):
        assert not shaper.send(number, 1, START)
    sent = serve(shaper, START + 5 * S, lambda number: lengths[number])[: len(lengths)]
    assert max(sent) - min(sent) <= 2 * RECORD
    assert sum(sent) > 4.9 * RATE


def test_a_lane_whose_own_bucket_is_empty_lets_the_others_pass():
    shaper = Shaper(Bucket(RATE, BURST), Bucket(RATE // 10, 16384))
    for number in (0, 1):
        drain(shaper, number, 1000, START)
    sent = serve(shaper, START + 10 * S, lambda _: 1000)
    assert 0.9 < sent[0] / RATE < 1.1
    assert 0.95 < sum(sent) / (10 * RATE) < 1.05


def test_who_has_nothing_more_leaves_and_who_ends_is_forgotten():
    shaper = Shaper(Bucket(RATE, BURST))
    drain(shaper, 0, 1000, START)
    for number in (1, 2):
        assert not shaper.send(number, 1, START)
    shaper.leave(0)
    assert shaper.turn(START + S, 100, has_more=False) == (1, 100)
    assert shaper.turn(START + S, 100, has_more=False) == (2, 100)
    assert shaper.turn(START + S, 100) is None
    assert shaper.deadline_ns == NEVER
    assert shaper.send(3, 100, START + S)
