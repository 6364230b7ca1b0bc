# SPDX-License-Identifier: MIT
"""Bridges: in whatever order two workers write, close and take turns, bytes come in order and nothing stays."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from qg._core.probe import Bridges

BLOCKS = 16  # on their way
SIDES = st.integers(0, 1)
WHICH = st.integers(0, 63)


class Both(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.bridges, self.sent, self.closed = Bridges(), [], set()
        self.n = 0

    @precondition(lambda self: len(self.sent) < 8)
    @rule()
    def open(self):
        assert self.bridges.open() == len(self.sent)
        self.sent.append([b"", b""])

    @precondition(lambda self: self.sent)
    @rule(which=WHICH, side=SIDES, n_blocks=st.integers(1, BLOCKS + 3))
    def write(self, which, side, n_blocks):
        which %= len(self.sent)
        for _ in range(n_blocks):
            self.n += 1
            data = self.n.to_bytes(4, "big")
            if self.bridges.write(which, side, data) >= 0:
                self.sent[which][side] += data

    @precondition(lambda self: self.sent)
    @rule(which=WHICH, side=SIDES)
    def close(self, which, side):
        which %= len(self.sent)
        if self.bridges.close(which, side):
            self.closed.add((which, side))

    @rule(side=SIDES)
    def turn(self, side):
        self.bridges.turn(side)

    @invariant()
    def what_came_is_what_was_sent_first(self):
        for which, (near, far) in enumerate(self.sent):
            assert near.startswith(self.bridges.received(which, 1))
            assert far.startswith(self.bridges.received(which, 0))
            for side in (0, 1):
                assert not self.bridges.is_ended(which, side) or (which, 1 - side) in self.closed

    def settle(self):
        while self.bridges.turn(0) + self.bridges.turn(1):
            pass

    def teardown(self):
        self.settle()
        for which, (near, far) in enumerate(self.sent):
            if not self.closed & {(which, 0), (which, 1)}:
                assert (self.bridges.received(which, 1), self.bridges.received(which, 0)) == (near, far)
        for which in range(len(self.sent)):
            for side in (0, 1):
                self.bridges.close(which, side)
            self.settle()
        assert self.bridges.left == (0, False)


Both.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
test_whatever_the_order_nothing_is_lost_and_nothing_stays = Both.TestCase


def test_a_writer_is_told_when_what_was_pending_has_gone():
    bridges = Bridges()
    which = bridges.open()
    assert [bridges.write(which, 0, b"abcd") for _ in range(BLOCKS + 2)] == [0] * BLOCKS + [4, 8]
    assert bridges.turn(1) == 1 and bridges.n_writable(which, 0) == 0
    assert bridges.turn(0) == 1 and bridges.n_writable(which, 0) == 1
    bridges.turn(1)
    assert bridges.received(which, 1) == b"abcd" * (BLOCKS + 2)


def test_both_ends_are_freed_though_one_was_never_seen():
    bridges = Bridges()
    which = bridges.open()
    bridges.write(which, 0, b"abcd")
    assert bridges.close(which, 0)
    bridges.turn(1)
    assert bridges.received(which, 1) == b"abcd" and bridges.is_ended(which, 1)
    assert bridges.close(which, 1)
    while bridges.turn(1) + bridges.turn(0):
        pass
    assert bridges.left == (0, False)
