# SPDX-License-Identifier: MIT
"""What many first flights have in common: nothing but their length's bounds (docs/protocol.md 3.4, P7)."""

from collections import Counter, namedtuple

from looks.measure import chi_square, deviations, kolmogorov_smirnov, ks_p
from looks.rules import rule_exempting

FIRST_MIN, PAD_MAX = 1368, 1023  # length of a first flight without padding, and of the padding (3.4)
ERROR = 1e-4  # of all comparisons of one kind together

# The largest deviation of all comparisons, where it was, and the one that would be too large.
Spread = namedtuple("Spread", "largest where limit n_compared")


def columns_of(pieces, begin=0):
    """Give for each offset that all flights have the bytes there, one of each flight."""
    joined = b"".join(piece[:FIRST_MIN] for piece in pieces)
    return {offset: joined[offset::FIRST_MIN] for offset in range(begin, FIRST_MIN)}


def xor(one, other):
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(one), "big")


def bytes_spread(pieces, begin=0):
    """Compare the bytes of each offset, and what neighbours differ by, with what uniform bytes give."""
    columns = columns_of(pieces, begin)
    found = {offset: chi_square(Counter(column), 256) for offset, column in columns.items()}
    for offset, column in columns.items():
        if offset + 1 in columns:
            found[f"{offset}^{offset + 1}"] = chi_square(Counter(xor(column, columns[offset + 1])), 256)
    where = max(found, key=found.get)
    return Spread(found[where], where, deviations(ERROR / len(found)), len(found))


def lengths_likely(pieces):
    """Give how likely the lengths are those of uniform padding."""
    lengths = [len(piece) for piece in pieces]
    if min(lengths) < FIRST_MIN or max(lengths) > FIRST_MIN + PAD_MAX:
        return 0.0
    return ks_p(kolmogorov_smirnov(lengths, FIRST_MIN, FIRST_MIN + PAD_MAX), len(lengths))


def repeats_count(pieces, length=8):
    """Count runs of bytes that occur more than once, anywhere."""
    grams = Counter(piece[at : at + length] for piece in pieces for at in range(0, len(piece) - length + 1, length))
    return sum(n - 1 for n in grams.values())


def bit_fix(pieces, offset, bit):
    """Give the same flights with one bit that is always set."""
    return [piece[:offset] + bytes([piece[offset] | 1 << bit]) + piece[offset + 1 :] for piece in pieces]


def blocked_share(pieces):
    return sum(rule_exempting(piece) is None for piece in pieces) / len(pieces)
