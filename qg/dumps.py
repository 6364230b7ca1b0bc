# SPDX-License-Identifier: MIT
"""No core dumps of a process that holds keys."""

import os
import resource
import sys

from qg.errors import LocalError

__all__ = ["core_dumps_forbid"]

_PR_SET_DUMPABLE = 4


def core_dumps_forbid() -> None:
    """Let this process, and those that it forks, write no core dump; raises `LocalError` where that is refused.

    The limit alone would leave dumps that the kernel hands to a program (core_pattern with a pipe): on Linux the
    process is marked undumpable as well, which also keeps debuggers of the same user away. Source: core(5), prctl(2).
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            _undumpable_make()
    except (OSError, ValueError) as error:
        raise LocalError(
            f"core dumps cannot be forbidden: {error}; let whoever starts qg forbid them (ulimit -c 0, LimitCORE=0),"
            " and leave out no_core_dumps"
        ) from None


def _undumpable_make() -> None:
    import ctypes  # Python has no prctl

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
