# SPDX-License-Identifier: MIT
"""How a request to connect somewhere went: one byte on the stream."""

import asyncio
from enum import IntEnum

import qg

__all__ = ["OUTCOME_S", "Outcome", "Refusal", "outcome_of", "outcome_read"]

OUTCOME_S = 30.0  # for the other side to say how it went; it gives up before


class Outcome(IntEnum):
    """Tell how a request went, in the codes of SOCKS5 (RFC 1928, section 6)."""

    OK = 0
    FAILED = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    TIMED_OUT = 6
    NO_COMMAND = 7
    NO_ADDRESS_KIND = 8


class Refusal(Exception):
    """Say why a request is not carried out; `outcome` is what the other side hears."""

    def __init__(self, outcome: Outcome, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


async def outcome_read(stream: qg.Stream) -> Outcome:
    """Read what the other side says first; raises `RemoteError` when the stream ends before."""
    try:
        async with asyncio.timeout(OUTCOME_S):
            return outcome_of(await stream.readexactly(1))
    except TimeoutError:
        return Outcome.TIMED_OUT


def outcome_of(said: bytes) -> Outcome:
    """Understand what the other side said; what is unknown is a failure."""
    try:
        return Outcome(said[0])
    except ValueError:
        return Outcome.FAILED
