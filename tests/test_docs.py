# SPDX-License-Identifier: MIT
"""What the pages say works when it is pasted."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from qg.config import Config

ROOT = Path(__file__).parents[1]
PAGES = [path for path in (ROOT / "README.md", ROOT / "docs/getting-started.md") if path.exists()]


def blocks_of(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list:
    return [
        pytest.param(block, id=f"{page.name}-{idx}")
        for page in PAGES
        for idx, block in enumerate(blocks_of(page, language))
    ]


@pytest.mark.parametrize("block", blocks("python"))
def test_python_on_the_pages_runs(block, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{block}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stderr == ""
    assert run.returncode == 0


@pytest.mark.parametrize("block", blocks("toml"))
def test_configuration_on_the_pages_is_right(block):
    Config.from_dict(tomllib.loads(block))


def test_links_between_the_pages_lead_somewhere():
    for page in [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
