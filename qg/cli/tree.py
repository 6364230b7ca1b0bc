# SPDX-License-Identifier: MIT
"""One digest of a whole tree of files, computed from a folder or from a tar archive of it."""

import hashlib
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def _entries_digest(entries: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Count entries of name and content, and hash them in the order of their names."""
    ordered = sorted(entries)
    digest = hashlib.sha256("".join(f"{name}\0{content}\0" for name, content in ordered).encode()).hexdigest()
    return {"n_files": len(ordered), "digest": digest}


def tree_digest(path: Path) -> dict[str, Any]:
    """Digest the files and symbolic links below a folder; their names begin with the folder's own."""
    files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    return _entries_digest((str(file.relative_to(path.parent)), _file_content(file)) for file in files)


def _file_content(file: Path) -> str:
    if file.is_symlink():
        return f"-> {os.readlink(file)}"
    with open(file, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def tar_digest(path: Path) -> dict[str, Any]:
    """Digest a tar archive as `tree_digest` does what was packed into it."""
    with tarfile.open(path) as tar:
        return _entries_digest((member.name, _member_content(tar, member)) for member in tar if not member.isdir())


def _member_content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    if member.issym():
        return f"-> {member.linkname}"
    source = tar.extractfile(member)  # follows hard links inside the archive
    assert source
    return hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]
