# SPDX-License-Identifier: MIT
"""A classifier of traffic that nobody here wrote has no name for ours; `python -m tools.assurance.classified`."""

import random
import shutil

import pytest
from looks.capture import names_given

pytestmark = pytest.mark.skipif(not shutil.which("ndpiReader"), reason="ndpiReader is not here (libndpi-bin)")


def test_ndpi_does_not_know_what_it_is(tmp_path):
    """Some of its rules look at a byte or two: of flows of random bytes they name one in a hundred."""
    names = names_given(tmp_path / "flows.pcap", 20, random.Random(7447))
    assert names["control"] == {"HTTP": 1, "SSH": 1}
    assert names["uniform"]["Unknown"] >= 18
    assert names["printable6"]["Unknown"] >= 18
