# SPDX-License-Identifier: MIT
"""Fetch and build libsodium and libuv once per machine, linked into one shared object, `libqg_native`.

Used by `setup.py`; `python tools/native.py` builds (or finds) them and prints where they are.

The result lives under `$XDG_CACHE_HOME/qg/native/<key>`, where the key covers the pinned versions, the flags, the
compiler and the platform. Builds run in a folder of their own and are renamed into place under a lock, so any number
of builds may run at once and none ever sees half a result.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from native_sources import LIBSODIUM, LIBUV, NativeError, Source, archive_fetch, sources_fingerprint

REVISION = 3  # raise when the way of building changes
N_JOBS = 2
IS_MACOS = sys.platform == "darwin"
LIBRARY_NAME = "libqg_native.dylib" if IS_MACOS else "libqg_native.so"
LICENSES_NAME = "libqg_native.LICENSE"  # what is linked in demands that its licence goes with it
EXPORTS = ("crypto_*", "sodium_*", "randombytes", "randombytes_*", "uv_*")

# -O3 is not taste: at -O2 libsodium's AES-256-GCM runs at half its speed. Never -march=native: libsodium chooses its
# code by the CPU it finds at run time.
RELEASE_CFLAGS = ("-O3", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-fstack-protector-strong")
SANITIZE_CFLAGS = ("-O1", "-g", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-fno-omit-frame-pointer",
                   "-fsanitize=address")  # fmt: skip
LDFLAGS = () if IS_MACOS else ("-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack")

UV_SOURCES = """fs-poll idna inet random strscpy strtok thread-common threadpool timer uv-common
    uv-data-getter-setters version unix/async unix/core unix/dl unix/fs unix/getaddrinfo unix/getnameinfo
    unix/loop-watcher unix/loop unix/pipe unix/poll unix/process unix/random-devurandom unix/signal unix/stream
    unix/tcp unix/thread unix/tty unix/udp unix/proctitle""".split()
UV_PLATFORM_SOURCES = {
    "linux": "unix/linux unix/procfs-exepath unix/random-getrandom unix/random-sysctl-linux",
    "darwin": "unix/bsd-ifaddrs unix/kqueue unix/random-getentropy unix/darwin-proctitle unix/darwin unix/fsevents",
}
UV_DEFINES = ("-D_FILE_OFFSET_BITS=64", "-D_LARGEFILE_SOURCE")
UV_PLATFORM_DEFINES = {
    "linux": ("-D_GNU_SOURCE", "-D_POSIX_C_SOURCE=200112"),
    "darwin": ("-D_DARWIN_UNLIMITED_SELECT=1", "-D_DARWIN_USE_64_BIT_INODE=1"),
}


@dataclass(frozen=True)
class Native:
    """Where the built libraries are, and what they were built from."""

    include_dirs: tuple[str, ...]
    library: Path | None  # None: the system's own libraries are linked directly
    link_flags: tuple[str, ...]
    libsodium_version: str
    libuv_version: str
    cflags: tuple[str, ...]
    compiler: str


def cache_dir() -> Path:
    """Return the folder that holds sources and builds for this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qg"


