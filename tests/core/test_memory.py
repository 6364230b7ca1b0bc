# SPDX-License-Identifier: MIT
"""Blocks and chains of them keep bytes in order, keep to their limit, and are all given back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qg._core.memory import Chain, Pool

CLASSES = (2048, 4608, 18432, 67584)  # bytes of a block by class, its header included
FREE_MAX_LEN = 4 << 20  # bytes that each free list keeps

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 200_000)),
        st.tuples(st.just("append"), st.integers(0, 300)),
        st.tuples(st.just("drop"), st.integers(0, 150_000)),
    ),
    max_size=30,
)


@given(STEPS)
def test_a_chain_is_a_queue_of_bytes(steps):
    pool = Pool()
    chain, model = Chain(pool), bytearray()
    for number, (step, length) in enumerate(steps):
        if step == "append":
            data = bytes([number]) * length
            chain.append(data)
            model += data
        else:
            chain.drop(length)
            del model[:length]
        assert len(chain) == len(model)
    assert bytes(chain) == model
    chain.drop(len(chain))
    assert pool.n_taken == pool.taken_len == 0


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, 0), (1500, 0), (2048, 1), (4096, 1), (5000, 2), (16418, 2), (18432, 3), (65536, 3)],
)
def test_the_smallest_class_that_holds_the_bytes_is_taken(length, expected):
    pool = Pool()
    chain = Chain(pool)
    chain.append(bytes(length))
    assert (pool.n_taken, pool.taken_len) == (1, CLASSES[expected])


def test_small_writes_fill_the_last_block():
    pool = Pool()
    chain = Chain(pool)
    for _ in range(100):
        chain.append(b"ten bytes.")
    assert pool.n_taken == 1
    assert bytes(chain) == b"ten bytes." * 100


def test_a_full_pool_leaves_the_chain_as_it_was():
    pool = Pool(2 * CLASSES[0])
    chain = Chain(pool)
    chain.append(bytes(1000))
    chain.append(b"x" * 1900)
    before = bytes(chain)
    for length in (3000, 100_000):
        with pytest.raises(MemoryError):
            chain.append(bytes(length))
        assert bytes(chain) == before
        assert pool.taken_len == 2 * CLASSES[0]
    chain.drop(len(chain))
    chain.append(bytes(1000))


def test_blocks_are_used_again():
    pool = Pool()
    chain = Chain(pool)
    for _ in range(50):
        chain.append(bytes(60_000))
        chain.drop(60_000)
    assert pool.held_len == CLASSES[3]


def test_what_is_given_back_beyond_the_free_lists_limit_returns_to_the_system():
    pool = Pool()
    chain = Chain(pool)
    chain.append(bytes(20 << 20))
    assert pool.held_len > 20 << 20
    chain.drop(len(chain))
    assert pool.n_taken == 0
    assert pool.held_len <= FREE_MAX_LEN


def test_blocks_that_another_thread_gives_back_are_counted_and_used_again():
    pool = Pool()
    chain = Chain(pool)
    chain.append(bytes(200_000))
    held, n_blocks = pool.held_len, pool.n_taken
    while len(chain):
        chain.give_remote()
    assert pool.n_taken == 0
    chain.append(bytes(200_000))
    assert (pool.held_len, pool.n_taken) == (held, n_blocks)


def test_a_dry_pool_takes_in_what_other_threads_gave_back():
    pool = Pool(CLASSES[3])
    chain = Chain(pool)
    chain.append(bytes(60_000))
    chain.give_remote()
    chain.append(bytes(60_000))
    assert pool.n_taken == 1
