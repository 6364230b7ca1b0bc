# SPDX-License-Identifier: MIT
"""Whatever is done to the streams of a session, what arrives is what was sent."""

from core.crypto_help import status
from core.endpoint_help import CANCELLED, UUID, WINDOW, read
from hypothesis import given, settings
from hypothesis import strategies as st

MAX_STREAMS = 6
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["open", "write", "write", "write", "read", "read", "finish", "reset", "deliver", "deliver"]),
        st.booleans(),
        st.integers(0, MAX_STREAMS - 1),
        st.integers(1, 90_000),
    ),
    max_size=80,
)


class Network:
    """What two sides wrote and read, by stream and direction."""

    def __init__(self, pair):
        self.pair = pair
        self.ids = []
        self.wires = {True: bytearray(), False: bytearray()}
        self.sent, self.got = {}, {}
        self.finished, self.resets = set(), set()

    def side(self, is_one):
        return self.pair.one if is_one else self.pair.other

    def knows(self, is_one, number):
        try:
            self.side(is_one).offsets(number)
        except KeyError:
            return False
        return True

    def open(self, is_one, amount):
        number = self.side(is_one).open_stream(amount % 2, amount % 3, WINDOW, UUID)
        self.ids.append(number)
        for direction in (True, False):
            self.sent[number, direction] = self.got[number, direction] = b""

    def write(self, is_one, number, amount):
        data = bytes([amount % 256]) * amount
        if self.side(is_one).write(number, data) == status.OK:
            self.sent[number, is_one] += data

    def read(self, is_one, number):
        self.got[number, not is_one] += read(self.side(is_one), number)

    def finish(self, is_one, number):
        self.side(is_one).finish(number)
        self.finished.add((number, is_one))

    def reset(self, is_one, number):
        self.side(is_one).reset(number, CANCELLED)
        self.resets.add(number)

    def deliver(self, is_one, amount):
        source, target = self.side(is_one), self.side(not is_one)
        self.wires[is_one] += source.take()
        target.feed(bytes(self.wires[is_one][:amount]))
        del self.wires[is_one][:amount]
        for event in target.events():
            if event[0] == "open":
                target.accept(event[1], WINDOW)

    def check(self):
        """What must hold once everything has been delivered and read."""
        one, other = self.pair.one, self.pair.other
        assert (one.state, other.state) == ("open", "open")
        for (number, direction), sent in self.sent.items():
            got = self.got[number, direction]
            assert sent.startswith(got)
            assert got == sent or number in self.resets
        for number in self.ids:
            is_over = number in self.resets or {(number, True), (number, False)} <= self.finished
            assert (one.offsets(number) is None) == is_over
        for side, peer in ((one, other), (other, one)):
            assert side.session_credit[:2] == peer.session_credit[2:]

    def settle(self):
        for _ in range(60):
            for direction in (True, False):
                self.deliver(direction, 1 << 30)
                for number in self.ids:
                    if self.knows(direction, number):
                        self.read(direction, number)


@settings(max_examples=150)
@given(actions=ACTIONS)
def test_whatever_is_done_to_streams_what_arrives_is_what_was_sent(pairs, actions):
    with pairs() as pair:
        network = Network(pair)
        for action, is_one, idx, amount in actions:
            if action == "open":
                if len(network.ids) < MAX_STREAMS:
                    network.open(is_one, amount)
            elif action == "deliver":
                network.deliver(is_one, amount)
            elif idx < len(network.ids) and network.knows(is_one, network.ids[idx]):
                arguments = [is_one, network.ids[idx]] + ([amount] if action == "write" else [])
                getattr(network, action)(*arguments)
        network.settle()
        network.check()
