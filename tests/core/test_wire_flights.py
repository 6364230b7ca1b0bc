# SPDX-License-Identifier: MIT
"""A few thousand first flights look like nothing; `python -m tools.assurance.flights` takes twenty thousand."""

import os

import pytest
from core.endpoint_help import NOW_S
from looks.flights import ERROR, bit_fix, bytes_spread, lengths_likely, repeats_count
from looks.probes import Flights

pytestmark = pytest.mark.slow

N_FLIGHTS = 2560  # ten for each value of a byte


@pytest.fixture(scope="module")
def flights():
    make = Flights(os.urandom(32), NOW_S).make
    return [make() for _ in range(N_FLIGHTS)]


def test_every_offset_takes_all_values_and_no_two_neighbours_agree(flights):
    spread = bytes_spread(flights)
    assert spread.n_compared == 2 * 1368 - 1
    assert spread.largest < spread.limit, spread


def test_lengths_are_as_specified(flights):
    assert lengths_likely(flights) > ERROR
    assert lengths_likely([flight[:2200] for flight in flights]) < ERROR


def test_nothing_repeats(flights):
    assert repeats_count(flights) == 0


@pytest.mark.parametrize(("offset", "bit"), [(0, 7), (40, 0), (700, 3), (1367, 6)])
def test_a_bit_that_is_always_set_would_be_seen(flights, offset, bit):
    spread = bytes_spread(bit_fix(flights, offset, bit))
    assert spread.largest > spread.limit
    assert spread.where == offset
