# SPDX-License-Identifier: MIT
"""Native extenders in Cython: what qg/extender.h declares, where each of these is explained.

    from qg.extender cimport qg_extender_v1, qg_stream, qg_stream_write

Give the folder of `qg.get_include()` to the compiler. All callbacks are `noexcept nogil`.
"""
from qg._core.abi cimport *
