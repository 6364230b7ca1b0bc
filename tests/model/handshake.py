# SPDX-License-Identifier: MIT
"""The handshake of a session over a byte stream: payloads in Noise in envelopes (section 3), both roles, sans-IO."""

import dataclasses
import os
import time
from collections.abc import Callable

from . import envelope
from .cert import Identity, certificate_verify
from .envelope import KIND_M3, KIND_NK1, KIND_REPLY, KIND_XK1, KIND_XX1, EnvelopeKey, FlightReader, Head, Network
from .errors import HandshakeError
from .noise import Handshake, Secrets
from .payload import P1, P2, P3, p1_parse, p2_parse, p3_parse, suite_choose
from .primitives import sha256

CARRIER_TCP, CARRIER_PIPE = "tcp", "pipe"
PATTERN_OF_KIND = {KIND_XK1: "XKhfs+psk3", KIND_XX1: "XXhfs+psk3", KIND_NK1: "NKhfs+psk2"}
KINDS_ON_CARRIER = {CARRIER_TCP: (KIND_XK1, KIND_XX1), CARRIER_PIPE: (KIND_XK1, KIND_NK1)}
PIPE_TIME_STEP_S = 30

# draw(purpose, n) gives n random bytes; the purpose lets a test hand in a chosen value.
Draw = Callable[[str, int], bytes]


def draw_system(purpose: str, length: int) -> bytes:
    return os.urandom(length)


@dataclasses.dataclass
class Party:
    """Who a side is and what it may do: shared by all its sessions.

    `identity` may be None for an initiator of NK only. `accepted_kinds` narrows what a responder answers; XX is opt-in.
    """

    identity: Identity | None
    network: Network = dataclasses.field(default_factory=Network)
    suites: int = 7
    accepted_kinds: tuple[int, ...] = (KIND_XK1, KIND_NK1)
    clock_s: Callable[[], int] = lambda: int(time.time())
    draw: Draw = draw_system
    seen: set[bytes] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class Established:
    """What a completed handshake hands to the session. The remote peer is None where it is anonymous."""

    role: str
    kind: int
    suite: int
    hash: bytes
    k1: bytes
    k2: bytes
    remote_peer_id: bytes | None
    remote_link_key: bytes | None


class _Side:
    """What both roles share: sealing a flight, and the secrets of one Noise handshake."""

    def __init__(self, party: Party, carrier: str) -> None:
        self.party = party
        self.carrier = carrier
        self.established: Established | None = None

    def _noise_start(self, kind: int, time_s: int, role: str, remote_static: bytes) -> None:
        draw, identity = self.party.draw, self.party.identity
        secrets = Secrets(
            ephemeral=draw("ephemeral", 32),
            static=identity.link_secret if identity else b"",
            remote_static=remote_static,
            psk=self.party.network.psk,
            kem_seed=draw("kem seed", 64) if role == "initiator" else b"",
            encaps_randomness=draw("encaps randomness", 32) if role == "responder" else b"",
        )
        prologue = b"qg-v1" + bytes(3) + bytes([kind]) + time_s.to_bytes(8, "big")
        self.noise = Handshake(PATTERN_OF_KIND[kind], role, prologue, secrets)

    def _flight_seal(self, key: EnvelopeKey, kind: int, noise: bytes) -> bytes:
        if self.carrier == CARRIER_PIPE:
            pad_len = envelope.pad_len_for_pipe(len(noise))
        else:
            pad_len = int.from_bytes(self.party.draw("flight padding", 2), "big") % (envelope.TCP_PAD_MAX + 1)
        head = Head(kind, self.flight_id, self.time_s, len(noise), pad_len)
        return envelope.flight_seal(key, self.party.draw("flight nonce", 24), head, noise)

    def _repeats_check(self, head: Head, kind: int) -> None:
        """M2 and M3 repeat M1's flight id and time; the clock is checked for kinds 1-3 only."""
        if (head.kind, head.flight_id, head.time_s) != (kind, self.flight_id, self.time_s):
            raise HandshakeError("flight of another kind or handshake")

    def _establish(self, kind: int, suite: int, peer_id: bytes | None) -> None:
        k1, k2 = self.noise.split()
        role = "initiator" if self.noise.is_initiator else "responder"
        remote_link_key = self.noise.remote_static or None
        self.established = Established(role, kind, suite, self.noise.hash, k1, k2, peer_id, remote_link_key)


