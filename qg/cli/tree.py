# SPDX-License-Identifier: MIT
"""One digest of a whole tree of files."""

import hashlib
import os
from pathlib import Path
from typing import Any


def tree_digest(path: Path) -> dict[str, Any]:
    """Count and digest the files and symbolic links below a folder; their names begin with the folder's own."""
    files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    entries = sorted((str(file.relative_to(path.parent)), _file_content(file)) for file in files)
    digest = hashlib.sha256("".join(f"{name}\0{content}\0" for name, content in entries).encode()).hexdigest()
    return {"n_files": len(entries), "digest": digest}


def _file_content(file: Path) -> str:
    if file.is_symlink():
        return f"-> {os.readlink(file)}"
    with open(file, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
