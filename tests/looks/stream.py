# SPDX-License-Identifier: MIT
"""What one side of a long transfer puts on the wire, as much as is wanted."""

import os
import re

from core.endpoint_help import XK, Pair, link_key_of, ring_of
from looks.measure import normal_of, tail
from looks.programs import program_feed
from model.cert import Identity

from qg._core.endpoint import Endpoint

CHUNK = bytes(1 << 19)
WINDOW = 1 << 20


def records_make(n_bytes, suites=7):
    """Give at least so many bytes of records that carry zeros, in pieces; suites as in `endpoint_help`."""
    ends = [Endpoint(ring_of(Identity(os.urandom(32), os.urandom(32), 1 << 62)), suites=suites) for _ in range(2)]
    pair = Pair(*ends)
    one, other = ends
    assert one.connect(XK, link_key_of(other.ring)) == 0
    assert other.listen(1 << XK) == 0
    pair.pump()
    number = pair.stream(credit=WINDOW)
    while n_bytes > 0:
        one.write(number, CHUNK)
        while data := one.take():
            n_bytes -= len(data)
            yield data
            assert other.feed(data) == 0
            other.used(number, len(other.received(number)))
            one.feed(other.take())
    assert one.state == "open"


def ent_measure(pieces):
    """Give ent's figures: bytes, entropy in bits of a byte, chi-square and how likely chance exceeds it."""
    said, _ = program_feed(["ent", "-t"], pieces)
    figures = dict(zip(*(line.split(",")[1:] for line in said.splitlines()[:2]), strict=True))
    square = float(figures["Chi-square"])
    return {
        "n_bytes": int(figures["File-bytes"]),
        "entropy": float(figures["Entropy"]),
        "chi_square": square,
        "chi_square_percent": round(100 * tail(normal_of(square, 255)), 3),
        "serial_correlation": float(figures["Serial-Correlation"]),
    }


def dieharder_judge(number, n_samples, pieces):
    """Run one test of dieharder, which reads on and never again; its p, its verdict, and the bytes that it took."""
    said, n_fed = program_feed(["dieharder", "-g", "200", "-d", str(number), "-p", str(n_samples)], pieces)
    found = re.search(r"^ *(\w+)\| +\d+\| +\d+\| +\d+\|([\d.]+)\| +(\w+)", said, re.M)
    if found is None:
        raise ValueError(f"dieharder said: {said}")
    return {"test": found[1], "p": float(found[2]), "verdict": found[3], "n_bytes": n_fed}
