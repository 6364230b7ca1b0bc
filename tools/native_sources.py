# SPDX-License-Identifier: MIT
"""Where the source of libsodium and libuv comes from, and how it is verified.

Tried in this order: a folder named by `QG_NATIVE_SOURCES`; the upstream release archive (pinned sha256); the
distribution's source package of any version that is new enough (its signature is checked by apt); for libuv the
source distribution of uvloop, which bundles it (pinned sha256). Nothing here needs root. A source that cannot be
reached is left within `UNREACHABLE_S`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

UNREACHABLE_S = 10.0  # nothing heard from a source for this long: try the next one
DOWNLOAD_S = 300.0  # a source that does answer may take this long in all


class NativeError(Exception):
    """What could not be fetched or built, and what to do about it."""


class SourceError(NativeError):
    """One source did not deliver; the next one is tried."""


@dataclass(frozen=True)
class Source:
    """One native library: its pin, the least version that will do, and how to recognise it."""

    name: str
    version: str
    minimum: str
    url: str
    sha256: str
    patterns: tuple[str, ...]  # archive names accepted in QG_NATIVE_SOURCES
    debian_name: str
    landmark: str  # a path that only the root of the library's source has
    version_file: str
    version_pattern: str
    bundle: tuple[str, str, str] | None = None  # a Python source distribution that holds it: name, version, sha256

    def version_read(self, root: Path) -> str:
        """Return the version that the unpacked source in `root` states."""
        found = re.findall(self.version_pattern, (root / self.version_file).read_text())
        return ".".join(found)


LIBSODIUM = Source(
    name="libsodium",
    version="1.0.22",
    minimum="1.0.22",
    url="https://github.com/jedisct1/libsodium/archive/refs/tags/1.0.22-RELEASE.tar.gz",
    sha256="5838bb0c3da6148c24ebe531d1ed1297de9a87aea77d426bcd99f289e681631c",
    patterns=("libsodium-*.tar.*", "libsodium_*.orig.tar.*"),
    debian_name="libsodium",
    landmark="src/libsodium/include/sodium.h",
    version_file="configure",
    version_pattern=r"(?m)^PACKAGE_VERSION='([^']+)'",
)
LIBUV = Source(
    name="libuv",
    version="1.52.1",
    minimum="1.44",
    url="https://dist.libuv.org/dist/v1.52.1/libuv-v1.52.1.tar.gz",
    sha256="66d511b9e6e334c0e62279eb234fbfb2b3110b1479c09b95b44c7afca8cff9e7",
    patterns=("libuv-*.tar.*", "libuv1_*.orig.tar.*", "uvloop-*.tar.gz"),
    debian_name="libuv1",
    landmark="include/uv/version.h",
    version_file="include/uv/version.h",
    version_pattern=r"define UV_VERSION_(?:MAJOR|MINOR|PATCH)\s+(\d+)",
    bundle=("uvloop", "0.23.0", "28d160f51ab4da3b187063652e643dea6831072add4adc1e6d62afbe73b6be27"),
)


def archive_fetch(source: Source, cache: Path, say: Callable[[str], None]) -> Path:
    """Return the archive of `source`, from the user's folder, the cache or the network."""
    if folder := os.environ.get("QG_NATIVE_SOURCES"):
        if found := archives_in(Path(folder), source):
            return found[-1]
        say(f"QG_NATIVE_SOURCES={folder} holds no {' or '.join(source.patterns)}")
    home = cache / f"{source.name}-{source.version}"
    if found := archives_in(home, source):
        return found[-1]
    ways = [("upstream", upstream_fetch), ("the distribution's source package", distribution_fetch)]
    if source.bundle:
        ways.append((f"the source of {source.bundle[0]} {source.bundle[1]}", bundle_fetch))
    reasons = []
    home.mkdir(parents=True, exist_ok=True)
    for label, fetch in ways:
        say(f"fetching {source.name} from {label}")
        with tempfile.TemporaryDirectory(dir=home) as work:
            try:
                archive = fetch(source, Path(work))
            except SourceError as error:
                reasons.append(f"  {label}: {error}")
                say(f"{label}: {error}")
                continue
            return archive.rename(home / archive.name)
    raise NativeError(
        f"{source.name} {source.minimum} or newer could not be fetched:\n" + "\n".join(reasons) + "\n"
        f"Put its archive ({source.patterns[0]}) into a folder and name that folder in QG_NATIVE_SOURCES"
    )


def archives_in(folder: Path, source: Source) -> list[Path]:
    return sorted(path for pattern in source.patterns for path in folder.glob(pattern) if path.is_file())


def sources_fingerprint() -> list[str]:
    """Name what QG_NATIVE_SOURCES offers, so that other sources mean another build."""
    folder = os.environ.get("QG_NATIVE_SOURCES")
    if not folder:
        return []
    archives = archives_in(Path(folder), LIBSODIUM) + archives_in(Path(folder), LIBUV)
    return [f"{path.name} {file_sha256(path)}" for path in archives]


def upstream_fetch(source: Source, work: Path) -> Path:
    archive = work / f"{source.name}-{source.version}.tar.gz"
    url_download(source.url, archive)
    sha256_check(archive, source.sha256)
    return archive


