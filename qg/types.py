# SPDX-License-Identifier: MIT
"""Frozen values that cross the border between Python and the core: identifiers, reasons and what `status` reports."""

from base64 import b32encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple, final

from qg.errors import InvalidValue, Reason

if TYPE_CHECKING:
    from uuid import UUID

__all__ = [
    "Carried",
    "ExtenderId",
    "ExtenderInfo",
    "KeptInfo",
    "LinkInfo",
    "LinkKey",
    "PeerId",
    "PeerInfo",
    "Reason",
    "RelayTerms",
    "Status",
    "WorkerInfo",
    "base32_decode",
    "base32_encode",
]


_BASE32 = frozenset("abcdefghijklmnopqrstuvwxyz234567")
_BASE32_DIGITS = str.maketrans("abcdefghijklmnopqrstuvwxyz234567", "0123456789abcdefghijklmnopqrstuv")  # of `int`


def base32_encode(raw: bytes) -> str:
    """Write bytes in base32: RFC 4648 alphabet in lower case, no padding (docs/protocol.md, section 2.2)."""
    return b32encode(raw).decode("ascii").rstrip("=").lower()


def base32_decode(text: str) -> bytes:
    """Read what `base32_encode` writes, and nothing else.

    Raises `InvalidValue` for upper case, padding, other characters, an impossible length or unused bits that are not
    zero: every value has exactly one text.
    """
    if not _BASE32.issuperset(text):
        bad = next(c for c in text if c not in _BASE32)
        raise InvalidValue(f"{bad!r} is not a base32 character (a-z and 2-7, lower case, no padding)")
    if len(text) % 8 in (1, 3, 6):
        raise InvalidValue(f"{len(text)} characters are not a base32 length")
    number = int("0" + text.translate(_BASE32_DIGITS), 32)  # a fifth of b32decode's time
    n_unused = len(text) * 5 % 8
    if number & ((1 << n_unused) - 1):
        raise InvalidValue("the unused bits of the last base32 character are not zero")
    return (number >> n_unused).to_bytes(len(text) * 5 // 8, "big")


class _Id:
    """Hold the bytes of an identifier: immutable, hashable, equal only to the same bytes of the same kind."""

    __slots__ = ("_raw",)

    _raw: bytes
    n_bytes: ClassVar[int] = 32
    kind: ClassVar[str]

    def __init__(self, value: bytes | str) -> None:
        try:
            raw = self._parse(value) if isinstance(value, str) else bytes(memoryview(value))
        except TypeError:  # bytes() alone would take a number for a length
            raise InvalidValue(f"a {self.kind} is made from bytes or text, not {type(value).__name__}") from None
        if len(raw) != self.n_bytes:
            raise InvalidValue(f"a {self.kind} has {self.n_bytes} bytes, not {len(raw)}")
        object.__setattr__(self, "_raw", raw)

    @classmethod
    def _parse(cls, text: str) -> bytes:
        n_chars = (cls.n_bytes * 8 + 4) // 5
        if len(text) != n_chars:
            raise InvalidValue(f"a {cls.kind} is written with {n_chars} base32 characters, not {len(text)}")
        try:
            return base32_decode(text)
        except InvalidValue as error:
            raise InvalidValue(f"this is not a {cls.kind}: {error}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __bytes__(self) -> bytes:
        return self._raw

    def __str__(self) -> str:
        return base32_encode(self._raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __hash__(self) -> int:
        return hash(self._raw)

    def __eq__(self, other: object) -> bool:
        return self._raw == other._raw if isinstance(other, _Id) and type(other) is type(self) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self._raw < other._raw if isinstance(other, _Id) and type(other) is type(self) else NotImplemented

    def __reduce__(self) -> tuple[type["_Id"], tuple[bytes]]:
        return type(self), (self._raw,)


@final
class PeerId(_Id):
    """Name a peer: 32 bytes, the hash of its identity key (docs/protocol.md, section 2.1).

    Takes the bytes or their base32 text; `str` gives the text. Raises `InvalidValue` for anything else.
    """

    __slots__ = ()
    kind = "PeerID"

    @property
    def uuid(self) -> "UUID":
        """Give the UUID (version 8) that is shown to people; access lists keep the whole PeerID."""
        from uuid import UUID  # not needed to import qg

        head = bytearray(self._raw[:16])
        head[6] = head[6] & 0x0F | 0x80
        head[8] = head[8] & 0x3F | 0x80
        return UUID(bytes=bytes(head))


@final
class LinkKey(_Id):
    """Hold a public X25519 link key: 32 bytes, the key an address carries and a handshake is addressed to.

    Takes the bytes or their base32 text; `str` gives the text. Raises `InvalidValue` for anything else.
    """

    __slots__ = ()
    kind = "link key"


@final
class ExtenderId(_Id):
    """Name a service: a UUID that both sides must have.

    Takes the UUID's text ("6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9e8f"), its 16 bytes or a `uuid.UUID`; `str` gives the text.
    Raises `InvalidValue` for anything else.
    """

    __slots__ = ()
    kind = "ExtenderId"
    n_bytes = 16

    def __init__(self, value: "bytes | str | UUID") -> None:
        super().__init__(value if isinstance(value, bytes | bytearray | memoryview) else str(value))

    @classmethod
    def _parse(cls, text: str) -> bytes:
        parts = text.split("-")
        if [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(c in "0123456789abcdefABCDEF-" for c in text):
            return bytes.fromhex("".join(parts))
        raise InvalidValue(f"{text!r} is not an ExtenderId: write a UUID, 8-4-4-4-12 hexadecimal digits")

    def __str__(self) -> str:
        text = self._raw.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    @property
    def uuid(self) -> "UUID":
        """Give the same as a `uuid.UUID`."""
        from uuid import UUID  # not needed to import qg

        return UUID(bytes=self._raw)


class Carried(NamedTuple):
    """Tell how many bytes of applications a stream has carried each way."""

    n_sent: int
    n_received: int


class LinkInfo(NamedTuple):
    """Describe one session with a peer at the moment of asking."""

    peer_id: PeerId
    carrier: str  # "tcp", or "pipe" for a session that runs over relays
    remote: str  # "203.0.113.7:7447"; for a pipe the target's that was dialled, or the neighbour's that it comes from
    is_outgoing: bool  # this side dialled
    suite: str  # AEAD suite in force
    age_s: float
    generation: int  # full key exchanges since the handshake
    bytes_in: int  # on the carrier, headers included
    bytes_out: int
    n_streams: int  # open, both directions
    rtt_us: int | None  # last measured round trip, None before the first
    cover_bytes: int = 0  # of bytes_out, those that say nothing


class KeptInfo(NamedTuple):
    """Describe one peer that a node keeps connected."""

    address: str  # as it was given
    peer_id: PeerId | None  # None before the first session
    is_connected: bool
    n_tries: int  # without a stable session since
    next_try_s: float | None  # seconds from now; None: connected, or being dialled
    error: str  # of the last try; empty after a success


class RelayTerms(NamedTuple):
    """Say how much a relay passes on for one neighbour, as it has announced: nothing that it could be held to."""

    rate_kib_s: int  # payload, both directions together; 0: it named no limit
    burst_kib: int  # at once, after a pause


class PeerInfo(NamedTuple):
    """Describe one peer: all sessions of one PeerID."""

    peer_id: PeerId
    n_links: int
    n_streams: int
    extenders: tuple[ExtenderId, ...]  # what the peer says it offers


class ExtenderInfo(NamedTuple):
    """Describe one service that a node offers."""

    extender_id: ExtenderId
    name: str
    version: str  # empty: it has none
    n_failures: int  # exceptions that came out of its methods
    is_stopped: bool  # it failed too often, and is not offered any more
    counts: Mapping[str, int]  # what it counts itself


class WorkerInfo(NamedTuple):
    """Describe one of the threads that carry a node's data."""

    n_sessions: int  # links, sessions over relays, handshakes under way
    n_splices: int  # circuits that pass through now
    bytes_in: int  # on all its connections
    bytes_out: int
    relayed_bytes: int
    cpu_s: float


class Status(NamedTuple):
    """Describe a running node: what `qg status` prints."""

    version: str
    peer_id: PeerId
    link_key: LinkKey
    uptime_s: float
    listen: tuple[str, ...]  # endpoints really bound, ports filled in
    peers: tuple[PeerInfo, ...]
    links: tuple[LinkInfo, ...]
    relayed_bytes: int  # payload bytes passed on for others, both directions
    n_splices: int  # circuits that pass through now
    n_circuit_links: int  # links dialled for circuits only; they are in no list above
    counters: Mapping[str, int]  # outcomes by reason since the start ("replay", "bad_envelope", ...)
    memory_bytes: int  # taken from the pools now
    locked_bytes: int  # guarded memory for secrets
    is_locked: bool  # False: the limit for locked memory is reached and secrets may reach swap
    clock_skew_s: float | None  # median of what peers said, theirs minus ours; None before the first peer
    is_draining: bool = False  # it takes no more connections and circuits, for it is about to stop
    kept: tuple[KeptInfo, ...] = ()  # peers that are dialled again when they are gone
    bytes_in: int = 0  # on all connections since the start
    bytes_out: int = 0
    relayed_month_bytes: int = 0  # in this calendar month (UTC), in and out
    relayed_month_limit: int = 0  # of these, from which no new circuits are taken; 0: none
    n_peers: int = 0  # connected now, also where the lists are left out
    n_links: int = 0
    workers: tuple[WorkerInfo, ...] = ()  # the threads that carry the data; the figures above are of all together
    extenders: tuple[ExtenderInfo, ...] = ()  # services that this node offers
    overload: tuple[str, ...] = ()  # settings whose budgets are used up to nine tenths or more: others are refused soon
    security: str = "custom"  # the level of security in force
    cover_bytes: int = 0  # of bytes_out, those that say nothing
    access: str = "none"  # the store of access rules: "none", "ready", or since when it is away and why
