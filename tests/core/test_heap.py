# SPDX-License-Identifier: MIT
"""Deadlines come out in their order, also after they were moved or taken out."""

from hypothesis import given
from hypothesis import strategies as st

from qg._core.heap import Heap

NUMBERS = st.integers(0, 63)
TIMES = st.one_of(st.integers(0, 20), st.integers(0, (1 << 64) - 1))


@given(st.lists(st.one_of(st.tuples(NUMBERS, TIMES), st.tuples(NUMBERS, st.none()), st.none()), max_size=150))
def test_the_first_is_always_the_earliest(steps):
    heap, model = Heap(), {}
    for step in steps:
        if step is None:
            popped = heap.pop()
            assert (popped is None) == (not model)
            if popped is not None:
                assert popped[1] == model.pop(popped[0]) == min([popped[1], *model.values()])
        elif step[1] is None:
            heap.drop(step[0])
            model.pop(step[0], None)
        else:
            heap.set(*step)
            model[step[0]] = step[1]
    times = []
    while (popped := heap.pop()) is not None:
        assert model.pop(popped[0]) == popped[1]
        times.append(popped[1])
    assert not model
    assert times == sorted(times)


def test_an_empty_heap_has_no_first():
    heap = Heap()
    heap.drop(5)
    assert heap.pop() is None
    heap.set(5, 1)
    heap.set(5, 3)
    heap.set(5, 2)
    assert heap.pop() == (5, 2)
    assert heap.pop() is None