def url_download(url: str, path: Path) -> None:
    """Download `url`, and leave a host that says nothing, name lookup included, after UNREACHABLE_S."""
    failure: list[Exception] = []
    answered = threading.Event()
    done = threading.Event()

    def download() -> None:
        try:
            with urllib.request.urlopen(url, timeout=UNREACHABLE_S) as reply, path.open("wb") as file:
                answered.set()
                shutil.copyfileobj(reply, file)
        except (OSError, ValueError) as error:
            failure.append(error)
        answered.set()
        done.set()

    # A thread, since no timeout of urllib covers the name lookup.
    threading.Thread(target=download, daemon=True).start()
    if not answered.wait(UNREACHABLE_S):
        raise SourceError(f"no answer within {UNREACHABLE_S:.0f} s")
    if not done.wait(DOWNLOAD_S):
        raise SourceError(f"not finished within {DOWNLOAD_S:.0f} s")
    if failure:
        raise SourceError(str(failure[0]))


def sha256_check(path: Path, expected: str) -> None:
    actual = file_sha256(path)
    if actual != expected:
        raise SourceError(f"{path.name} has sha256 {actual}, expected {expected}: not used")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def distribution_fetch(source: Source, work: Path) -> Path:
    """Fetch a source package of Debian or Ubuntu by a private apt configuration; apt checks the signature."""
    if not shutil.which("apt-get"):
        raise SourceError("apt-get is not here")
    line = source_list_line()
    (work / "sources.list").write_text(line + "\n")
    (work / "status").touch()
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    # The machine's other settings of apt (proxies, certificates) stay in force. An old index is no danger here, since
    # the least version is checked; the signature is verified whatever its age.
    options = {
        "Dir::Etc::SourceList": work / "sources.list", "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": work / "state", "Dir::State::Status": work / "status", "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "", "Acquire::Check-Valid-Until": "false", "Acquire::Languages": "none",
        "Acquire::Retries": "0", "Acquire::http::Timeout": int(UNREACHABLE_S),
        "Acquire::https::Timeout": int(UNREACHABLE_S),
    }  # fmt: skip
    command = ["apt-get", "-qq"] + [f"-o{name}={value}" for name, value in options.items()]
    watched_run([*command, "update"], work, work / "state" / "lists")
    watched_run([*command, "source", "--download-only", source.debian_name], work, work)
    if not (found := archives_in(work, source)):
        raise SourceError("the package holds no original archive")
    return found[-1]


def source_list_line() -> str:
    """Return the apt line of the newest suite of this distribution, on the mirror that this machine uses."""
    release = dict(re.findall(r'(?m)^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text()))
    suites = {"debian": "sid", "ubuntu": "devel"}
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    distribution = next((name for name in names if name in suites), None)
    if distribution is None:
        raise SourceError(f"{release.get('ID', 'this system')} is neither Debian nor Ubuntu")
    keyring = Path(f"/usr/share/keyrings/{distribution}-archive-keyring.gpg")
    if not keyring.exists():
        raise SourceError(f"{keyring} is missing")
    return f"deb-src [signed-by={keyring}] {mirror_find(distribution)} {suites[distribution]} main"


def mirror_find(distribution: str) -> str:
    """Return the mirror of `distribution` named in /etc/apt, from classic lines or deb822 stanzas."""
    etc = Path("/etc/apt")
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    files += sorted((etc / "sources.list.d").glob("*.sources"))
    mirrors: list[str] = []
    for file in files:
        text = file.read_text() if file.exists() else ""
        mirrors += re.findall(r"(?m)^\s*deb(?:-src)?\s+(?:\[[^]]*\]\s+)?(\S+)", text)
        for line in re.findall(r"(?mi)^URIs:\s*(.+)$", text):
            mirrors += line.split()
    for mirror in mirrors:
        if mirror.rstrip("/").endswith("/" + distribution):  # not the security archive, not another vendor's
            return mirror
    raise SourceError(f"no mirror of {distribution} in {etc}")


def watched_run(command: list[str], work: Path, progress: Path) -> None:
    """Run apt in `work`, and kill it when `progress` holds nothing after UNREACHABLE_S."""
    with (work / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=work, stdout=log, stderr=subprocess.STDOUT)
        start = time.monotonic()
        n_before = bytes_below(progress)
        while True:
            try:
                process.wait(0.2)
                break
            except subprocess.TimeoutExpired:
                passed = time.monotonic() - start
                if passed > DOWNLOAD_S or (passed > UNREACHABLE_S and bytes_below(progress) == n_before):
                    process.kill()
                    process.wait()
                    raise SourceError(f"apt-get {command[-1]}: no answer within {passed:.0f} s") from None
        log.seek(0)
        text = log.read().strip()
    errors = re.findall(r"(?m)^(?:E|Err): ?(.*)$", text)
    if process.returncode or errors:
        raise SourceError((errors or text.splitlines() or ["apt-get failed"])[-1])


def bytes_below(folder: Path) -> int:
    """Sum the sizes of the files in `folder`, apt's log left out."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # apt renames while we look
            total += path.stat().st_size if path.is_file() and path.name != "log" else 0
    return total


def bundle_fetch(source: Source, work: Path) -> Path:
    """Fetch the Python source distribution that bundles the library."""
    assert source.bundle is not None
    name, version, sha256 = source.bundle
    # -I: within pip's isolated build the path hides pip itself.
    command = [sys.executable, "-I", "-m", "pip", "-q", "download", "--no-deps", "--no-binary", name, "--retries", "1",
               "--dest", str(work), f"{name}=={version}"]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key not in ("PIP_REQUIRE_VIRTUALENV",)}
    try:
        reply = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_S, env=environment)
    except subprocess.TimeoutExpired:
        raise SourceError(f"not finished within {DOWNLOAD_S:.0f} s") from None
    if reply.returncode:
        raise SourceError((reply.stderr.strip().splitlines() or ["pip failed"])[-1])
    archive = work / f"{name}-{version}.tar.gz"
    sha256_check(archive, sha256)
    return archive
