# SPDX-License-Identifier: MIT
"""The record keys of a session in both directions, and REKEY: NNhfs+psk0 in frames (section 4.5)."""

from .errors import AuthError, WireError
from .frames import Rekey1, Rekey2, RekeyDone
from .handshake import Draw, Established
from .noise import Handshake, Secrets
from .record import Direction, Generation

REKEY_KIND = 0x07
REKEY_PAYLOAD = bytes(24)


class Keys:
    def __init__(self, established: Established, draw: Draw) -> None:
        self.role = established.role
        self.suite = established.suite
        self.draw = draw
        self.number = 0
        self.generation = Generation(established.hash, established.k1, established.k2)
        self.exporter = self.generation.exporter  # stays that of generation 0, like the channel binding
        self.channel_binding = established.hash
        self.peer_role = "responder" if self.role == "initiator" else "initiator"
        self.send = self._direction(self.generation, self.role)
        self.recv = self._direction(self.generation, self.peer_role)
        self._outstanding: Handshake | None = None
        self._next: Generation | None = None
        self._switched: set[str] = set()

    def _direction(self, generation: Generation, sender: str) -> Direction:
        """i2r and r2i always name session roles, whoever started the re-keying."""
        return Direction(generation.i2r if sender == "initiator" else generation.r2i, self.suite)

    @property
    def is_idle(self) -> bool:
        """No REKEY1 of ours waits for its answer, and both directions are in the same generation."""
        return self._outstanding is None and self._next is None

    def rekey_start(self) -> Rekey1:
        if not self.is_idle:
            raise ValueError("a re-keying is under way")
        self._outstanding = self._noise("initiator", self.role)
        return Rekey1(self._outstanding.write_message(REKEY_PAYLOAD))

    def rekey1_read(self, frame: Rekey1) -> tuple[Rekey2, RekeyDone] | None:
        """The answer, both frames for one record; None where ours is outstanding and wins."""
        if self._next is not None:
            raise WireError("REKEY1 before the REKEY_DONE of the exchange before it")
        if self._outstanding is not None and self.role == "initiator":
            return None
        self._outstanding = None
        noise = self._noise("responder", self.peer_role)
        self._payload_check(noise, frame.message)
        try:
            message = noise.write_message(REKEY_PAYLOAD)
        except AuthError as error:
            raise WireError("REKEY1 holds a key that is refused") from error
        self._next = Generation(noise.hash, *noise.split())
        return Rekey2(message), RekeyDone()

    def rekey2_read(self, frame: Rekey2) -> RekeyDone:
        noise, self._outstanding = self._outstanding, None
        if noise is None:
            raise WireError("REKEY2 without a REKEY1")
        self._payload_check(noise, frame.message)
        self._next = Generation(noise.hash, *noise.split())
        return RekeyDone()

    def done_check(self) -> None:
        if self._next is None or "recv" in self._switched:
            raise WireError("REKEY_DONE outside of a re-keying")

    def switch(self, direction: str) -> None:
        """After a record with REKEY_DONE: "send" or "recv" starts the new generation at sequence 0, epoch 0."""
        if direction == "send":
            self.send = self._direction(self._next, self.role)
        else:
            self.recv = self._direction(self._next, self.peer_role)
        self._switched.add(direction)
        if len(self._switched) == 2:
            self.generation, self._next = self._next, None
            self.number += 1
            self._switched = set()

    def _noise(self, noise_role: str, starter: str) -> Handshake:
        prologue = b"".join(
            [
                b"qg-v1" + bytes(3),
                bytes([REKEY_KIND]),
                (self.number + 1).to_bytes(8, "big"),
                self.generation.hash,
                b"\x00" if starter == "initiator" else b"\x01",
            ]
        )
        secrets = Secrets(
            ephemeral=self.draw("rekey ephemeral", 32),
            psk=self.generation.rekey_psk,
            kem_seed=self.draw("rekey kem seed", 64) if noise_role == "initiator" else b"",
            encaps_randomness=self.draw("rekey encaps randomness", 32) if noise_role == "responder" else b"",
        )
        return Handshake("NNhfs+psk0", noise_role, prologue, secrets)

    def _payload_check(self, noise: Handshake, message: bytes) -> None:
        try:
            payload = noise.read_message(message)
        except AuthError as error:
            raise WireError("REKEY message does not open") from error
        if payload != REKEY_PAYLOAD:
            raise WireError("REKEY payload is not 24 zero bytes")