def compiler_command() -> list[str]:
    """Return the C compiler that also builds the extension modules."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def compiler_version() -> str:
    command = compiler_command()
    try:
        reply = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NativeError(
            f"no C compiler: {command[0]!r} does not run. Install one (Debian, Ubuntu: apt-get install build-essential)"
        ) from error
    return reply.stdout.splitlines()[0]


def native_get(*, sanitize: bool = False) -> Native:
    """Return the native libraries, building them unless this machine has them already."""
    if os.environ.get("QG_LIBS") == "system":
        return system_libraries()
    cflags = SANITIZE_CFLAGS if sanitize else RELEASE_CFLAGS
    compiler = compiler_version()
    identity = [REVISION, LIBSODIUM.version, LIBUV.version, cflags, LDFLAGS, compiler, sys.platform,
                platform.machine(), sources_fingerprint()]  # fmt: skip
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    home = cache_dir() / "native" / key
    if not (home / "build.json").exists():
        with folder_lock(cache_dir() / f"native-{key}.lock"):
            if not (home / "build.json").exists():
                build_into(home, cflags)
    built = json.loads((home / "build.json").read_text())
    return Native(
        include_dirs=(str(home / "include"),),
        library=home / "lib" / LIBRARY_NAME,
        link_flags=(),
        libsodium_version=built["libsodium"],
        libuv_version=built["libuv"],
        cflags=cflags,
        compiler=compiler,
    )


@contextlib.contextmanager
def folder_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` between processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_into(home: Path, cflags: tuple[str, ...]) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="build-") as name:
        work = Path(name)
        result = work / "result"
        (result / "lib").mkdir(parents=True)
        sodium_root, uv_root = source_unpack(LIBSODIUM, work), source_unpack(LIBUV, work)
        archives = [sodium_build(sodium_root, result, cflags), uv_build(uv_root, result, cflags)]
        library_link(result / "lib" / LIBRARY_NAME, archives, work, cflags)
        licenses = [f"{name}\n\n{(root / 'LICENSE').read_text()}"
                    for name, root in (("libsodium", sodium_root), ("libuv", uv_root))]  # fmt: skip
        (result / "lib" / LICENSES_NAME).write_text("\n\n".join(licenses))
        versions = {"libsodium": sodium_version(result / "include"), "libuv": uv_version(result / "include")}
        (result / "build.json").write_text(json.dumps(versions))
        shutil.rmtree(home, ignore_errors=True)
        result.rename(home)


def source_unpack(source: Source, work: Path) -> Path:
    """Unpack the archive of `source` and return the library's own root in it."""
    archive = archive_fetch(source, cache_dir() / "sources", say)
    folder = work / source.name
    folder.mkdir()
    run(["tar", "-xf", str(archive), "-C", str(folder), "--no-same-owner"], "unpack " + archive.name)
    for path in sorted(folder.rglob(source.landmark)):
        root = path.parents[len(Path(source.landmark).parts) - 1]
        version = source.version_read(root)
        if version_tuple(version) < version_tuple(source.minimum):
            raise NativeError(f"{archive} holds {source.name} {version}; {source.minimum} or newer is needed")
        say(f"building {source.name} {version}")
        return root
    raise NativeError(f"{archive} does not hold {source.name} ({source.landmark} is missing)")


def sodium_build(root: Path, result: Path, cflags: tuple[str, ...]) -> Path:
    prefix = root / "installed"
    options = ["--quiet", "--disable-shared", "--enable-static", "--with-pic", "--disable-dependency-tracking",
               f"--prefix={prefix}", f"--libdir={prefix}/lib", "CC=" + shlex.join(compiler_command()),
               "CFLAGS=" + shlex.join(cflags)]  # fmt: skip
    # An archive's time stamps may make `make` believe that configure is old; there is nothing to regenerate here.
    idle = [f"{tool}=:" for tool in ("ACLOCAL", "AUTOCONF", "AUTOMAKE", "AUTOHEADER", "MAKEINFO")]
    run(["sh", "./configure", *options], "configure libsodium", root)
    run(["make", "-s", f"-j{N_JOBS}", "-C", "src/libsodium", "install", *idle], "compile libsodium", root)
    shutil.copytree(prefix / "include", result / "include", dirs_exist_ok=True)
    return prefix / "lib" / "libsodium.a"


def uv_build(root: Path, result: Path, cflags: tuple[str, ...]) -> Path:
    """Compile libuv's files directly: no cmake, no autotools."""
    wanted = UV_SOURCES + UV_PLATFORM_SOURCES[sys.platform].split()
    names = [name for name in wanted if (root / f"src/{name}.c").exists()]  # older ones have fewer files
    flags = [*cflags, "-std=gnu11", "-w", *UV_DEFINES, *UV_PLATFORM_DEFINES[sys.platform], "-Iinclude", "-Isrc"]
    objects = [f"{name.replace('/', '-')}.o" for name in names]

    def compile_one(name: str, object_name: str) -> None:
        run([*compiler_command(), *flags, "-c", f"src/{name}.c", "-o", object_name], f"compile libuv {name}.c", root)

    with ThreadPoolExecutor(N_JOBS) as pool:
        list(pool.map(compile_one, names, objects))
    run(["ar", "rcs", "libuv.a", *objects], "archive libuv", root)
    shutil.copytree(root / "include", result / "include", dirs_exist_ok=True)
    return root / "libuv.a"


