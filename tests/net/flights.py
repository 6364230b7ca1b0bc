# SPDX-License-Identifier: MIT
"""Flights of a handshake as the independent implementation makes them, and flights that are wrong in one thing."""

import random
import time

from model import envelope
from model.cert import Identity
from model.envelope import KIND_XK1, KIND_XX1
from model.handshake import CARRIER_TCP, Initiator, Party

rng = random.Random(7447)


def party(until_s=10**6, **settings):
    """A dialler of the independent implementation; its certificate ends in `until_s`."""
    identity = Identity(rng.randbytes(32), rng.randbytes(32), int(time.time()) + until_s)
    return Party(identity, **settings)


def dialler(node, kind=KIND_XK1, **settings):
    link_key = b"" if kind == KIND_XX1 else bytes(node.address.link_key)
    return Initiator(party(**settings), CARRIER_TCP, kind, link_key)


def first_flight(node, kind=KIND_XK1, **settings):
    """A first flight as the node expects it, unless settings say otherwise."""
    return dialler(node, kind, **settings).flight1()


def resealed(node, monkeypatch, changes):
    """A first flight whose head was changed before it was sealed: bytes by their offset."""
    build = envelope.Head.build

    def changed(head):
        plain = bytearray(build(head))
        for at, value in changes.items():
            plain[at : at + len(value)] = value
        return bytes(plain)

    with monkeypatch.context() as patch:
        patch.setattr(envelope.Head, "build", changed)
        return first_flight(node)
