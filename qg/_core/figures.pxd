# SPDX-License-Identifier: MIT
"""A node's figures, for `Runtime.status`; with the GIL, from any thread."""
from .worker cimport node_t

cdef dict node_figures(node_t *node)
