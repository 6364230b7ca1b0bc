# SPDX-License-Identifier: MIT
"""Build the compiled core: every `qg/_core/*.pyx` becomes one extension module on `libqg_native`.

Switches (environment): QG_LIBS=system links the system's libsodium and libuv; QG_DEBUG=1 checks bounds, asserts and
keeps symbols; QG_SANITIZE=1 adds ASan and UBSan; QG_FUZZ=1 adds them and tells a fuzzer which branches were taken, with
clang; QG_TEST=1 compiles what only benchmarks may have, a null cipher;
QG_NATIVE_SOURCES names a folder with the archives of both libraries.

`python setup.py build_ext --inplace` rebuilds only what changed. Two builds in one tree wait for each other.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import Cython
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CompileError

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from native import IS_MACOS, LIBRARY_NAME, LICENSES_NAME, N_JOBS, Native, NativeError, folder_lock, native_get  # noqa: E402

IS_DEBUG = os.environ.get("QG_DEBUG") == "1"
IS_SANITIZED = os.environ.get("QG_SANITIZE") == "1"
IS_FUZZED = os.environ.get("QG_FUZZ") == "1"
IS_TEST = os.environ.get("QG_TEST") == "1"
GENERATED = (LIBRARY_NAME, LICENSES_NAME, "_build_info.py")
VARIANTS = {"-debug": IS_DEBUG, "-sanitize": IS_SANITIZED, "-fuzz": IS_FUZZED, "-test": IS_TEST}

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": IS_DEBUG,
    "wraparound": False,
    "cdivision": True,
    "embedsignature": False,
    "freethreading_compatible": False,
}

# -fno-strict-aliasing: byte layouts are read through casts everywhere in the core.
CFLAGS = ["-fvisibility=hidden", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function"]
# Cython's temporaries drop const.
CFLAGS += ["-Wno-discarded-qualifiers"] if not (IS_MACOS or IS_FUZZED) else []
SANITIZERS = ["-fsanitize=address,undefined" + (",fuzzer-no-link" if IS_FUZZED else "")]
if IS_SANITIZED or IS_FUZZED:
    CFLAGS += ["-O1", "-g", "-fno-omit-frame-pointer", "-U_FORTIFY_SOURCE", *SANITIZERS]
    CFLAGS += ["-fno-sanitize-recover=undefined"]
elif IS_DEBUG:
    CFLAGS += ["-O1", "-g", "-UNDEBUG", "-U_FORTIFY_SOURCE"]
else:
    CFLAGS += ["-O3", "-g0", "-DNDEBUG", "-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
LDFLAGS = [] if IS_MACOS else ["-Wl,-z,relro", "-Wl,-z,now"]
if IS_SANITIZED or IS_FUZZED:
    LDFLAGS += SANITIZERS
MACROS = [("QG_TEST", str(int(IS_TEST))), ("QG_DEBUG", str(int(IS_DEBUG)))]


class CoreExtension(Extension):
    """An Extension that can be a member of a set, as `cythonize(exclude_failures=True)` wants."""

    __hash__ = object.__hash__


class BuildCore(build_ext):
    """build_ext that first makes libqg_native, then compiles what Cython made of `qg/_core`."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or N_JOBS
        self.failed: list[str] = []
        variant = "".join(name for name, on in VARIANTS.items() if on)
        self.build_temp += variant
        if self.inplace:
            self.build_lib += variant

    def run(self) -> None:
        with folder_lock(ROOT / "build" / "build.lock"):
            try:
                self.build_core()
            except NativeError as error:
                sys.exit(f"qg: {error}")
        if self.failed:
            raise CompileError("not compiled: " + ", ".join(self.failed) + " (see above)")

    def build_core(self) -> None:
        native = native_get(sanitize=IS_SANITIZED)
        core = Path(self.build_lib) / "qg" / "_core"
        core.mkdir(parents=True, exist_ok=True)
        info = build_info(native, self.distribution.get_version())
        # Another compiler, other flags, other libraries: nothing compiled before may stay.
        stamp = ROOT / "build" / "stamps" / f"{self.build_lib.replace(os.sep, '-')}{self.get_ext_filename('')}"
        is_current = stamp.exists() and stamp.read_text() == info
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(info)
        self.modules_remove(core, all_of_them=not is_current)
        if native.library:
            file_refresh(core / LIBRARY_NAME, native.library.read_bytes())
            file_refresh(core / LICENSES_NAME, (native.library.parent / LICENSES_NAME).read_bytes())
        file_refresh(core / "_build_info.py", info.encode())
        for path in headers_find():
            place = Path(self.build_lib, "qg", path)
            place.parent.mkdir(parents=True, exist_ok=True)
            file_refresh(place, path.read_bytes())
        self.modules_cythonize(native)
        super().run()

    def modules_remove(self, core: Path, *, all_of_them: bool) -> None:
        """Remove compiled modules whose source is gone, or all."""
        suffix = self.get_ext_filename("")
        for path in core.glob("*" + suffix):
            if all_of_them or not Path("qg/_core", path.name.removesuffix(suffix) + ".pyx").exists():
                path.unlink()

    def build_extension(self, ext: Extension) -> None:
        """Compile one module; a failure is kept for the end, so that all others are still built."""
        try:
            super().build_extension(ext)
        except BaseError as error:
            print(f"{ext.name}: {error}", file=sys.stderr)
            self.failed.append(ext.name)

    def copy_extensions_to_source(self) -> None:
        """Bring what was built into the tree, each file in one step: programs may be running on the old one."""
        core = Path("qg/_core")
        self.modules_remove(core, all_of_them=False)
        for path in sorted(Path(self.build_lib, core).iterdir()):
            if path.name in GENERATED or path.name.endswith(self.get_ext_filename("")):
                file_refresh(core / path.name, path.read_bytes())

    def modules_cythonize(self, native: Native) -> None:
        """Turn every .pyx into an extension; one that Cython refuses does not keep the others from being built."""
        extensions = core_extensions(native)
        self.extensions = cythonize(
            extensions,
            compiler_directives=DIRECTIVES,
            nthreads=N_JOBS,
            build_dir=f"build/cython-{Cython.__version__}{'-debug' if IS_DEBUG else ''}",
            exclude_failures=True,
            quiet=True,
        )
        for extension in self.extensions:
            extension._needs_stub = False
        self.distribution.ext_modules = self.extensions
        self.ext_map = {self.get_ext_fullname(extension.name): extension for extension in self.extensions}
        for extension in self.extensions:
            extension._full_name = self.get_ext_fullname(extension.name)
        built = {extension.name for extension in self.extensions}
        self.failed += [extension.name for extension in extensions if extension.name not in built]

    def get_source_files(self) -> list[str]:
        return sorted(str(path) for path in Path("qg/_core").glob("*.pyx"))

    def get_outputs(self) -> list[str]:
        core = Path(self.build_lib, "qg", "_core")
        headers = [str(Path(self.build_lib, "qg", path)) for path in headers_find()]
        return [*super().get_outputs(), *headers, *(str(core / name) for name in GENERATED if (core / name).exists())]


