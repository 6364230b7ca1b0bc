# SPDX-License-Identifier: MIT
"""What runs under Valgrind: each operation with what opens and with a bit changed in each part; figures as JSON."""

import json

import opened  # noqa: F401 - before the modules that open envelopes and records
import undefined

SUITES = {"chacha20-poly1305": 1, "aes-256-gcm": 2, "aegis-256": 4}
SECRET, LINK_KEY, NONCE = bytes(range(32)), bytes(range(32, 64)), bytes(24)


def main():
    assert undefined.is_watched()
    figures = {}
    for part, flipped in {"whole": -1, "head": 30, "tag of head": 70, "body": 90}.items():
        figures[f"envelope, {part}"], was_opened = undefined.envelope(SECRET, LINK_KEY, NONCE, flipped)
        assert was_opened == (part == "whole"), part
    for name, suite in SUITES.items():
        for part, flipped in {"whole": -1, "text": 2, "tag": 1017}.items():
            figures[f"record, {name}, {part}"], was_opened = undefined.record(SECRET, suite, flipped)
            assert was_opened == (part == "whole"), (name, part)
    figures["certificate"], is_equal = undefined.certificate(SECRET, LINK_KEY)
    assert is_equal
    planted = {
        "comparison": undefined.planted_comparison(SECRET)[0],
        "index": undefined.planted_index(SECRET)[0],
    }
    print(json.dumps({"errors": figures, "planted": planted}))


main()
