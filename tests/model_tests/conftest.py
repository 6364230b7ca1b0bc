# SPDX-License-Identifier: MIT
"""Vectors of third parties, parties with fixed clocks, and a way to let pairs of peers talk until they are quiet."""

import hashlib
import json
import os
import pathlib

import pytest
from model.cert import Identity
from model.envelope import KIND_NK1, KIND_XK1, KIND_XX1, Network
from model.handshake import Party

NOW_S = 1_750_000_000
SHARED = pathlib.Path(os.environ.get("QG_SHARED", pathlib.Path(__file__).parents[2] / ".." / "shared"))


@pytest.fixture
def vectors():
    """Load a file of `vectors` in the shared folder; the test is skipped where the file is absent."""

    def load(name):
        path = SHARED / "vectors" / name
        if not path.exists():
            pytest.skip(f"third-party vectors {name} are absent: point QG_SHARED to the folder that holds vectors/")
        return json.loads(path.read_bytes())

    return load


class SeededDraw:
    """Random bytes that follow from a label, so that a failing test fails again."""

    def __init__(self, label):
        self.label, self.n_drawn = label, 0

    def __call__(self, purpose, length):
        self.n_drawn += 1
        return hashlib.shake_256(f"{self.label}/{self.n_drawn}/{purpose}".encode()).digest(length)


@pytest.fixture
def party():
    """Make a party of its own identity; the same label gives the same party again."""

    def make(label, suites=7, secret=bytes(32), clock_s=NOW_S):
        draw = SeededDraw(label)
        identity = Identity(draw("identity", 32), draw("link", 32), NOW_S + 10**6)
        kinds = (KIND_XK1, KIND_XX1, KIND_NK1)
        return Party(identity, Network(secret), suites, kinds, lambda: clock_s, draw)

    return make


def pump(*pairs):
    """Carry bytes both ways in each pair of peers until nobody has anything to say."""
    is_moving = True
    while is_moving:
        is_moving = False
        for one, other in pairs:
            for sender, receiver in ((one, other), (other, one)):
                data = sender.output_bytes()
                if data:
                    receiver.receive(data)
                    is_moving = True


def read_all(exchange, stream, reader):
    """Everything that arrives on `stream` until its end, read as it comes; `exchange` lets the peers talk."""
    taken = b""
    exchange()
    while end := reader.streams.get(stream.id):
        data = reader.stream_read(end)
        assert data or end.fin_received, "the stream stands still"
        taken += data
        if end.fin_received:
            reader.stream_finish(end)
        exchange()
    return taken


@pytest.fixture(name="read_all")
def read_all_fixture():
    return read_all


@pytest.fixture(name="pump")
def pump_fixture():
    return pump
