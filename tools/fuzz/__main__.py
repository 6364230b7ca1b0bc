# SPDX-License-Identifier: MIT
"""Fuzz all targets, or those that are named, as many at a time as there are cores; the last line has the figures.

With --together all of them run side by side, which finds less in the same time of the processor and is over sooner.

What was found lies in build/fuzz/found, what has covered something new in build/fuzz/corpus, where the next run begins.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.fuzz import FOUND, ROOT, SEEDS, TARGETS

BUILD = ROOT / "build" / "fuzz"
INPUT_S_MAX = 30  # one input that takes longer is a finding: 10 s on a busy machine is none
MEMORY_MIB_MAX = 3072
# Bytes of an input: more takes longer and tells nothing new.
LENGTH_MAX = {"engine": 400, "frames": 1500, "messages": 800, "session": 2000, "socks": 800}
LENGTH_MAX_ELSE = 1500
TEXTS = ("configuration", "socks")  # targets whose input is made of words


def environment() -> dict[str, str]:
    """What the fuzzed process needs: Python is not instrumented, so the sanitizers and libFuzzer come before it."""
    paths = [os.environ.get("PYTHONPATH", ""), str(ROOT), str(ROOT / "tests")]
    return os.environ | {
        "LD_PRELOAD": os.environ["QG_FUZZ_RUNTIME"],
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONMALLOC": "malloc",  # else ASan does not see where an object of Python ends
        # CPython frees little at exit; what the core takes and gives back is counted by the targets. ASan keeps each
        # stack that it sees, and those of Python are deep and all different.
        "ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=5:quarantine_size_mb=64:"
        + os.environ.get("ASAN_OPTIONS", ""),
        "UBSAN_OPTIONS": "print_stacktrace=1:" + os.environ.get("UBSAN_OPTIONS", ""),
    }


def target_fuzz(name: str, seconds: float) -> dict[str, object]:
    """Fuzz one target for so long; its figures."""
    corpus, found = BUILD / "corpus" / name, BUILD / "found" / name
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    command = [sys.executable, "-m", "tools.fuzz.target", name, str(found), f"-max_total_time={max(1, round(seconds))}",
               f"-timeout={INPUT_S_MAX}", f"-rss_limit_mb={MEMORY_MIB_MAX}", "-print_final_stats=1",
               f"-artifact_prefix={found}{os.sep}"]  # fmt: skip
    command.append(f"-max_len={LENGTH_MAX.get(name, LENGTH_MAX_ELSE)}")
    if name in TEXTS:
        command.append(f"-dict={dictionary_write(name)}")
    command += [str(folder) for folder in (corpus, SEEDS / name, FOUND / name) if folder.is_dir()]
    log = BUILD / f"{name}.log"
    with log.open("w") as file:
        run = subprocess.run(command, env=environment(), stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
    text = log.read_text(errors="replace")
    figures = {
        "runs": last_number(text, r"stat::number_of_executed_units: (\d+)"),
        "runs_per_s": last_number(text, r"stat::average_exec_per_sec: +(\d+)"),
        "edges": last_number(text, r" cov: (\d+)"),
        "found": [str(path.relative_to(ROOT)) for path in sorted(set(found.iterdir()) - before)],
        "is_clean": run.returncode == 0,
    }
    print(f"{name}: {figures}" + ("" if figures["is_clean"] else f"; see {log.relative_to(ROOT)}"), flush=True)
    return figures


def dictionary_write(name: str) -> Path:
    """Write the words of a target's seeds, which libFuzzer could hardly guess, into a file that it reads."""
    words = {word for path in (SEEDS / name).iterdir() for word in re.findall(rb"[A-Za-z_]{2,}", path.read_bytes())}
    path = BUILD / f"{name}.dict"
    path.write_text("".join(f'"{word.decode()}"\n' for word in sorted(words)))
    return path


def last_number(text: str, pattern: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/dev fuzz", description="attack what reads foreign bytes")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of: {', '.join(TARGETS)}")
    parser.add_argument("--minutes", type=float, default=9, help="of all targets together")
    parser.add_argument("--together", action="store_true", help="run all targets at a time, so long each")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    names = options.targets or TARGETS
    n_jobs = len(names) if options.together else min(os.cpu_count() or 1, len(names))
    seconds = options.minutes * 60 * n_jobs / len(names)
    with ThreadPoolExecutor(n_jobs) as pool:
        figures = dict(zip(names, pool.map(target_fuzz, names, [seconds] * len(names)), strict=True))
    is_clean = all(each["is_clean"] for each in figures.values())
    if not is_clean:
        print("what was found belongs into tests/regress/found/TARGET, whose inputs the tests run", flush=True)
    print(json.dumps({"seconds_each": seconds, "targets": figures}))
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
