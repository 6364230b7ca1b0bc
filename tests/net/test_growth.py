# SPDX-License-Identifier: MIT
"""Handshakes leave no memory behind; `python -m tools.assurance.handshakes` has a hundred thousand of them."""

import sys
from pathlib import Path

import pytest

from qg._core import _build_info

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from tools.assurance.handshakes import handshaken  # noqa: E402

pytestmark = [pytest.mark.anyio, pytest.mark.net]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.skipif(_build_info.IS_SANITIZED, reason="the sanitizer keeps what is freed")
async def test_two_thousand_handshakes_leave_no_memory_behind():
    figures = await handshaken(2000)
    assert figures["handshakes"] >= 2000
    assert figures["growth_kib"] < 512  # 256 bytes for each; a session's smallest part is larger
