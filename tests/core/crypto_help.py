# SPDX-License-Identifier: MIT
"""Status codes by name, third-party vector files, and a deterministic source of test bytes."""

import hashlib
import json
import os
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SHARED = pathlib.Path(os.environ.get("QG_SHARED", ROOT / ".." / "shared"))


class _Status:
    """The codes of `qg/_core/status.pxd`, read from the file that the compiler reads."""

    def __init__(self):
        text = (ROOT / "qg" / "_core" / "status.pxd").read_text("utf-8")
        for name, value in re.findall(r"^ {4}((?:OK|E_\w+|NEED_\w+)) = (-?\d+)", text, re.MULTILINE):
            setattr(self, name, int(value))


status = _Status()


def vectors_path(name, sha256):
    """Return the path of a file of vectors; skip where it is absent, fail where it is not the one named."""
    path = SHARED / "vectors" / name
    if not path.exists():
        pytest.skip(f"third-party vectors {name} are absent: point QG_SHARED to the folder that holds vectors/")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256, f"{name} is not the file this test was written for"
    return path


def vectors_load(name, sha256):
    """Return the parsed content of a file of vectors."""
    return json.loads(vectors_path(name, sha256).read_bytes())


def fixed_bytes(label, length):
    """Return `length` bytes that depend on the label only."""
    return hashlib.shake_256(label.encode()).digest(length)
