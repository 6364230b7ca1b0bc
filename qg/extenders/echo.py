# SPDX-License-Identifier: MIT
"""Give back what comes: the least service there is, to try a node with and to measure it by."""

import qg

__all__ = ["Echo"]


class Echo(qg.Extender):
    """Send every message back, and every byte of every stream."""

    id = qg.ExtenderId("eea02fde-d60d-4006-b11d-3d5dec11530a")

    async def on_message(self, peer: qg.Peer, message: bytes) -> None:
        """Send the message back."""
        await peer.send(self.id, message)

    async def on_stream(self, stream: qg.Stream) -> None:
        """Write what is read, as fast as the peer reads it."""
        async for chunk in stream:
            await stream.write(chunk)
