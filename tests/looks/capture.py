# SPDX-License-Identifier: MIT
"""Conversations as a file of packets, and what programs that classify traffic call them."""

import math
import random
import re
import struct
import subprocess
from collections import Counter

from core.endpoint_help import XK, Pair, link_key_of, ring_of
from looks.probes import HELLOS
from looks.programs import environment_foreign
from model.cert import Identity

from qg._core.endpoint import Endpoint

SEGMENT_LEN = 1448
SYN, ACK, PUSH = 2, 16, 8
UP, DOWN = 0, 1
PORT = 7447
RANDOM_SHARE = 4  # flows of random bytes for each one of ours: some of these have a name too, by chance
_FLOW = re.compile(r"TCP 192\.0\.2\.1:(\d+) <-> .*?\[proto: [\d.]+/([^\]]+)\]")
_HEAD = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


def conversation_make(rng, **options):
    """Let two endpoints greet each other and talk for a while; give (direction, bytes) in order."""
    ends = [
        Endpoint(ring_of(Identity(rng.randbytes(32), rng.randbytes(32), 1 << 62)), seed=rng.randbytes(32), **options)
        for _ in range(2)
    ]
    one, other = ends
    assert one.connect(XK, link_key_of(other.ring)) == 0
    assert other.listen(1 << XK) == 0
    said = []

    def talk():
        while True:
            heard = [(UP, one.take()), (DOWN, other.take())]
            for direction, data in heard:
                if data:
                    said.append((direction, data))
                    ends[1 - direction].feed(data)
            if not heard[0][1] and not heard[1][1]:
                return

    talk()
    pair = Pair(one, other)
    pair.pump = talk
    number = pair.stream(b"hello " * 100)
    for _ in range(4):
        other.write(number, rng.randbytes(3000))
        talk()
        one.write(number, rng.randbytes(500))
        talk()
    assert (one.state, other.state) == ("open", "open")
    return said


class Capture:
    """A file of packets, of TCP connections that never lose any."""

    def __init__(self, path):
        self.path = path
        self.n_flows = 0
        self._parts = [_HEAD]
        self._at_us = 1_750_000_000_000_000
        self._random = random.Random(0)

    def close(self):
        self.path.write_bytes(b"".join(self._parts))

    def add(self, said, port=PORT):
        """Write one connection to `port`; give the dialler's port, by which its flow is known."""
        dialler = 50_000 + self.n_flows  # no well-known port
        self.n_flows += 1
        seqs = [self._random.getrandbits(31), self._random.getrandbits(31)]
        self._packet(dialler, port, UP, SYN, seqs, b"")
        seqs[UP] += 1
        self._packet(dialler, port, DOWN, SYN | ACK, seqs, b"")
        seqs[DOWN] += 1
        self._packet(dialler, port, UP, ACK, seqs, b"")
        for direction, data in said:
            for at in range(0, len(data), SEGMENT_LEN):
                segment = data[at : at + SEGMENT_LEN]
                self._packet(dialler, port, direction, PUSH | ACK, seqs, segment)
                seqs[direction] += len(segment)
        return dialler

    def _packet(self, dialler, port, direction, flags, seqs, data):
        ports = (dialler, port) if direction == UP else (port, dialler)
        ack = seqs[1 - direction] if flags & ACK else 0
        tcp = struct.pack(">HHIIBBHHH", *ports, seqs[direction], ack, 5 << 4, flags, 65535, 0, 0) + data
        hosts = (bytes([192, 0, 2, 1]), bytes([198, 51, 100, 7]))
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, 6, 0)
        frame = bytes(12) + b"\x08\x00" + ip + hosts[direction] + hosts[1 - direction] + tcp
        self._at_us += 5000
        stamp = struct.pack("<IIII", *divmod(self._at_us, 1_000_000), len(frame), len(frame))
        self._parts.append(stamp + frame)


def flows_classify(capture):
    """Give what nDPI calls each flow, by the dialler's port."""
    run = ["ndpiReader", "-i", str(capture.path), "-v", "2"]
    done = subprocess.run(run, check=True, capture_output=True, timeout=120, env=environment_foreign())
    said = done.stdout.decode("ascii", "replace")
    return {int(port): name for port, name in _FLOW.findall(said)}


def random_of(rng, said):
    """Give random bytes in place of what was said."""
    return [(direction, rng.randbytes(len(data))) for direction, data in said]


def names_given(path, n_flows, rng):
    """Let nDPI name raw conversations, shaped ones, random bytes, and hellos of known protocols."""
    capture = Capture(path)
    raw = [conversation_make(rng) for _ in range(n_flows)]
    shaped = [conversation_make(rng, first_bytes=1) for _ in range(n_flows)]
    ports = {
        "uniform": [capture.add(said) for said in raw],
        "printable6": [capture.add(said) for said in shaped],
        "random": [capture.add(random_of(rng, said)) for said in raw * RANDOM_SHARE],
        "control": [capture.add([(UP, HELLOS["http"])], port=8000), capture.add([(UP, HELLOS["ssh"])], port=2222)],
    }
    capture.close()
    names = flows_classify(capture)
    return {group: Counter(names[port] for port in members) for group, members in ports.items()}


def share_named(names):
    return 1 - names["Unknown"] / names.total()


def named_more(names, others):
    """Give by how many deviations more of the flows have a name than of the others."""
    n, m = names.total(), others.total()
    pooled = 1 - (names["Unknown"] + others["Unknown"]) / (n + m)
    if pooled == 0:
        return 0.0
    return (share_named(names) - share_named(others)) / math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
