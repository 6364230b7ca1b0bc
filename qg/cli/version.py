# SPDX-License-Identifier: MIT
"""`qg version`: which qg this is."""

import platform
import re
from pathlib import Path

import click

from qg._core import _build_info as build
from qg._core.crypto import sodium_version, suites

# Bits of a suite mask (docs/protocol.md, section 3.3), best first.
_SUITES = {4: "AEGIS-256", 2: "AES-256-GCM", 1: "ChaCha20-Poly1305"}
# What the ciphers and hashes make use of, on x86-64 and on arm64.
_CPU_FEATURES = "aes vaes pclmulqdq vpclmulqdq ssse3 sse4_1 avx avx2 avx512f sha_ni rdrand asimd pmull sha2".split()


@click.command
@click.option("-v", "--verbose", is_flag=True, help="Show libraries, flags, CPU features and suites too.")
def command(verbose: bool) -> None:
    """Show the version; with --verbose also what it was built from and how, for a report of a fault.

    \b
    Examples:
      qg version
      qg version --verbose
    """
    print(f"qg {build.VERSION}")
    if verbose:
        facts = _facts()
        width = max(map(len, facts))
        print("\n".join(f"{name.ljust(width)}  {value}" for name, value in facts.items()))


def _facts() -> dict[str, str]:
    mask = suites()
    switches = {"bounds checked": build.IS_DEBUG, "sanitized": build.IS_SANITIZED, "for tests": build.IS_TEST}
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "libsodium": f"{sodium_version()}, {build.LIBRARIES}",
        "libuv": f"{build.LIBUV_VERSION}, {build.LIBRARIES}",
        "Cython": build.CYTHON_VERSION,
        "compiler": build.COMPILER,
        "flags": build.CFLAGS,
        "link flags": build.LDFLAGS,
        "library flags": build.LIBRARY_CFLAGS or "the system's",
        "build": ", ".join(name for name, is_on in switches.items() if is_on) or "release",
        "CPU features": " ".join(_cpu_features()) or "not known",
        "suites": ", ".join(name for bit, name in _SUITES.items() if mask & bit),
    }


def _cpu_features() -> list[str]:
    """Read from the kernel which of the features that matter here this CPU has; empty where it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    found = re.search(r"^(?:flags|Features)\s*:(.*)", text, re.MULTILINE)
    present = set(found[1].split()) if found else set()
    return [name for name in _CPU_FEATURES if name in present]