def library_link(library: Path, archives: list[Path], work: Path, cflags: tuple[str, ...]) -> None:
    """Link both archives into one library that exports nothing but their public names."""
    exports = work / "exports"
    command = [*compiler_command(), *cflags]
    if IS_MACOS:
        exports.write_text("".join(f"_{pattern}\n" for pattern in EXPORTS))
        command += ["-dynamiclib", f"-Wl,-install_name,@rpath/{LIBRARY_NAME}"]
        command += [f"-Wl,-exported_symbols_list,{exports}"] + [f"-Wl,-force_load,{path}" for path in archives]
    else:
        exports.write_text("{ global: " + " ".join(f"{pattern};" for pattern in EXPORTS) + " local: *; };\n")
        command += ["-shared", f"-Wl,-soname,{LIBRARY_NAME}", "-Wl,-Bsymbolic", f"-Wl,--version-script={exports}"]
        command += [*LDFLAGS, "-Wl,--whole-archive", *map(str, archives), "-Wl,--no-whole-archive"]
        command += ["-lpthread", "-ldl", "-lrt"]
    run([*command, "-o", str(library)], "link " + LIBRARY_NAME)


def sodium_version(include: Path) -> str:
    return header_search(include / "sodium" / "version.h", r'SODIUM_VERSION_STRING\s+"([^"]+)"')[0]


def uv_version(include: Path) -> str:
    header = include / "uv" / "version.h"
    return ".".join(header_search(header, rf"UV_VERSION_{part}\s+(\d+)")[0] for part in ("MAJOR", "MINOR", "PATCH"))


def header_search(header: Path, pattern: str) -> list[str]:
    found = re.findall(pattern, header.read_text())
    if not found:
        raise NativeError(f"{header}: no match for {pattern}")
    return list(found)


def version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def system_libraries() -> Native:
    """Return the system's own libraries by pkg-config, or refuse them."""
    versions = {}
    for source, package in ((LIBSODIUM, "libsodium"), (LIBUV, "libuv")):
        version = pkg_config("--modversion", package)
        if version_tuple(version) < version_tuple(source.minimum):
            raise NativeError(
                f"QG_LIBS=system: {package} {version} is too old, {source.minimum} or newer is needed. "
                "Install a newer one, or unset QG_LIBS to build a pinned one from source"
            )
        versions[package] = version
    includes = shlex.split(pkg_config("--cflags-only-I", "libsodium", "libuv"))
    return Native(
        include_dirs=tuple(flag.removeprefix("-I") for flag in includes),
        library=None,
        link_flags=tuple(shlex.split(pkg_config("--libs", "libsodium", "libuv"))),
        libsodium_version=versions["libsodium"],
        libuv_version=versions["libuv"],
        cflags=(),
        compiler=compiler_version(),
    )


def pkg_config(option: str, *packages: str) -> str:
    try:
        reply = subprocess.run(["pkg-config", option, *packages], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise NativeError("QG_LIBS=system needs pkg-config (Debian, Ubuntu: apt-get install pkg-config)") from error
    except subprocess.CalledProcessError as error:
        raise NativeError(
            f"QG_LIBS=system: pkg-config {option} {' '.join(packages)}: {error.stderr.strip()}"
        ) from error
    return reply.stdout.strip()


def run(command: list[str], what: str, folder: Path | None = None) -> None:
    """Run one build step quietly; on failure raise with the end of what it said."""
    try:
        reply = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError as error:
        raise NativeError(
            f"cannot {what}: {command[0]!r} is not installed (Debian, Ubuntu: apt-get install build-essential)"
        ) from error
    if reply.returncode:
        raise NativeError(f"cannot {what}: {shlex.join(command)}\n" + "\n".join(reply.stdout.splitlines()[-25:]))


def say(message: str) -> None:
    print(f"native: {message}", file=sys.stderr, flush=True)


def main(announce: Callable[[str], None] = print) -> int:
    try:
        native = native_get(sanitize=os.environ.get("QG_SANITIZE") == "1")
    except NativeError as error:
        print(f"native: {error}", file=sys.stderr)
        return 1
    announce(f"library  {native.library or shlex.join(native.link_flags)}")
    announce(f"include  {' '.join(native.include_dirs)}")
    announce(f"versions libsodium {native.libsodium_version}, libuv {native.libuv_version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
