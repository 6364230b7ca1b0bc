# SPDX-License-Identifier: MIT
"""Token buckets, against counting; and scores that nodes tell each other."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from qg._core.ledger import Bucket, Ledger

OK, E_RATE = 0, -21
S = 10**9  # ns
START = 5 * S


def n_taken(ask, *arguments):
    """Ask until refused; how often the answer was yes, and the refusal."""
    for n in range(100_000):
        rc = ask(*arguments)
        if rc != OK:
            return n, rc
    raise AssertionError("never refused")


rates = st.integers(1, 1_000_000)
bursts = st.integers(1, 1000)
gaps = st.lists(st.one_of(st.integers(0, 1000), st.integers(0, 3 * S)), min_size=1, max_size=200)


@given(rates, bursts, gaps)
def test_a_bucket_gives_what_counting_tokens_gives(rate, burst, gaps):
    bucket, now_ns, tokens = Bucket(), START, Fraction(burst)
    token_ns = S // rate
    for gap_ns in gaps:
        now_ns += gap_ns
        tokens = min(Fraction(burst), tokens + Fraction(gap_ns, token_ns))
        is_taken = tokens >= 1
        tokens -= is_taken
        assert bucket.take(rate, burst, now_ns) == (OK if is_taken else E_RATE)


@given(rates, bursts, st.integers(0, 2**62))
def test_a_fresh_bucket_is_full_at_any_time(rate, burst, now_ns):
    bucket = Bucket()
    assert n_taken(bucket.take, rate, burst, now_ns) == (burst, E_RATE)
    later_ns = now_ns + burst * S // rate + 1
    assert n_taken(bucket.take, rate, burst, later_ns) == (burst, E_RATE)


@given(rates, bursts, st.lists(st.integers(0, 10 * S), max_size=100))
def test_a_clock_that_goes_back_gives_no_tokens(rate, burst, times):
    bucket = Bucket()
    n = sum(bucket.take(rate, burst, time_ns) == OK for time_ns in times)
    assert n <= burst + max(times, default=0) * Fraction(1, S // rate)


def test_a_rate_or_burst_of_zero_refuses():
    assert Bucket().take(0, 10, START) == E_RATE
    assert Bucket().take(10, 0, START) == E_RATE


# --- scores that nodes tell each other ---

STEP = 600 * S  # in which ten points are regained
ADDRESS = bytes(10) + b"\xff\xff" + bytes([203, 0, 113, 7])
WIDTH = 128


def test_what_became_worse_is_told_once_however_many_sets_are_looked_at_together():
    for n_sets in (1, 7, 64):
        ledger = Ledger()
        assert ledger.changed(n_sets) == []
        ledger.worsen(ADDRESS, WIDTH, 20, START)
        ledger.worsen(ADDRESS, 120, 5, START)
        told = ledger.changed(n_sets)
        assert sorted(row[1:4] for row in told) == [(120, 5, 0), (WIDTH, 20, 0)]
        assert {row[0] for row in told} == {ADDRESS, ADDRESS[:15] + bytes(1)}
        assert ledger.changed(n_sets) == []
        ledger.worsen(ADDRESS, WIDTH, 1, START)
        assert [row[2] for row in ledger.changed(n_sets)] == [21]


def test_another_ledger_takes_over_what_is_worse_and_tells_it_to_nobody():
    one, other = Ledger(key=bytes(16)), Ledger(key=b"x" * 16)
    one.worsen(ADDRESS, WIDTH, 30, START)
    other.worsen(ADDRESS, WIDTH, 10, START)
    [row], [mild] = one.changed(), other.changed()
    other.merge(row, START)
    one.merge(mild, START)
    assert one.score(ADDRESS, WIDTH, START) == other.score(ADDRESS, WIDTH, START) == 70
    assert one.changed() == other.changed() == []
    assert other.score(ADDRESS, WIDTH, START + STEP) == 80


def test_a_refusal_is_taken_over_with_its_end_and_doubles_from_there():
    one, other = Ledger(), Ledger()
    for _ in range(2):
        one.worsen(ADDRESS, WIDTH, 50, START)
    [row] = one.changed()
    other.merge(row, START)
    for ledger in (one, other):
        assert ledger.score(ADDRESS, WIDTH, START + STEP - 1) == 0
        assert ledger.score(ADDRESS, WIDTH, START + STEP) == 10
        ledger.worsen(ADDRESS, WIDTH, 50, START + STEP)
        assert ledger.score(ADDRESS, WIDTH, START + 3 * STEP - 1) == 0
        assert ledger.score(ADDRESS, WIDTH, START + 3 * STEP) == 10


def test_what_has_healed_meanwhile_is_taken_over_as_healed():
    ledger = Ledger()
    ledger.merge((ADDRESS, WIDTH, 40, 0, START, 0), START + 2 * STEP)
    assert ledger.score(ADDRESS, WIDTH, START + 2 * STEP) == 80


def test_a_pardon_takes_everything_away():
    ledger = Ledger()
    for _ in range(2):
        ledger.worsen(ADDRESS, WIDTH, 50, START)
    assert ledger.score(ADDRESS, WIDTH, START) == 0
    ledger.merge((ADDRESS, WIDTH, 0, 0, START, 0), START)
    assert ledger.score(ADDRESS, WIDTH, START) == 100
    assert ledger.changed() == []
