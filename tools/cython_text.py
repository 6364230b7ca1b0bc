# SPDX-License-Identifier: MIT
"""Cython sources as the checkers read them: the code without comments and strings, and the C given verbatim."""

import re

_TOKEN = re.compile(
    r"""\#[^\n]*
      | [rbuftRBUFT]{0,2}(?P<long>\"{3}.*?\"{3}|'{3}.*?'{3})
      | [rbuftRBUFT]{0,2}(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""",
    re.DOTALL | re.VERBOSE,
)
_EXTERN = re.compile(r"cdef\s+extern\s+from\s+[^\n]*:\s*\Z")


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def code_text(source: str) -> str:
    """Blank out comments and strings; lines and columns stay."""
    return _TOKEN.sub(lambda match: _blank(match[0]), source)


def verbatim_text(source: str) -> str:
    """Blank out all but the C code that stands in a string under "cdef extern from"; lines and columns stay."""
    kept, end = [], 0
    for match in _TOKEN.finditer(source):
        if match["long"] and _EXTERN.search(source, 0, match.start()):
            kept += [_blank(source[end : match.start()]), match[0]]
            end = match.end()
    return "".join(kept) + _blank(source[end:])
