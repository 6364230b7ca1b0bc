# SPDX-License-Identifier: MIT
"""What ent says of a few megabytes of records; `python -m tools.assurance.records` asks of two gigabytes."""

import shutil

import pytest
from looks.stream import ent_measure, records_make

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("ent"), reason="ent is not here")]


@pytest.mark.parametrize("suites", [1, 3, 7])
def test_ent_sees_random_bytes(suites):
    figures = ent_measure(records_make(8 << 20, suites))
    assert figures["n_bytes"] >= 8 << 20
    assert figures["entropy"] > 7.9999
    assert 0.0001 < figures["chi_square_percent"] < 99.9999  # percent: one in a million runs, on either side
    assert abs(figures["serial_correlation"]) < 0.002


def test_ent_would_see_one_byte_in_a_thousand_that_is_always_the_same():
    spoilt = (piece[at : at + 999] + b"\0" for piece in records_make(8 << 20) for at in range(0, len(piece), 999))
    assert ent_measure(spoilt)["chi_square_percent"] < 0.0001
