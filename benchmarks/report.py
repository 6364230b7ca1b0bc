# SPDX-License-Identifier: MIT
"""Run all benchmarks once and write the figures into docs/performance.md: `python -m benchmarks.report`.

Only what stands between the two marks there is replaced; the words around it are people's. Each file of benchmarks is
a process of its own: one that fails, or ends early, costs none of the others' figures, and is named with them.
"""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import HOPS, ROOT, peer_version
from benchmarks.plot import line_fit, scatter_svg
from benchmarks.program import NotInstalled
from benchmarks.targets import TARGETS, Figures, Target

PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance-hops.svg"
RECORDS = ROOT / "build" / "benchmarks"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

FILE_LIMIT_S, FILE_END_S = 600, 60  # what one file of benchmarks may take; what it takes to end it
HOPS_OFF_MAX = 0.1  # of the cost of a GB, from the line through all

FIGURES_HEADER = ["work", "candidate", "figure", "median", "range"]
TARGETS_HEADER = ["work", "qg", "against", "is", "limit", ""]
PEER_MODULES = [
    "qg", "forwarder", "asyncio_tls", "uvloop_tls", "openssl_tls", "ssh", "stunnel", "pproxy", "tor", "zmq_curve",
    "libp2p_noise", "reticulum",
]  # fmt: skip


class Run(NamedTuple):
    """What was measured, and what went wrong, in words."""

    figures: Figures
    failures: list[str]


def benchmarks_run() -> Run:
    RECORDS.mkdir(parents=True, exist_ok=True)
    run = Run({}, [])
    for path in sorted((ROOT / "benchmarks").glob("test_*.py")):
        began_s = time.monotonic()
        part = file_run(path)
        print(f"{path.name}: {time.monotonic() - began_s:.0f} s", flush=True)
        run.figures.update(part.figures)
        run.failures.extend(part.failures)
    return run


