# SPDX-License-Identifier: MIT
"""Keys from the network secret (section 2.4) and the sealed flights of a handshake (section 3.4)."""

import dataclasses

from .errors import AuthError, HandshakeError
from .primitives import (
    hkdf_expand,
    hkdf_extract,
    sha256,
    xchacha20_poly1305_open,
    xchacha20_poly1305_seal,
)

KIND_XK1, KIND_XX1, KIND_NK1, KIND_REPLY, KIND_M3, KIND_COOKIE = 1, 2, 3, 4, 5, 6

NONCE_LEN = 24
HEAD_LEN = 40
HEAD_END = NONCE_LEN + HEAD_LEN + 16  # 80: what a receiver reads first
BODY_TAG_LEN = 16
NOISE_MAX = 1400
PAD_MAX = 2047
TCP_PAD_MAX = 1023
PIPE_FLIGHT_LEN = 2048
CLOCK_WINDOW_S = 120


@dataclasses.dataclass(frozen=True)
class EnvelopeKey:
    """One of K(R), K0 or K', with what derives from it."""

    key: bytes

    @property
    def head(self) -> bytes:
        return hkdf_expand(self.key, b"head")

    @property
    def body(self) -> bytes:
        return hkdf_expand(self.key, b"body")

    @property
    def cookie(self) -> bytes:
        return hkdf_expand(self.key, b"cookie")

    @property
    def cid(self) -> bytes:
        return hkdf_expand(self.key, b"cid")

    def reply(self, m1: bytes) -> "EnvelopeKey":
        """K' for M2; M1 is the Noise bytes without padding."""
        return EnvelopeKey(hkdf_expand(self.key, b"qg1 reply" + sha256(m1)))


class Network:
    """A closed network with its 32 byte secret; the open network has 32 zero bytes."""

    def __init__(self, secret: bytes = bytes(32)) -> None:
        self.nx = hkdf_extract(b"qg1 network", secret)

    @property
    def psk(self) -> bytes:
        return hkdf_expand(self.nx, b"qg1 noise psk")

    def key_known(self, responder_link_public: bytes) -> EnvelopeKey:
        """K(R), for XK and NK."""
        return EnvelopeKey(hkdf_expand(self.nx, b"qg1 env known" + responder_link_public))

    def key_open(self) -> EnvelopeKey:
        """K0, for XX."""
        return EnvelopeKey(hkdf_expand(self.nx, b"qg1 env open"))


@dataclasses.dataclass(frozen=True)
class Head:
    """The 40 byte head; off UDP the fragment is 0 of 1 and the cookie zero."""

    kind: int
    flight_id: int
    time_s: int
    noise_len: int
    pad_len: int

    def build(self) -> bytes:
        return b"".join(
            [
                bytes([1, self.kind, 0, 1]),
                self.flight_id.to_bytes(4, "big"),
                self.time_s.to_bytes(8, "big"),
                self.noise_len.to_bytes(2, "big"),
                self.pad_len.to_bytes(2, "big"),
                bytes(4),
                bytes(16),
            ]
        )


def head_parse(data: bytes) -> Head:
    """Every field that has only one lawful value off UDP is checked (3.4, 3.5 step 2)."""
    if data[0] != 1:
        raise HandshakeError("envelope version")
    if data[2:4] != b"\x00\x01" or any(data[20:40]):
        raise HandshakeError("fragment, zero field or cookie off UDP")
    head = Head(
        kind=data[1],
        flight_id=int.from_bytes(data[4:8], "big"),
        time_s=int.from_bytes(data[8:16], "big"),
        noise_len=int.from_bytes(data[16:18], "big"),
        pad_len=int.from_bytes(data[18:20], "big"),
    )
    if head.noise_len > NOISE_MAX or head.pad_len > PAD_MAX:
        raise HandshakeError("L or p out of range")
    return head


def flight_seal(key: EnvelopeKey, nonce: bytes, head: Head, noise: bytes) -> bytes:
    sealed_head = xchacha20_poly1305_seal(key.head, nonce, b"", head.build())
    body = noise + bytes(head.pad_len)
    return nonce + sealed_head + xchacha20_poly1305_seal(key.body, nonce, sealed_head, body)


def pad_len_for_pipe(noise_len: int) -> int:
    """On a pipe every flight is exactly 2,048 bytes."""
    return PIPE_FLIGHT_LEN - HEAD_END - BODY_TAG_LEN - noise_len


class FlightReader:
    """Reads one flight from a byte stream: 80 bytes first, then exactly L + p + 16 more.

    `keys` are tried in order on the head; `key` is then the one that opened it. `head_check` is called with the head as
    soon as it is open, so that a receiver can refuse it before it reads the body (3.5 steps 1 to 3).
    """

    def __init__(self, keys, head_check) -> None:
        self.keys = keys
        self.head_check = head_check
        self.key: EnvelopeKey | None = None
        self.head: Head | None = None

    def read(self, buffer: bytearray) -> bytes | None:
        """The Noise bytes, cut from the front of `buffer` with their envelope; None while incomplete."""
        if self.head is None:
            if len(buffer) < HEAD_END:
                return None
            self._open_head(bytes(buffer[:HEAD_END]))
        end = HEAD_END + self.head.noise_len + self.head.pad_len + BODY_TAG_LEN
        if len(buffer) < end:
            return None
        nonce, sealed_head, sealed_body = buffer[:NONCE_LEN], buffer[NONCE_LEN:HEAD_END], buffer[HEAD_END:end]
        body = xchacha20_poly1305_open(self.key.body, bytes(nonce), bytes(sealed_head), bytes(sealed_body))
        if any(body[self.head.noise_len :]):
            raise HandshakeError("padding of a flight is not zero")
        del buffer[:end]
        return body[: self.head.noise_len]

    def _open_head(self, data: bytes) -> None:
        for key in self.keys:
            try:
                plain = xchacha20_poly1305_open(key.head, data[:NONCE_LEN], b"", data[NONCE_LEN:])
            except AuthError:
                continue
            head = head_parse(plain)
            self.key = key
            self.head_check(head)
            self.head = head
            return
        raise AuthError("no key opens this head")