def headers_find() -> list[Path]:
    """Give the public C headers, which wheels have in qg/include."""
    return sorted(Path("include").rglob("*.h"))


def core_extensions(native: Native) -> list[CoreExtension]:
    headers = [str(path) for folder in ("qg/_core", "include") for path in sorted(Path(folder).rglob("*.h"))]
    link = list(LDFLAGS)
    if native.library:
        link += [f"-L{native.library.parent}", "-lqg_native"]
        link += ["-Wl,-rpath,@loader_path"] if IS_MACOS else ["-Wl,-rpath,$ORIGIN"]
    link += native.link_flags
    return [
        CoreExtension(
            f"qg._core.{path.stem}",
            [str(path)],
            include_dirs=["include", "qg/_core", *native.include_dirs],
            define_macros=MACROS,
            extra_compile_args=CFLAGS,
            extra_link_args=link,
            depends=headers,
        )
        for path in sorted(Path("qg/_core").glob("*.pyx"))
    ]


def build_info(native: Native, version: str) -> str:
    """Return the text of `qg/_core/_build_info.py`: what `qg version --verbose` prints."""
    facts = {
        "VERSION": version,
        "CYTHON_VERSION": Cython.__version__,
        "LIBSODIUM_VERSION": native.libsodium_version,
        "LIBUV_VERSION": native.libuv_version,
        "LIBRARIES": "built from source" if native.library else "of the system",
        "LIBRARY_CFLAGS": " ".join(native.cflags),
        "CFLAGS": " ".join(CFLAGS),
        "LDFLAGS": " ".join(LDFLAGS),
        "COMPILER": native.compiler,
        "IS_DEBUG": IS_DEBUG,
        "IS_SANITIZED": IS_SANITIZED,
        "IS_TEST": IS_TEST,
    }
    lines = [f"{name} = {value!r}" for name, value in facts.items()]
    return "# SPDX-License-Identifier: MIT\n# Written by setup.py.\n" + "\n".join(lines) + "\n"


def file_refresh(path: Path, content: bytes) -> None:
    """Write `content` unless it is there already; never in place, since a running process may have mapped the file."""
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(content)
    temporary.replace(path)


os.chdir(ROOT)
# A placeholder tells setuptools that the package is compiled; BuildCore puts the real modules in its place, so that
# commands which do not compile (sdist, metadata) neither need the native libraries nor run Cython.
setup(cmdclass={"build_ext": BuildCore}, ext_modules=[Extension("qg._core", [])])
