# SPDX-License-Identifier: MIT
"""Build what runs the core's functions on secrets that Valgrind takes for undefined, and run it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.assurance import ROOT, finish, programs_install
from tools.native import folder_lock

HERE = Path(__file__).parent
BUILD = ROOT / "build" / "secrecy"
SETUP = """
from setuptools import Extension, setup
from Cython.Build import cythonize
names = ("opened", "undefined")
extensions = [Extension(name, [f"{name}.pyx"], extra_compile_args=["-O1", "-g"]) for name in names]
setup(name="secrecy", ext_modules=cythonize(extensions, quiet=True))
"""


def build_make() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "setup.py").write_text(SETUP)
    for name in ("opened.pyx", "undefined.pyx", "watched.py"):
        shutil.copy2(HERE / name, BUILD)
    run = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(run, cwd=BUILD, check=True, env=environment(), stdout=subprocess.DEVNULL)


def environment() -> dict[str, str]:
    """Python's own allocator hides from Valgrind where memory is undefined; this library is its alone."""
    paths = os.pathsep.join([str(ROOT), str(BUILD)])
    return os.environ | {"PYTHONPATH": paths, "PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"}


def errors_count() -> dict[str, dict[str, int]]:
    valgrind = ["valgrind", "-q", f"--suppressions={HERE / 'public.supp'}", f"--log-file={BUILD / 'valgrind.log'}"]
    run = [*valgrind, sys.executable, str(BUILD / "watched.py")]
    watched = subprocess.run(run, check=True, env=environment(), stdout=subprocess.PIPE, timeout=600)
    found: dict[str, dict[str, int]] = json.loads(watched.stdout.splitlines()[-1])
    return found


def main() -> None:
    programs_install(valgrind="valgrind")
    with folder_lock(BUILD / "lock"):
        build_make()
        found = errors_count()
    passed = not any(found["errors"].values()) and all(found["planted"].values())
    finish("secrecy", passed, **found, log=str((BUILD / "valgrind.log").relative_to(ROOT)))


if __name__ == "__main__":
    main()
