# SPDX-License-Identifier: MIT
"""The table of ids agrees with a dictionary, whatever the ids, and stops at its limit."""

import random

import pytest
from core.crypto_help import status
from hypothesis import given
from hypothesis import strategies as st

from qg._core.table import Table

IDS = st.one_of(
    st.integers(0, 40),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 20).map(lambda n: n << 40),
    st.integers(0, 15).map(lambda n: n << 60 | 3),
)
MIXES = st.integers(0, (1 << 64) - 1)


@given(MIXES, st.lists(st.tuples(st.sampled_from(["put", "put", "get", "drop"]), IDS), max_size=200))
def test_it_agrees_with_a_dictionary(mix, steps):
    table, model = Table(1 << 20, mix), {}
    for number, (step, key) in enumerate(steps, 1):
        if step == "put":
            assert table.put(key, number) == (status.E_EXISTS if key in model else status.OK)
            model.setdefault(key, number)
        elif step == "get":
            assert table.get(key) == model.get(key)
        else:
            assert table.drop(key) == model.pop(key, None)
        assert len(table) == len(model)
    assert sorted(table.values()) == sorted(model.values())
    assert all(table.get(key) == value for key, value in model.items())


@pytest.mark.parametrize("step", [1, 2, 1 << 16, 1 << 32, 1 << 48])
def test_thousands_of_regular_ids_come_and_go(step):
    table = Table(1 << 20)
    keys = [number * step & (1 << 64) - 1 for number in range(5000)]
    for value, key in enumerate(keys, 1):
        assert table.put(key, value) == status.OK
    random.Random(1).shuffle(keys)
    for key in keys[:4000]:
        assert table.drop(key) is not None
    assert [table.get(key) is not None for key in keys] == [False] * 4000 + [True] * 1000


def test_at_its_limit_it_is_full_and_unchanged():
    table = Table(3)
    for key in (1, 2, 3):
        assert table.put(key, key) == status.OK
    assert table.put(4, 4) == status.E_FULL
    assert table.put(1, 9) == status.E_EXISTS
    assert sorted(table.values()) == [1, 2, 3]
    assert table.drop(2) == 2
    assert table.put(4, 4) == status.OK


def test_an_empty_table_takes_no_memory_and_finds_nothing():
    table = Table(10)
    assert (table.memory_len, table.get(0), table.drop(0), table.values()) == (0, None, None, [])
    table.put(0, 1)
    assert table.get(0) == 1
    assert table.memory_len > 0


def test_its_memory_grows_with_its_entries_and_not_with_those_that_came_and_went():
    table = Table(1 << 20)
    for key in range(6):
        table.put(key, 1)
    before = table.memory_len
    for key in range(6, 10_000):
        table.drop(key - 6)
        table.put(key, 1)
    assert table.memory_len == before
