# SPDX-License-Identifier: MIT
"""What a node has asked its core for, and somebody waits for."""

import asyncio
from typing import Any, Generic, TypeVar, final

from qg.address import Address, Endpoint
from qg.errors import QGError
from qg.peer import Peer

__all__ = ["Connecting", "Listening", "Request"]

_T = TypeVar("_T")


class Request(Generic[_T]):
    """Be a question to the core whose answer somebody waits for."""

    def __init__(self, future: "asyncio.Future[_T]") -> None:
        self.future = future

    def resolve(self, answer: _T) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: QGError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@final
class Listening(Request[Endpoint]):
    def __init__(self, future: "asyncio.Future[Endpoint]", endpoint: Endpoint) -> None:
        super().__init__(future)
        self.endpoint = endpoint


@final
class Connecting(Request[Peer]):
    def __init__(
        self, future: "asyncio.Future[Peer]", hops: tuple[Address, ...], gone: Peer | None, *, is_masked: bool
    ) -> None:
        super().__init__(future)
        self.hops = hops
        self.wanted: list[tuple[Any, ...]] = []  # the hops as the core takes them
        self.gone = gone  # comes back as the same object
        self.is_masked = is_masked  # under an identity of its own
        self.isolation = 0
        self.is_second = False  # it was tried before
        self.peer: Peer | None = None  # once it is up

    def give(self, peer: Peer) -> None:
        self.peer = peer
        peer.n_claims += 1
        self.resolve(peer)
