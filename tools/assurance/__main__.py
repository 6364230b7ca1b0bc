# SPDX-License-Identifier: MIT
"""Run all checks that take minutes and write what they reached into docs/assurance.md: `tools/dev assurance [NAME...]`.

A check is a module or package here. With names only these are run, and the page keeps what it had of the others.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.assurance import ROOT

FOLDER = Path(__file__).parent
PAGE = ROOT / "docs" / "assurance.md"
RESULTS = ROOT / "build" / "assurance.json"  # what each check reached when it was run last
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
LIMIT_S = 3 * 3600


def checks_list() -> list[str]:
    """Name the checks."""
    files = [path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")]
    return sorted(files + [path.parent.name for path in FOLDER.glob("*/__main__.py")])


def check_run(name: str) -> dict[str, Any]:
    """Run a check, whose output is shown as it comes, and give what its last line says."""
    command = [sys.executable, "-m", f"tools.assurance.{name}"]
    print(f"== {name}", flush=True)
    began_s, last = time.monotonic(), ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
        code = process.wait(LIMIT_S)
    try:
        result: dict[str, Any] = json.loads(last)
    except ValueError:
        result = {"check": name, "passed": False, "error": f"it ended with {code} and without figures"}
    took = {"seconds": round(time.monotonic() - began_s), "date": datetime.now(UTC).date().isoformat()}
    return result | took | {"passed": result["passed"] is True and code == 0}


def page_write(results: dict[str, dict[str, Any]]) -> None:
    """Put the results between the marks of the page."""
    rows = ["| check | | figures | took | date |", "| --- | --- | --- | --- | --- |"]
    for name, result in sorted(results.items()):
        figures = {k: v for k, v in result.items() if k not in ("check", "passed", "seconds", "date")}
        told = ", ".join(f"{key} {json.dumps(value)}" for key, value in figures.items())
        word = "passed" if result["passed"] else "**failed**"
        rows.append(f"| `{name}` | {word} | {told} | {result['seconds']} s | {result['date']} |")
    text = f"{BEGIN}\n{chr(10).join(rows)}\n{END}"
    PAGE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: text, PAGE.read_text(), flags=re.DOTALL))


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/dev assurance", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(checks_list())}; without: all of them")
    names = parser.parse_args().names or checks_list()
    if unknown := set(names) - set(checks_list()):
        parser.error(f"there is no check {', '.join(sorted(unknown))}")
    RESULTS.parent.mkdir(exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names:
        results[name] = check_run(name)
        RESULTS.write_text(json.dumps(results))
        page_write(results)
    failed = [name for name in names if not results[name]["passed"]]
    print(f"{len(names) - len(failed)} of {len(names)} checks passed{': not ' * bool(failed)}{', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
