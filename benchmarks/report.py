# SPDX-License-Identifier: MIT
"""Run all benchmarks once and write the figures into docs/performance.md: `python -m benchmarks.report`.

Only what stands between the two marks there is replaced; the words around it are people's.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import HOPS, ROOT, peer_version
from benchmarks.plot import line_fit, scatter_svg
from benchmarks.program import NotInstalled
from benchmarks.targets import TARGETS, Figures, Target

PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance-hops.svg"
RECORD = ROOT / "build" / "benchmarks" / "run.json"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

FIGURES_HEADER = ["work", "candidate", "figure", "median", "range"]
TARGETS_HEADER = ["work", "qg", "against", "is", "limit", ""]
PEER_MODULES = [
    "qg", "forwarder", "asyncio_tls", "uvloop_tls", "openssl_tls", "ssh", "stunnel", "tor", "zmq_curve", "libp2p_noise",
    "reticulum",
]  # fmt: skip


def benchmarks_run() -> tuple[Figures, int]:
    """Give the figures of all that did not fail, and the exit code."""
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "--benchmark-quiet", f"--benchmark-json={RECORD}"]
    code = subprocess.run(command, cwd=ROOT).returncode
    works = json.loads(RECORD.read_text())["benchmarks"]
    return {work["name"]: work["extra_info"]["figures"] for work in works}, code


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


def hops_lines(figures: Figures) -> list[str]:
    """Draw what a GB costs over one relay and more, and say what one more adds."""
    measured = figures.get("test_hops", {})
    xs = [n_relays for n_relays, name in HOPS.items() if name in measured]
    if len(xs) < 2:
        return []
    rounds = [measured[HOPS[n_relays]]["cpu_s_per_gb"] for n_relays in xs]
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


def text_make(figures: Figures, facts: list[str]) -> str:
    lines = [f"* {fact}" for fact in facts] + [""]
    lines += rows_text(TARGETS_HEADER, [target_row(row, figures) for row in TARGETS])
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
    figures, code = benchmarks_run()
    stolen_after_s, all_after_s = stolen_s()
    share = (stolen_after_s - stolen_before_s) / (all_after_s - all_before_s)
    text = text_make(figures, [*facts, f"taken by the hypervisor during the run: {share:.1%}"])
    page_write(text)
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
