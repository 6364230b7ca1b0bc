# SPDX-License-Identifier: MIT
"""A short soak: when all nodes have gone, live blocks, sessions, descriptors and tasks are what they were before."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from tools.assurance.soak import soaked  # noqa: E402

pytestmark = [pytest.mark.anyio, pytest.mark.net]


async def test_a_short_churn_leaves_nothing_behind():
    figures = await soaked(n_nodes=8, seconds=6, seed=7447)
    assert figures["done"]["churn"] >= 2
    assert min(figures["done"].values()) > 0
