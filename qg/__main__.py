# SPDX-License-Identifier: MIT
"""`python -m qg` is `qg`."""

from qg.cli import main

main()
