# SPDX-License-Identifier: MIT
"""Checks that take minutes, each a module: `python -m tools.assurance.NAME` from the root of the sources.

The last line that each prints is one JSON object: its name, whether it passed, the figures it reached.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # what makes flights and probes stands there


def programs_install(**packages: str) -> None:
    """Install the Debian packages of commands that are not here; raises SystemExit where that is not possible."""
    missing = sorted({package for command, package in packages.items() if not shutil.which(command)})
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit(f"not here: {' '.join(missing)}; install them with: apt-get install {' '.join(missing)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "-qq", "update"], check=True, stdout=subprocess.DEVNULL)
    install = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *missing]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL, env=environment)


def finish(check: str, passed: bool, **figures: object) -> NoReturn:
    """Print the figures, and end with 0 if the check has passed."""
    print(json.dumps({"check": check, "passed": passed} | figures))
    raise SystemExit(0 if passed else 1)
