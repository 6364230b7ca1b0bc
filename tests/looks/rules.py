# SPDX-License-Identifier: MIT
"""The rules by which the GFW was found to block what is fully encrypted.

Wu and others, "How the Great Firewall of China Detects and Blocks Fully Encrypted Traffic", USENIX Security 2023: the
first packet of a connection with data is let pass if one of five rules exempts it, and blocked otherwise.
"""

import re

_PRINTABLE = re.compile(rb"[\x20-\x7e]")
_TLS = re.compile(rb"[\x16-\x17]\x03[\x00-\x09]")
_HTTP = re.compile(rb"(?:GET|PUT|POST|HEAD) ")
_MANY = re.compile(rb"[\x20-\x7e]{21}")
_SIX = re.compile(rb"[\x20-\x7e]{6}")


def rule_exempting(data):
    """Give the number of the rule that lets a first packet pass; None: none does, it is blocked."""
    per_byte = int.from_bytes(data, "big").bit_count() / len(data)
    if per_byte <= 3.4 or per_byte >= 4.6:
        return 1
    if _SIX.match(data):
        return 2
    if len(_PRINTABLE.findall(data)) > len(data) / 2:
        return 3
    if _MANY.search(data):
        return 4
    return 5 if _TLS.match(data) or _HTTP.match(data) else None
