# SPDX-License-Identifier: MIT
"""What the tests of native extenders share: a compiler, its options, and a stream that is filled while it is read."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

import qg

SOURCE = Path(__file__).with_name("native_service.c")
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
COMPILE = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-fPIC", "-pthread"]


def compiler_find():
    path = shutil.which("cc")
    if path is None:
        pytest.skip("there is no C compiler")
    return path


async def exchange(stream, data):
    """Write everything and finish, while all that comes back is read."""

    async def send():
        await stream.write(data)
        stream.finish()

    sending = asyncio.create_task(send())
    got = await stream.read()
    await sending
    return got


def declarations():
    """What the header declares, as cffi reads it: without lines for the preprocessor and inline functions."""
    text = Path(qg.get_include(), "qg/extender.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r'^#.*$|^extern "C" \{$|^\}$', "", text, flags=re.MULTILINE)
    return re.sub(r"^static inline [^{]*\{[^}]*\}?", "", text, flags=re.MULTILINE)
