# SPDX-License-Identifier: MIT
"""The exception tree of qg.

Everything that qg raises on purpose is a `QGError`: a `LocalError` when this program or its configuration is at
fault, a `RemoteError` when a peer, or the way to it, is. Anything but a `QGError` is our bug (cancellation and the
`TimeoutError` of `asyncio.timeout` excepted, which belong to asyncio).
"""

from collections.abc import Mapping
from enum import IntEnum

__all__ = [
    "AddressError",
    "Busy",
    "ClosedError",
    "ConfigError",
    "HandshakeFailed",
    "InvalidValue",
    "KeyFileError",
    "KeyFileExists",
    "KeyFileMissing",
    "ListenError",
    "LocalError",
    "NoRoute",
    "PeerClosed",
    "PeerTimeout",
    "QGError",
    "Reason",
    "Refused",
    "RemoteError",
    "StreamReset",
    "Unreachable",
    "Unsupported",
    "UsageError",
    "error_from_reason",
]


class Reason(IntEnum):
    """Say why a stream or link ended: the reasons of docs/protocol.md, section 7; unknown numbers read as `NONE`."""

    NONE = 0
    PROTOCOL = 1
    INTERNAL = 2
    SHUTDOWN = 3
    REFUSED = 4
    UNREACHABLE = 5
    BUSY = 6
    LIMIT = 7
    UNSUPPORTED = 8
    TIMEOUT = 9
    MEMORY = 10
    SLOW_READER = 11
    HOPS = 12
    DUPLICATE = 13
    IDLE = 14
    REKEY = 15
    CANCELLED = 16

    @classmethod
    def _missing_(cls, value: object) -> "Reason | None":
        return cls.NONE if isinstance(value, int) else None


class QGError(Exception):
    """Be the root of all errors of qg; anything else that comes out of qg is our bug."""


class LocalError(QGError):
    """Report a mistake on this side: misuse of the API, a bad value, file or setting."""


class UsageError(LocalError, RuntimeError):
    """Report a call that is not allowed here: from another event loop or thread, out of order, or twice."""


class ClosedError(UsageError):
    """Report the use of a node, peer or stream that this side has closed."""


class InvalidValue(LocalError, ValueError):
    """Report an argument or text that is not a valid value of its kind."""


class AddressError(InvalidValue):
    """Report a text that is not an address or endpoint; the message names the part that is wrong."""


class ConfigError(InvalidValue):
    """Report all that is wrong in a configuration: one line for each of `problems` (file, key, allowed values)."""

    problems: tuple[str, ...]

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class KeyFileError(LocalError):
    """Report a key or secret file that cannot be used or written; the message says what to do."""


class KeyFileMissing(KeyFileError, FileNotFoundError):
    """Report a key or secret file that does not exist."""


class KeyFileExists(KeyFileError, FileExistsError):
    """Report a key or secret file that would have been overwritten."""


class ListenError(LocalError, OSError):
    """Report an endpoint that cannot be listened on: in use, not permitted, or not an address of this machine."""


class NoRoute(LocalError):
    """Report that too few relays are known for a path; `removed` tells which rule has taken out how many."""

    removed: dict[str, int]

    def __init__(self, message: str, removed: Mapping[str, int]) -> None:
        super().__init__(message)
        self.removed = dict(removed)

    def __reduce__(self) -> tuple[type["NoRoute"], tuple[object, ...]]:
        return type(self), (*self.args, self.removed)


class RemoteError(QGError):
    """Report what a peer, or the network on the way to it, did; `reason` is what the wire said, if anything.

    Of a circuit that could not be built, `hop_idx` is the place where its path ended: 0 the first relay.
    """

    reason: Reason = Reason.NONE
    hop_idx: int | None = None

    def __init__(self, message: str, reason: Reason = Reason.NONE) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (*self.args, self.reason), vars(self)


class Unreachable(RemoteError, ConnectionError):
    """Report a peer that no connection could be made to."""


class HandshakeFailed(RemoteError, ConnectionError):
    """Report a peer that answered but did not prove to be the one that was dialled."""


class Refused(RemoteError, PermissionError):
    """Report a peer or relay whose policy forbids what was asked."""


class Unsupported(RemoteError, ConnectionError):
    """Report a peer that does not have the extender or feature that was asked for."""


class Busy(RemoteError, ConnectionError):
    """Report a peer or relay that is at one of its limits; the same may work later."""


class PeerTimeout(RemoteError, TimeoutError):
    """Report a peer that did not answer in time."""


class PeerClosed(RemoteError, ConnectionError):
    """Report that the link to the peer has ended, by the peer or by the network."""


class StreamReset(RemoteError, ConnectionResetError):
    """Report that the peer, or a relay on the way, ended one stream before its end."""


# reason -> exception, what happened, what to do
_BY_REASON: dict[Reason, tuple[type[RemoteError], str, str]] = {
    Reason.NONE: (StreamReset, "it was ended without a reason", "try again, or look into the peer's log"),
    Reason.PROTOCOL: (StreamReset, "the protocol was violated", "check that both sides run compatible versions"),
    Reason.INTERNAL: (StreamReset, "the peer had an internal error", "look into the peer's log"),
    Reason.SHUTDOWN: (PeerClosed, "the peer is shutting down", "connect again when it is back"),
    Reason.REFUSED: (Refused, "it was refused by policy", "ask the operator to allow this PeerID or target"),
    Reason.UNREACHABLE: (Unreachable, "the target cannot be reached", "check the address and that it is running"),
    Reason.BUSY: (Busy, "the peer is busy", "try again later"),
    Reason.LIMIT: (Busy, "a limit of the peer is reached", "close what is not needed or try again later"),
    Reason.UNSUPPORTED: (Unsupported, "the peer does not offer this", "check that the peer runs the same extender"),
    Reason.TIMEOUT: (PeerTimeout, "there was no answer in time", "check the address and that the peer is running"),
    Reason.MEMORY: (Busy, "the peer ran out of its memory budget", "try again later, or read faster"),
    Reason.SLOW_READER: (StreamReset, "data was not read in time", "read faster, or use more streams"),
    Reason.HOPS: (Refused, "the path is too long", "use fewer relays"),
    Reason.DUPLICATE: (PeerClosed, "another link to the same peer took over", "use the peer again"),
    Reason.IDLE: (PeerClosed, "nothing was sent for too long", "connect again"),
    Reason.REKEY: (PeerClosed, "the keys could not be renewed", "connect again"),
    Reason.CANCELLED: (StreamReset, "the other side cancelled it", "try again if that was not meant"),
}


def refusal_from_reason(reason: int, what: str, where: str, terms: str) -> RemoteError:
    """Make the exception for a relay that does not carry a circuit on; `terms` is what it had announced, or empty."""
    known = Reason(reason)
    kind, happened, advice = _BY_REASON[known]
    return kind(f"{what} failed: refused by {where}: {happened}{terms}; {advice}", known)


def error_from_reason(reason: int, what: str, where: str) -> RemoteError:
    """Make the exception for a reason of the wire.

    `what` is what was being done ("opening a stream"), `where` with whom ("peer 5f0c…" or an address). An unknown
    number counts as `Reason.NONE`. Returns the exception; raises nothing. Callable from any thread.
    """
    known = Reason(reason)
    kind, happened, advice = _BY_REASON[known]
    return kind(f"{what} failed at {where}: {happened}; {advice}", known)
