# SPDX-License-Identifier: MIT
"""Sessions over memory that must have given everything back at the end of a test."""

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


@pytest.fixture
def endpoint(rings):
    """Make endpoints by the label of their identity; each must hold nothing once its session is cleared."""
    made = []

    def make(label, *networks, **options):
        options.setdefault("seed", f"{label} {len(made)}".encode())
        made.append(Endpoint(options.pop("ring", None) or rings(label), *networks, **options))
        return made[-1]

    yield make
    for each in made:
        each.clear()
        assert each.held == (0, 0, 0), "blocks, bytes and secret slots that were not given back"
        assert each.n_missed_wakes == 0, "output that nobody would have fetched"


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