class Initiator(_Side):
    """Writes flight 1 at once; `read` takes flight 2 and returns flight 3 (empty in NK).

    `link_key` is the responder's, empty for XX; `peer_id` pins its identity, empty accepts the one of its certificate.
    """

    def __init__(self, party: Party, carrier: str, kind: int, link_key: bytes, peer_id: bytes = b"") -> None:
        super().__init__(party, carrier)
        self.kind = kind
        self.pinned_peer_id = peer_id
        self.time_s = party.clock_s()
        if carrier == CARRIER_PIPE:  # 3.4: the clock offset would link the circuits of a source
            self.time_s -= self.time_s % PIPE_TIME_STEP_S
        self.flight_id = int.from_bytes(party.draw("flight id", 4), "big")
        self.key = party.network.key_open() if kind == KIND_XX1 else party.network.key_known(link_key)
        self._noise_start(kind, self.time_s, "initiator", link_key)

    def flight1(self) -> bytes:
        self.offer = P1(self.party.suites | 1, self.party.draw("grease", 12))
        m1 = self.noise.write_message(self.offer.build())
        self._reader = FlightReader([self.key.reply(m1)], lambda head: self._repeats_check(head, KIND_REPLY))
        return self._flight_seal(self.key, self.kind, m1)

    def read(self, buffer: bytearray) -> bytes | None:
        m2 = self._reader.read(buffer)
        if m2 is None:
            return None
        chosen = p2_parse(self.noise.read_message(m2), self.offer)
        peer_id = certificate_verify(chosen.certificate, self.noise.remote_static, self.party.clock_s())
        if self.pinned_peer_id and peer_id != self.pinned_peer_id:
            raise HandshakeError("the certificate shows another PeerID than the one dialled")
        flight3 = b""
        if self.kind != KIND_NK1:
            own = P3(self.party.draw("cid", 8), peer_id, self.party.identity.certificate, chosen.features)
            flight3 = self._flight_seal(self.key, KIND_M3, self.noise.write_message(own.build()))
        self._establish(self.kind, chosen.suite, peer_id)
        return flight3


class Responder(_Side):
    """`read` takes flight 1 and returns flight 2, then takes flight 3 and returns nothing more (section 3.5)."""

    def __init__(self, party: Party, carrier: str) -> None:
        super().__init__(party, carrier)
        keys = [party.network.key_known(party.identity.link_public)]
        self._open_key = party.network.key_open()
        if self._kind_is_allowed(KIND_XX1):
            keys.append(self._open_key)
        self._reader = FlightReader(keys, self._head1_check)
        self._waits_for_m3 = False

    def _kind_is_allowed(self, kind: int) -> bool:
        return kind in KINDS_ON_CARRIER[self.carrier] and kind in self.party.accepted_kinds

    def _head1_check(self, head: Head) -> None:
        if not self._kind_is_allowed(head.kind):
            raise HandshakeError("kind not allowed here")
        if (head.kind == KIND_XX1) != (self._reader.key == self._open_key):
            raise HandshakeError("kind under the wrong key")
        if abs(self.party.clock_s() - head.time_s) > envelope.CLOCK_WINDOW_S:
            raise HandshakeError("clock")
        self.kind, self.flight_id, self.time_s = head.kind, head.flight_id, head.time_s

    def read(self, buffer: bytearray) -> bytes | None:
        noise = self._reader.read(buffer)
        if noise is None:
            return None
        if self._waits_for_m3:
            self._m3_read(noise)
            return b""
        return self._m1_answer(noise)

    def _m1_answer(self, m1: bytes) -> bytes:
        fingerprint = sha256(m1)[:8]
        if fingerprint in self.party.seen:
            raise HandshakeError("replay")
        self.party.seen.add(fingerprint)
        self._noise_start(self.kind, self.time_s, "responder", b"")
        offer = p1_parse(self.noise.read_message(m1))
        suite = suite_choose(offer.suites, self.party.suites)
        identity, draw = self.party.identity, self.party.draw
        self.chosen = P2(suite, draw("cid", 8), self.party.clock_s(), identity.certificate)
        m2 = self.noise.write_message(self.chosen.build())
        key = self._reader.key
        if self.kind == KIND_NK1:
            self._establish(self.kind, suite, None)
        else:
            self._reader = FlightReader([key], lambda head: self._repeats_check(head, KIND_M3))
            self._waits_for_m3 = True
        return self._flight_seal(key.reply(m1), KIND_REPLY, m2)

    def _m3_read(self, m3: bytes) -> None:
        final = p3_parse(self.noise.read_message(m3), self.chosen)
        peer_id = certificate_verify(final.certificate, self.noise.remote_static, self.party.clock_s())
        if final.to_peer_id != self.party.identity.peer_id:
            raise HandshakeError("message 3 is for another PeerID")
        self._establish(self.kind, self.chosen.suite, peer_id)
