# SPDX-License-Identifier: MIT
"""Which of a node's peers are meant, and one message to all of them."""

from collections.abc import Iterable

from qg.errors import ClosedError, RemoteError
from qg.peer import Peer
from qg.stream import Priority
from qg.types import ExtenderId

__all__ = ["broadcast", "peers_find"]


def peers_find(
    peers: Iterable[Peer],
    extender_ids: Iterable[ExtenderId],
    *,
    is_relayed: bool | None,
    is_outgoing: bool | None,
) -> list[Peer]:
    """Give those that offer all of these services and are as asked; None: either will do."""
    wanted = set(extender_ids)
    return [
        peer
        for peer in peers
        if wanted <= set(peer.extenders)
        and is_relayed in (None, peer.is_relayed)
        and is_outgoing in (None, peer.is_outgoing)
    ]


def broadcast(
    peers: Iterable[Peer], extender_id: ExtenderId, message: bytes | bytearray | memoryview, priority: Priority
) -> list[Peer]:
    """Send a message to each that can take it at once; give those it was sent to."""
    return [peer for peer in peers if _told(peer, extender_id, message, priority)]


def _told(peer: Peer, extender_id: ExtenderId, message: bytes | bytearray | memoryview, priority: Priority) -> bool:
    try:
        return peer.is_connected and peer.try_send(extender_id, message, priority=priority)
    except (ClosedError, RemoteError):  # it is being closed, or what an earlier message met there
        return False
