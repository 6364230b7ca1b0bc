# SPDX-License-Identifier: MIT
"""What workers share, as the core compiles it, runs in several threads under ThreadSanitizer."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from cython_text import verbatim_text  # noqa: E402

RACE = 66  # exit code that TSAN_OPTIONS below asks for
FAULTS = ("INBOX", "RING", "LOCK", "SNAPSHOT", "BRIDGE")


@pytest.fixture(scope="module")
def threads(tmp_path_factory):
    """Compile tests/native/threads.c with the C text of the two modules; give the path of the program."""
    folder = tmp_path_factory.mktemp("threads")
    texts = [verbatim_text(ROOT.joinpath("qg", "_core", name).read_text()) for name in ("sys.pxd", "shared.pxd")]
    header = "\n".join(textwrap.dedent(text.replace('"""', "   ")) for text in texts)
    folder.joinpath("shared.h").write_text(header)

    def build(*options):
        path = folder / "-".join(("threads", *options))
        command = ["cc", "-g", "-O2", "-std=gnu11", "-Wall", "-Wno-unknown-pragmas", "-fsanitize=thread", *options]
        source = str(Path(__file__).with_name("threads.c"))
        made = subprocess.run(
            [*command, "-Wno-tsan", "-I", str(folder), source, "-o", str(path), "-pthread"],
            capture_output=True,
            text=True,
            check=False,
        )
        if "cannot find" in made.stderr and "tsan" in made.stderr:
            pytest.skip("the compiler has no ThreadSanitizer")
        assert made.returncode == 0, made.stderr
        return path

    return build


def run(path, rounds):
    return subprocess.run(
        [path, str(rounds)],
        env={"TSAN_OPTIONS": f"exitcode={RACE} halt_on_error=1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("rounds", [2_000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_what_workers_share_has_no_race(threads, rounds):
    ended = run(threads(), rounds)
    assert (ended.returncode, ended.stdout) == (0, "all of it came as it should\n"), ended.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_race_that_is_planted_is_seen(threads, fault):
    path = threads(f"-DPLANT_{fault}")
    ended = run(path, 3_000)
    for _ in range(20):  # on a busy machine the two threads may not have met
        if ended.returncode:
            break
        ended = run(path, 10_000)
    assert ended.returncode == RACE, ended.stderr
    assert "data race" in ended.stderr or "heap-use-after-free" in ended.stderr