def command_run(command: list[str]) -> int:
    """Run it and give its exit code; after a time it is interrupted, so that it can still write what it has."""
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            return process.wait(FILE_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        try:
            return process.wait(FILE_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def file_run(path: Path) -> Run:
    """Run the benchmarks of one file and read what they recorded."""
    record = RECORDS / f"{path.stem}.json"
    record.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", str(path), "-q", "--benchmark-quiet", f"--benchmark-json={record}"]
    code = command_run(command)
    recorded = record.read_text() if record.exists() else ""  # empty when it died
    works = {work["name"]: work["extra_info"] for work in json.loads(recorded or '{"benchmarks": []}')["benchmarks"]}
    failures = [f"{work}, {name}: {words}" for work, info in works.items() for name, words in info["failed"].items()]
    if code and not failures:
        failures.append(f"{path.name}: pytest ended with {code}")
    return Run({work: info["figures"] for work, info in works.items()}, failures)


def stolen_s() -> tuple[float, float]:
    """Seconds that the hypervisor took from this machine, and all seconds of all its cores, since it started."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return ticks[7] * tick_s, sum(ticks) * tick_s


def processor_name() -> str:
    names = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def peer_text(module: str) -> str:
    """Say which one it is, or how to install it."""
    try:
        return peer_version(module)
    except NotInstalled as error:
        return f"**not measured**: {error}"


def machine_facts() -> list[str]:
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return [
        f"{os.cpu_count()} × {processor_name()}, {memory_gb:.0f} GB, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        *map(peer_text, PEER_MODULES),
        f"load when it began: {os.getloadavg()[0]:.2f}",
    ]


def short(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}"


def rows_text(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]]


def target_row(target: Target, figures: Figures) -> list[str]:
    limit = f"{target.sense} {short(target.limit)} {target.unit}"
    found = target.compared(figures)
    if found is None:
        return [target.work, "–", target.against or "–", "–", limit, "not measured"]
    figure, other, compared = found
    against = f"{target.against}: {short(other)}" if target.against else "–"
    verdict = "reached" if target.is_reached(compared) else "**missed**"
    return [target.work, short(figure), against, f"{short(compared)} {target.unit}", limit, verdict]


def hops_rounds(figures: Figures) -> dict[int, list[float]]:
    """What a GB costs over so many relays, in each round."""
    measured = figures.get("test_hops", {})
    return {n_relays: measured[name]["cpu_s_per_gb"] for n_relays, name in HOPS.items() if name in measured}


def hops_row(figures: Figures) -> list[str]:
    """Tell whether a relay more costs the same wherever it comes: how far the medians are from a line."""
    work, limit = "a GB over 1 to 6 relays, CPU s, off its line", f"at most {HOPS_OFF_MAX:.0%}"
    medians = {n_relays: statistics.median(rounds) for n_relays, rounds in hops_rounds(figures).items()}
    if len(medians) < len(HOPS):
        return [work, "–", "–", "–", limit, "not measured"]
    slope, height = line_fit([*medians], [*medians.values()])
    off = max(abs(median / (height + slope * n_relays) - 1) for n_relays, median in medians.items())
    verdict = "reached" if off <= HOPS_OFF_MAX else "**missed**"
    return [work, f"{short(min(medians.values()))} … {short(max(medians.values()))}", "–", f"{off:.1%}", limit, verdict]


def hops_lines(figures: Figures) -> list[str]:
    """Draw what a GB costs over one relay and more, and say what one more adds."""
    measured = hops_rounds(figures)
    if len(measured) < 2:
        return []
    xs, rounds = [*measured], [*measured.values()]
    title = "What a GB costs in all processes"
    PLOT.write_text(scatter_svg(title, "relays of the circuit", "CPU s/GB", xs, rounds))
    slope, height = line_fit(xs, [statistics.median(ys) for ys in rounds])
    words = (
        f"One more relay adds {slope:.2f} CPU s/GB, its own and the layer that the client seals more; the line begins"
    )
    return ["", f"![CPU seconds per GB over one to six relays]({PLOT.name})", "", f"{words} at {height:.2f}."]


def figure_rows(figures: Figures) -> list[list[str]]:
    return [
        [work, candidate, key, short(statistics.median(rounds)), f"{short(min(rounds))} … {short(max(rounds))}"]
        for work, candidates in figures.items()
        for candidate, keys in candidates.items()
        for key, rounds in keys.items()
    ]


def scope_text(figures: Figures) -> str:
    """Say how often all was measured, and what of the table was not."""
    n_rounds = {
        work: max(len(rounds) for keys in candidates.values() for rounds in keys.values())
        for work, candidates in figures.items()
        if candidates
    }
    if not n_rounds:
        return "nothing was measured"
    usual = statistics.mode(n_rounds.values())
    others = ", ".join(f"{n} of {work}" for work, n in n_rounds.items() if n != usual)
    left_out = ", ".join(sorted({"test_hops", *(target.test for target in TARGETS)} - n_rounds.keys()))
    rounds = f"one run: {usual} rounds of each work" + (f", but {others}" if others else "")
    return rounds + (f"; without {left_out}" if left_out else "; nothing is left out")


def text_make(run: Run, facts: list[str]) -> str:
    figures = run.figures
    lines = [f"* {fact}" for fact in [*facts, scope_text(figures)]]
    lines += [f"* **failed**: {failure}" for failure in run.failures] + [""]
    lines += rows_text(TARGETS_HEADER, [*(target_row(row, figures) for row in TARGETS), hops_row(figures)])
    lines += hops_lines(figures)
    lines += ["", "All figures, median and range of the rounds:", ""]
    lines += rows_text(FIGURES_HEADER, figure_rows(figures))
    return "\n".join(lines)


def page_write(text: str) -> None:
    page = PAGE.read_text() if PAGE.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> int:
    facts, (stolen_before_s, all_before_s) = machine_facts(), stolen_s()
    run = benchmarks_run()
    stolen_after_s, all_after_s = stolen_s()
    share = (stolen_after_s - stolen_before_s) / (all_after_s - all_before_s)
    text = text_make(run, [*facts, f"taken by the hypervisor during the run: {share:.1%}"])
    page_write(text)
    print(text)
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
