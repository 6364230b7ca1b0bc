# SPDX-License-Identifier: MIT
"""A session under a peer that holds the keys and says anything: cut into pieces or not, it does the same.

It goes on, or ends with a reason; and once it is cleared nothing of it is left.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from core.endpoint_help import BYTES, KINDS_LINK, NORMAL, SECOND_NS, UUID, WINDOW, XK, Pair, link_key_of, ring_of
from model.cert import Identity

from qg._core.endpoint import Endpoint
from tools.fuzz import Script

INNER_MAX = 16384
RINGS = [ring_of(Identity(label * 32, label.upper() * 32, 1 << 62)) for label in (b"i", b"r")]


def run(data: bytes) -> None:
    with pair() as whole, pair() as pieces:
        assert play(Script(data), whole, 1 << 20) == play(Script(data), pieces, 1 + len(data) % 7)


@contextmanager
def pair() -> Iterator[Pair]:
    sides = [Endpoint(ring, seed=name) for ring, name in zip(RINGS, (b"one", b"other"), strict=True)]
    yield Pair(*sides)
    for side in sides:
        side.clear()
        assert side.held == (0, 0, 0), "blocks, bytes and secret slots that were not given back"
        assert side.n_missed_wakes == 0, "output that nobody would have fetched"


def play(script: Script, at: Pair, n_bytes: int) -> list[object]:
    """Do what an input says; what the other side did about it, byte for byte."""
    told: list[object] = []
    at.other.listen(KINDS_LINK)
    at.one.connect(XK, link_key_of(RINGS[1]))
    if script.number() % 4:
        at.pump()
        at.stream(b"hello")
    while script and at.other.state not in ("discard", "closed"):
        one, other = at.one, at.other
        wire = (inject, inject, inject, hello, raw, changed, streams, time)[script.number() % 8](script, one, other)
        for off in range(0, len(wire), n_bytes):
            other.feed(wire[off : off + n_bytes])
        answer = other.take()
        told += [other.state, other.status, other.events(), answer]
        one.feed(answer)
        one.events()
    return told


def inject(script: Script, one: Endpoint, other: Endpoint) -> bytes:
    """Frames in a record of their own."""
    frames = script.counted()[:INNER_MAX]
    if frames and one.state == "open":
        one.inject(frames)
    return one.take()


def hello(script: Script, one: Endpoint, other: Endpoint) -> bytes:
    """A stream with data, as it is meant to be."""
    if one.state == "open":
        number = one.open_stream(BYTES, NORMAL, WINDOW, UUID)
        if number is not None:
            one.write(number, script.counted())
            if script.number() % 2:
                one.finish(number)
    return one.take()


def raw(script: Script, one: Endpoint, other: Endpoint) -> bytes:
    return script.counted()


def changed(script: Script, one: Endpoint, other: Endpoint) -> bytes:
    """What one side has to say, with a bit flipped or the end left out."""
    if one.state == "open":
        one.ping()
    wire = bytearray(one.take())
    if wire:
        wire[script.number(2) % len(wire)] ^= 1 << script.number() % 8
        del wire[len(wire) - script.number() % len(wire) :]
    return bytes(wire)


def streams(script: Script, one: Endpoint, other: Endpoint) -> bytes:
    """What the application of the other side may do about a stream."""
    number, what = script.number(), script.number()
    try:
        if what % 4 == 0:
            other.accept(number, WINDOW)
        elif what % 4 == 1:
            other.write(number, script.counted())
        elif what % 4 == 2:
            other.finish(number)
        else:
            other.reset(number, script.number() % 17)
    except KeyError:
        pass
    return one.take()


def time(script: Script, one: Endpoint, other: Endpoint) -> bytes:
    now_ns = one.now_ns + script.number() * SECOND_NS // 4
    one.tick(now_ns)
    other.tick(now_ns)
    if script.number() % 8 == 0:
        other.start_rekey()
    return one.take()
