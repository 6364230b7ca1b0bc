# SPDX-License-Identifier: MIT
"""Flights of the handshake: what is forged is refused, what is sealed is read as the second reading reads it."""

from model.envelope import KIND_COOKIE, KIND_XK1, HandshakeError, head_parse

from qg._core import crypto
from qg._core.envelope import EnvelopeKeys
from tools.fuzz import Script

KEYS = EnvelopeKeys.known(bytes(range(32)), bytes(32))
_, HEAD_KEY, BODY_KEY = KEYS.export_keys()
HEAD_LEN = 40
WINDOW_S, NOW_S = 120, 1_760_000_000


def run(data: bytes) -> None:
    forged(data)
    sealed(Script(data))


def forged(data: bytes) -> None:
    assert isinstance(KEYS.open_head(data), int)
    assert isinstance(KEYS.open(data), int)
    assert KEYS.check(data, WINDOW_S, NOW_S) < 0


def sealed(script: Script) -> None:
    """Who has the keys may say anything in head and body."""
    nonce, plain, inner = script.exactly(24), script.exactly(HEAD_LEN), script.rest()
    sealed_head = crypto.xchacha_sealed(HEAD_KEY, nonce, plain)
    flight = nonce + sealed_head + crypto.xchacha_sealed(BODY_KEY, nonce, inner, sealed_head)
    head = KEYS.open_head(flight)
    if KEYS.check(flight, WINDOW_S, NOW_S) == 0:
        lawful = head_parse(plain)
        assert isinstance(head, dict) and lawful.kind != KIND_COOKIE and abs(lawful.time_s - NOW_S) <= WINDOW_S
        assert lawful.build() == plain
    if not isinstance(head, dict):
        assert is_unlawful(plain)
        assert isinstance(KEYS.open(flight), int)
        return
    body = KEYS.open(flight)
    length, pad_len = head["body_len"], head["pad_len"]
    is_whole = len(inner) == length + pad_len and not any(inner[length:])
    assert body == inner[:length] if is_whole else isinstance(body, int)
    if is_whole:
        again = KEYS.seal(nonce, head["kind"], head["flight_id"], head["time_s"], inner[:length], pad_len,
                          frag_idx=head["frag_idx"], frag_n=head["frag_n"], cookie=head["cookie"])  # fmt: skip
        assert again == flight


def is_unlawful(plain: bytes) -> bool:
    if not KIND_XK1 <= plain[1] <= KIND_COOKIE:
        return True
    try:
        head_parse(plain)
    except HandshakeError:
        return True
    return False
