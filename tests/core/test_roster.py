# SPDX-License-Identifier: MIT
"""The roster knows which workers have a link with whom, and counts the links of all."""

from hypothesis import given
from hypothesis import strategies as st

from qg._core.roster import Roster

E_STATE, E_FULL = -9, -32
KEYS = st.sampled_from([bytes([i]) * 32 for i in range(5)])
WORKERS = st.integers(0, 63)


@given(st.lists(st.tuples(st.booleans(), KEYS, WORKERS), max_size=100), KEYS, WORKERS)
def test_another_worker_is_named_as_long_as_one_has_a_link(steps, key, worker):
    roster, model = Roster(7), set()
    for is_there, each, number in steps:
        (roster.enter if is_there else roster.leave)(each, number)
        (model.add if is_there else model.discard)((each, number))
    behind = [i % 64 for i in range(worker + 1, worker + 64) if (key, i % 64) in model]
    assert roster.other(key, worker) == (behind[0] if behind else E_STATE)


@given(st.lists(st.tuples(st.booleans(), KEYS), max_size=100))
def test_links_of_one_peer_are_bounded(steps):
    roster, counts = Roster(7), {}
    for is_more, peer in steps:
        n = counts.get(peer, 0)
        if is_more:
            assert roster.link_begin(peer, 3) == (0 if n < 3 else E_FULL)
            counts[peer] = min(n + 1, 3)
        elif n:
            roster.link_end(peer)
            counts[peer] = n - 1
