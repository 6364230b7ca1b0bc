# SPDX-License-Identifier: MIT
"""The examples of native extenders, that of the folder and that of the page, build and run as they stand there."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ext.native_support import COMPILE, WARNINGS, compiler_find, exchange
from net.support import LISTEN

import qg

pytestmark = [pytest.mark.net, pytest.mark.anyio]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/native_extender"


def test_the_example_builds_and_counts_its_own_page(tmp_path):
    pytest.importorskip("Cython")
    compiler_find()
    folder = tmp_path / "native_extender"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("build", "*.c", "*.so", "__pycache__"))
    page = (folder / "README.md").read_text()
    (commands,) = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (bin_folder / "python").chmod(0o755)
    home = str(Path(qg.__file__).parents[1])
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": home}
    environment.pop("PYTHONSAFEPATH", None)  # a script finds what lies beside it
    run = subprocess.run(["sh", "-ec", commands], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    expected = f"{page.count(chr(10))} {len(page.split())} {len(page.encode())}"
    assert run.stdout.splitlines()[-1] == expected


async def test_the_echo_of_the_page_is_one(tmp_path):
    (echo,) = re.findall(r"^```c\n(.*?)^```", (ROOT / "docs/extenders.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "echo.c").write_text(echo)
    command = [compiler_find(), *COMPILE, *WARNINGS, "-Wno-unused-parameter", "-shared", "-I", qg.get_include()]
    subprocess.run([*command, str(tmp_path / "echo.c"), "-o", str(tmp_path / "echo.so")], check=True)
    table = ctypes.addressof(ctypes.c_char.in_dll(ctypes.CDLL(str(tmp_path / "echo.so")), "echo"))
    extender = qg.NativeExtender("5a1c8a3e-9d0b-4f0e-8a57-3f5f1e0c7b12", table)
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[extender]) as node,
        qg.Node(qg.Identity.generate()) as caller,
    ):
        peer = await caller.connect(node.address)
        data = os.urandom(3_000_000)
        assert await exchange(await peer.open_stream(extender.id), data) == data
