# SPDX-License-Identifier: MIT
"""The long checks are all named on their page, and what they reach is written there as they said it."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools.assurance import __main__ as assurance  # noqa: E402


def test_the_page_says_what_each_check_asks():
    page = assurance.PAGE.read_text()
    assert assurance.checks_list()
    for name in assurance.checks_list():
        assert f"| `{name}` |" in page


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page and a folder of checks of its own."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{assurance.BEGIN}\n{assurance.END}\nafter\n")
    monkeypatch.setattr(assurance, "PAGE", page)
    monkeypatch.setattr(assurance, "RESULTS", tmp_path / "build" / "results.json")
    return page


def test_what_a_check_reached_is_on_the_page_and_the_last_line_counts(page, monkeypatch):
    ends = {"good": ('print("words"); print(\'{"check": "good", "passed": true, "n": 3}\')', True),
            "silent": ("print('nothing')", False),
            "liar": ('print(\'{"check": "liar", "passed": true}\'); raise SystemExit(3)', False)}  # fmt: skip
    real = assurance.subprocess.Popen

    def popen(command, **options):
        return real([sys.executable, "-c", ends[command[-1].rpartition(".")[2]][0]], **options)

    monkeypatch.setattr(assurance.subprocess, "Popen", popen)
    monkeypatch.setattr(assurance, "checks_list", lambda: list(ends))
    monkeypatch.setattr(sys, "argv", ["assurance", "good"])
    assert assurance.main() == 0
    monkeypatch.setattr(sys, "argv", ["assurance"])
    assert assurance.main() == 1
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| `good` | passed | n 3 |" in text
    for name in ("silent", "liar"):
        assert f"| `{name}` | **failed** |" in text


@pytest.mark.parametrize("name", assurance.checks_list())
def test_every_check_ends_with_what_the_page_takes(name):
    places = (assurance.FOLDER / f"{name}.py", assurance.FOLDER / name / "__main__.py")
    text = next(path for path in places if path.exists()).read_text()
    assert re.search(rf'finish\(\s*"{name}"', text)
