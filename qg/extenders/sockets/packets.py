# SPDX-License-Identifier: MIT
"""Datagrams on a stream: each behind its length in two bytes."""

import qg

__all__ = ["PACKET_MAX", "packet_read", "packet_write"]

PACKET_MAX = 65_535


async def packet_read(stream: qg.Stream) -> bytes | None:
    """Read a datagram; None at the end of the stream. Cancelled, it may have read a part of one."""
    try:
        n = int.from_bytes(await stream.readexactly(2), "big")
        return await stream.readexactly(n)
    except qg.IncompleteRead as error:
        if error.partial:
            raise
        return None


def packet_write(stream: qg.Stream, packet: bytes) -> bool:
    """Write a datagram; False when there is no room, for datagrams do not wait."""
    if len(packet) > PACKET_MAX:
        return False
    try:
        stream.write_nowait(len(packet).to_bytes(2, "big") + packet)
    except qg.QGError:
        return False
    return True
