# SPDX-License-Identifier: MIT
"""Sessions over memory that must have given everything back at the end of a test."""

import contextlib

import pytest
from core.endpoint_help import Pair, ring_of
from hypothesis import settings
from model.cert import Identity

from qg._core.endpoint import Endpoint

settings.register_profile("core", deadline=None)  # a busy machine is no failure
settings.load_profile("core")


@pytest.fixture(scope="session")
def rings():
    """Identities that are made once: the same label gives the same one."""
    made = {}

    def get(label):
        if label not in made:
            seed, secret = (f"{part} of {label}".encode().ljust(32, b".")[:32] for part in ("seed", "link"))
            made[label] = ring_of(Identity(seed, secret, 1 << 62))
        return made[label]

    return get


def end(endpoint):
    """Clear a session: it must have given everything back, and never have waited in vain to be heard."""
    endpoint.clear()
    assert endpoint.held == (0, 0, 0), "blocks, bytes and secret slots that were not given back"
    assert endpoint.n_missed_wakes == 0, "output that nobody would have fetched"


@pytest.fixture
def endpoint(rings):
    """Make endpoints by the label of their identity."""
    made = []

    def make(label, *networks, **options):
        options.setdefault("seed", f"{label} {len(made)}".encode())
        made.append(Endpoint(options.pop("ring", None) or rings(label), *networks, **options))
        return made[-1]

    yield make
    for each in made:
        end(each)


@pytest.fixture(scope="session")
def pairs(rings):
    """Give a context with a connected pair of its own, for tests that need thousands."""

    @contextlib.contextmanager
    def make(*, rights=None, **options):
        sides = [{name: value[idx] for name, value in options.items()} for idx in range(2)]
        pair = Pair(
            Endpoint(rings("initiator"), seed=b"i", **sides[0]), Endpoint(rings("responder"), seed=b"r", **sides[1])
        )
        if rights is not None:
            pair.other.rights = rights
        pair.connect()
        yield pair
        end(pair.one)
        end(pair.other)

    return make


@pytest.fixture
def connect(endpoint):
    """Give a pair of endpoints whose sessions are open."""

    def make(**options):
        pair = Pair(endpoint("initiator", **options), endpoint("responder", **options))
        pair.connect()
        assert (pair.one.state, pair.other.state) == ("open", "open")
        pair.one.events()
        pair.other.events()
        return pair

    return make
