# SPDX-License-Identifier: MIT
"""Show the figures of each benchmark: the time that pytest-benchmark prints is that of all candidates together."""

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.report import FIGURES_HEADER, figure_rows, rows_text


@pytest.fixture(autouse=True)
def figures_show(request: pytest.FixtureRequest, benchmark: Any, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    benchmark.group = "how long a round of all candidates takes"
    yield
    if figures := benchmark.extra_info.get("figures"):
        with capsys.disabled():
            print("", *rows_text(FIGURES_HEADER, figure_rows({request.node.name: figures})), sep="\n")
            print(*benchmark.extra_info["missing"].values(), sep="\n")
