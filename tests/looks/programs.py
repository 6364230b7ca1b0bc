# SPDX-License-Identifier: MIT
"""Programs of others that judge what we send."""

import os
import subprocess


def environment_foreign():
    """Give the environment for programs of others: a sanitizer's library is for ours alone."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def program_feed(program, pieces):
    """Hand a program pieces until it wants no more; give what it said, and how many bytes it took."""
    n_fed = 0
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, env=environment_foreign()) as process:
        try:
            for piece in pieces:
                process.stdin.write(piece)
                n_fed += len(piece)
            process.stdin.close()
        except BrokenPipeError:
            process.stdin = None  # it has had enough; what waits for it is of no use to anybody
        said = process.stdout.read().decode()
    return said, n_fed
