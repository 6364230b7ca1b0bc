# SPDX-License-Identifier: MIT
"""Run all benchmarks once and write the figures into docs/performance.md: `python -m benchmarks.report`.

Only what stands between the two marks there is replaced; the words around it are people's.
"""

import importlib.util
import json
import os
import platform
import ssl
import statistics
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness import AEGIS, ASYNCIO, BARE, CHACHA, FORWARDER, HELP, IMPORT, ROOT, SPINNING, UVLOOP

PAGE = ROOT / "docs" / "performance.md"
RECORD = ROOT / "build" / "benchmarks" / "run.json"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

FIGURES_HEADER = ["work", "candidate", "figure", "median", "range"]

Figures = dict[str, dict[str, dict[str, list[float]]]]  # work, candidate, key: one figure per round


@dataclass(frozen=True)
class Target:
    """A line of the table: a figure is at most `limit` as a multiple of that of `against`, or above it, or alone."""

    work: str
    test: str
    candidate: str
    key: str
    limit: float
    unit: str = "×"
    against: str | None = None
    is_difference: bool = False

    def reached(self, figures: Figures) -> tuple[float, float | None, float] | None:
        """The figure, what it is held against, and what is compared with the limit; None if it was not measured."""
        candidates = figures.get(self.test, {})
        if self.candidate not in candidates:
            return None
        figure = statistics.median(candidates[self.candidate][self.key])
        if self.against is None:
            return figure, None, figure
        other = statistics.median(candidates[self.against][self.key])
        return figure, other, figure - other if self.is_difference else figure / other


TARGETS = [
    Target("one link, bulk, AEGIS-256, CPU s/GB", "test_link", AEGIS, "cpu_s_per_gb", 0.6, against=UVLOOP),
    Target("same", "test_link", AEGIS, "cpu_s_per_gb", 0.35, against=ASYNCIO),
    Target("same, ChaCha20-Poly1305", "test_link", CHACHA, "cpu_s_per_gb", 1.0, against=UVLOOP),
    Target("relay process alone, CPU s/GB", "test_relay", AEGIS, "relay_cpu_s_per_gb", 2.2, against=FORWARDER),
    Target("same, its loop thread, Python spinning", "test_relay", SPINNING, "loop_cpu_s_per_gb", 1.1, against=AEGIS),
    Target("round trip p50, 64 B, µs", "test_ping", AEGIS, "p50_us", 1.8, against=UVLOOP),
    Target("connect + handshake + close, CPU ms", "test_handshake", AEGIS, "cpu_ms_per_handshake", 0.6, against=UVLOOP),
    Target("idle session, server side, bytes", "test_memory", AEGIS, "bytes_per_idle_session", 8192, "B"),
    Target("idle node, resident MB", "test_memory", AEGIS, "idle_resident_mb", 45, "MB"),
    Target("`import qg`, CPU ms", "test_import", IMPORT, "cpu_ms", 80, "ms above", BARE, is_difference=True),
    Target("`qg --help`, CPU ms", "test_import", HELP, "cpu_ms", 120, "ms above", BARE, is_difference=True),
]  # fmt: skip


def benchmarks_run() -> Figures:
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "--benchmark-quiet", f"--benchmark-json={RECORD}"]
    subprocess.run(command, cwd=ROOT, check=True)
    return {work["name"]: work["extra_info"]["figures"] for work in json.loads(RECORD.read_text())["benchmarks"]}


def stolen_s() -> tuple[float, float]:
    """Seconds that the hypervisor took from this machine, and all seconds of all its cores, since it started."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return ticks[7] * tick_s, sum(ticks) * tick_s


def processor_name() -> str:
    names = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def distribution_version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} of this tree" if importlib.util.find_spec(name) else f"no {name}"


def machine_facts() -> list[str]:
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return [
        f"{os.cpu_count()} × {processor_name()}, {memory_gb:.0f} GB, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}",
        f"{distribution_version('uvloop')}, {distribution_version('qg')}",
        f"load when it began: {os.getloadavg()[0]:.2f}",
    ]


def short(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}"


def rows_text(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]]


def target_row(target: Target, figures: Figures) -> list[str]:
    reached = target.reached(figures)
    limit = f"{short(target.limit)} {target.unit}"
    if reached is None:
        return [target.work, "–", target.against or "–", "–", limit, "not measured"]
    figure, other, compared = reached
    against = f"{target.against}: {short(other)}" if target.against else "–"
    verdict = "reached" if compared <= target.limit else "**missed**"
    return [target.work, short(figure), against, f"{short(compared)} {target.unit}", limit, verdict]


def figure_rows(figures: Figures) -> list[list[str]]:
    return [
        [work, candidate, key, short(statistics.median(rounds)), f"{short(min(rounds))} … {short(max(rounds))}"]
        for work, candidates in figures.items()
        for candidate, keys in candidates.items()
        for key, rounds in keys.items()
    ]


def text_make(figures: Figures, facts: list[str]) -> str:
    lines = [f"* {fact}" for fact in facts] + [""]
    lines += rows_text(["work", "qg", "against", "is", "at most", ""], [target_row(row, figures) for row in TARGETS])
    lines += ["", "All figures, median and range of the rounds:", ""]
    lines += rows_text(FIGURES_HEADER, figure_rows(figures))
    return "\n".join(lines)


def page_write(text: str) -> None:
    page = PAGE.read_text() if PAGE.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    facts, (stolen_before_s, all_before_s) = machine_facts(), stolen_s()
    figures = benchmarks_run()
    stolen_after_s, all_after_s = stolen_s()
    share = (stolen_after_s - stolen_before_s) / (all_after_s - all_before_s)
    text = text_make(figures, [*facts, f"taken by the hypervisor during the run: {share:.1%}"])
    page_write(text)
    print(text)


if __name__ == "__main__":
    main()
