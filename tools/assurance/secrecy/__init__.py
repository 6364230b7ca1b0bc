# SPDX-License-Identifier: MIT
"""Does a branch or an index depend on a secret? The core as it is built, under Valgrind (ctgrind, Langley 2010)."""
