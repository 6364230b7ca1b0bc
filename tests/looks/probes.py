# SPDX-License-Identifier: MIT
"""What active probers try at a port: garbage, other protocols, and all kinds of damage to a flight that was right."""

import os
import random
from collections import namedtuple
from itertools import combinations

from core.endpoint_help import XK, ring_of
from looks.measure import ks_same
from model.cert import Identity

from qg._core.endpoint import Endpoint

HELLOS = {
    "http": b"GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nConnection: close"
    + b"\r\n" * 2,
    "tls": bytes.fromhex("160301020001 0001fc0303") + bytes(range(256)) * 2,
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n" + bytes.fromhex("000004 2c0a14") + bytes(range(200)),
    "socks": b"\x05\x01\x00" + bytes(90),
    "zeros": bytes(4096),
}
HEAD_LEN = 80
# Of a hundred probes, by kind.
SHARES = {
    "silent": 15,
    "drip": 15,
    "truncated": 20,
    "random": 20,
    "flipped": 15,
    "wrong body": 5,
    "replay": 5,
    "hello": 5,
}
SILENT, SLOW, WRONG = "silent", "slow", "wrong"  # how clients fail: never, not yet, at once

# What a client sends: pieces, each with the seconds since the one before. `way` is one of the three above.
Probe = namedtuple("Probe", "kind way pieces")


class Flights:
    """A dialler that makes first flights to a link key, each of a handshake of its own."""

    def __init__(self, link_key, unix_s, seed=None, **options):
        rng = random.Random(seed) if seed is not None else random.SystemRandom()
        self._link_key = link_key
        ring = ring_of(Identity(rng.randbytes(32), rng.randbytes(32), 1 << 62))
        self._endpoint = Endpoint(ring, unix_s=unix_s, seed=rng.randbytes(32), **options)

    def make(self):
        assert self._endpoint.connect(XK, self._link_key) == 0
        return self._endpoint.take()


def way_of(data, flight_len=HEAD_LEN):
    """How a client fails that sends this, of which the node must have seen `flight_len` bytes to judge."""
    return SILENT if not data else SLOW if len(data) < flight_len else WRONG


def probes_make(n, flights, replayed, rng):
    """Give n probes of all kinds in random order. `replayed` are flights that the node has answered already."""
    found = [
        _MAKERS[kind](idx, flights, replayed, rng) for kind, share in SHARES.items() for idx in range(n * share // 100)
    ]
    rng.shuffle(found)
    return found


def _silent(idx, flights, replayed, rng):
    return Probe("silent", SILENT, [])


def _drip(idx, flights, replayed, rng):
    """Something that is right as far as it goes, byte by byte, and then nothing."""
    data = flights.make()[: rng.randint(1, 20)]
    return Probe("drip", SLOW, [(rng.uniform(0, 0.03), data[at : at + 1]) for at in range(len(data))])


def _truncated(idx, flights, replayed, rng):
    flight = flights.make()
    return Probe("truncated", SLOW, [(0, flight[: idx % (len(flight) - 1) + 1])])


def _random(idx, flights, replayed, rng):
    data = rng.randbytes(rng.randint(0, 8192))
    return Probe("random", way_of(data), [(0, data)] if data else [])


def _flipped(idx, flights, replayed, rng):
    flight = bytearray(flights.make())
    bit = rng.randrange(8 * len(flight))
    flight[bit // 8] ^= 1 << bit % 8
    return Probe("flipped", WRONG, [(0, bytes(flight))])


def _wrong_body(idx, flights, replayed, rng):
    """A head that opens; what is behind it does not. As much as the longest flight has, so that all of it is there."""
    return Probe("wrong body", WRONG, [(0, flights.make()[:HEAD_LEN] + rng.randbytes(3543 - HEAD_LEN))])


def _replay(idx, flights, replayed, rng):
    return Probe("replay", WRONG, [(0, rng.choice(replayed))])


def _hello(idx, flights, replayed, rng):
    name = list(HELLOS)[idx % len(HELLOS)]
    return Probe(name, WRONG, [(0, HELLOS[name])])


_MAKERS = {
    "silent": _silent,
    "drip": _drip,
    "truncated": _truncated,
    "random": _random,
    "flipped": _flipped,
    "wrong body": _wrong_body,
    "replay": _replay,
    "hello": _hello,
}


def ways_compare(times):
    """Give how likely the times of clients that fail in these ways are of one distribution, for each two ways."""
    return {f"{one}-{other}": ks_same(times[one], times[other]) for one, other in combinations(sorted(times), 2)}


def seed_make():
    """A seed for what is not to be repeated, and still can be from its report."""
    return int.from_bytes(os.urandom(4), "big")
