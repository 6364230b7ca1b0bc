# SPDX-License-Identifier: MIT
"""Each example runs as it is, ends, and says what it should."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.net

EXAMPLES = Path(__file__).parents[1] / "examples"
LAST_LINES = {
    "batch_messages.py": "the sum is right",
    "client_server.py": "HELLO OVER THERE",
    "extender.py": "on the board: [0-9a-f-]{36}: 'the kettle is on'",
    "relay.py": "circuits through each relay: 1 1 1",
    "socks.py": "the exit carried 1 connection",
}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(LAST_LINES)


@pytest.mark.parametrize("name", LAST_LINES)
def test_an_example_runs(name, tmp_path):
    run = subprocess.run([sys.executable, EXAMPLES / name], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert re.fullmatch(LAST_LINES[name], run.stdout.splitlines()[-1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", LAST_LINES)
def test_an_example_fits_a_screen_and_says_how_it_is_started(name):
    text = (EXAMPLES / name).read_text()
    assert text.count("\n") < 60
    assert f"python examples/{name}" in text
