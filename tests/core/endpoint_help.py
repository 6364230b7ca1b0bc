# SPDX-License-Identifier: MIT
"""Pairs of endpoints, identities in key files, and the words of the protocol."""

import pathlib
import tempfile

from model.cert import network_secret_text
from model.primitives import xchacha20_poly1305_seal

from qg._core.keyfile import KeyRing, NetworkSecret

XK, XX, NK = 1, 2, 3
REPLY, M3 = 4, 5
CHACHA, GCM, AEGIS = 1, 2, 4
BYTES, MESSAGES, PIPE, RELAY = range(4)
EXPEDITED, NORMAL, DELAYED = range(3)
ON_LINK, IN_STREAM, IN_PIPE = range(3)  # layer_role_t: no layer, its source, its far end
NONE, PROTOCOL, INTERNAL, SHUTDOWN, REFUSED, UNREACHABLE, BUSY, LIMIT, UNSUPPORTED, TIMEOUT = range(10)
MEMORY, SLOW_READER, HOPS, DUPLICATE, IDLE, REKEY, CANCELLED = range(10, 17)
SECOND_NS = 1_000_000_000
WINDOW = 65536
SESSION_WINDOW = 1048576
EARLY = 16384  # bytes that the opener of a service stream may send before ACCEPT
UUID = bytes(range(16))
KINDS_LINK, KINDS_SERVICE, KINDS_RELAY = 0b0111, 0b0011, 0b1000
NOW_S = 1_750_000_000


def ring_of(identity):
    """Load an identity of the model from a key file that says what it says (protocol.md 2.3, kdf 0)."""
    head = b"QGKEY1\r\n" + bytes(1 + 16 + 8 + 8) + bytes(24)
    keys = identity.ed25519_seed + identity.link_secret + bytes(8) + identity.not_after.to_bytes(8, "big")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "key"
        path.touch(0o600)
        path.write_bytes(head + xchacha20_poly1305_seal(bytes(32), bytes(24), head, keys))
        return KeyRing.load(path)


def network_of(secret):
    """Give the network secret of 32 bytes; None for the open network."""
    return None if secret == bytes(32) else NetworkSecret.parse(network_secret_text(secret))


def link_key_of(ring):
    return ring.link_keys[-1][0]


class Pair:
    """Two endpoints and the wire between them."""

    def __init__(self, one, other):
        self.one, self.other = one, other

    def connect(self, kind=XK, layers=(ON_LINK, ON_LINK)):
        link_key = None if kind == XX else link_key_of(self.other.ring)
        assert self.one.connect(kind, link_key, None, layers[0]) == 0
        assert self.other.listen(1 << kind, layers[1]) == 0
        self.pump()

    def pump(self):
        """Carry bytes both ways until nobody has anything to say."""
        while self.step(self.one, self.other) + self.step(self.other, self.one):
            pass

    @staticmethod
    def step(source, target):
        """Carry what one side has to say; the number of bytes."""
        data = source.take()
        if data:
            target.feed(data)
        return len(data)

    def tick(self, now_ns):
        self.one.tick(now_ns)
        self.other.tick(now_ns)

    def run(self, seconds):
        """Let virtual time pass, with a tick whenever one side asked for it."""
        end_ns = self.one.now_ns + int(seconds * SECOND_NS)
        while True:
            self.pump()
            next_ns = min(self.one.deadline_ns, self.other.deadline_ns)
            if next_ns > end_ns:
                return self.tick(end_ns)
            self.tick(max(next_ns, self.one.now_ns))

    def stream(self, data=b"", *, opener=None, kind=BYTES, priority=NORMAL, credit=WINDOW, opening=UUID):
        """Open a stream and accept it; its id."""
        opener = opener or self.one
        acceptor = self.other if opener is self.one else self.one
        number = opener.open_stream(kind, priority, WINDOW, opening)
        if data:
            opener.write(number, data)
        self.pump()
        acceptor.accept(number, credit)
        self.pump()
        return number


# Random bytes in the order in which the core draws them


def initiator_draws(
    *,
    flight_id=b"id__",
    grease=bytes(12),
    cid=bytes(8),
    ephemeral=b"e" * 32,
    kem_seed=b"k" * 64,
    nonces=(b"1" * 24, b"3" * 24),
    pads=(b"\0\0", b"\0\0"),
    is_pipe=0,
):
    """Draws of a handshake's initiator: the stream table's, then those of section 3."""
    first, third = (b"", b"") if is_pipe else pads
    return b"table___" + cid + flight_id + grease + ephemeral + kem_seed + first + nonces[0] + third + nonces[-1]


def responder_draws(*, cid=bytes(8), ephemeral=b"E" * 32, encaps=b"K" * 32, nonce=b"2" * 24, pad=b"\0\0", is_pipe=0):
    """Draws of a handshake's responder."""
    return b"table___" + cid + ephemeral + encaps + (b"" if is_pipe else pad) + nonce


# What tests say to sessions


def suites_with(suite):
    return suite | CHACHA


def record_of(endpoint):
    """One record that holds a PING-like frame which means nothing."""
    endpoint.inject(b"\x40\x40\x05hello")
    return endpoint.take()


def was_refused(pair, code):
    """Whether `other` met a violation: CLOSE(protocol) and nothing else, on both sides."""
    assert pair.other.status == code
    pair.pump()
    assert (pair.one.state, pair.other.state) == ("closed", "closed")
    assert ("closed", PROTOCOL, True) in pair.one.events()
    return ("closed", PROTOCOL, False) in pair.other.events()


def read(endpoint, number):
    """Take what has come and give its credit back."""
    data = endpoint.received(number)
    endpoint.used(number, len(data))
    return data


def send_raw(pair, *frames):
    """Let `one` say frames that its own bookkeeping knows nothing of; the code with which `other` refuses them."""
    pair.one.inject(b"".join(frames))
    return pair.other.feed(pair.one.take())


def is_closed_for(pair, code):
    """Whether the other side met a violation and said CLOSE(protocol)."""
    assert pair.other.status == code
    pair.pump()
    return pair.one.events()[-1] == ("closed", PROTOCOL, True)
