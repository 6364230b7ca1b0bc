# SPDX-License-Identifier: MIT
"""Have a node count the lines, words and bytes of a file: python count.py FILE"""

import asyncio
import sys
from pathlib import Path

import wordcount

import qg

WORDCOUNT = qg.ExtenderId("5a1c8a3e-9d0b-4f0e-8a57-3f5f1e0c7b11")


async def main(path):
    extender = qg.NativeExtender(WORDCOUNT, wordcount.table())
    async with (
        qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], extenders=[extender]) as server,
        qg.Node(qg.Identity.generate()) as client,
    ):
        peer = await client.connect(server.address)
        async with await peer.open_stream(WORDCOUNT) as stream:
            await stream.write(Path(path).read_bytes())
            stream.finish()
            print((await stream.read()).decode(), end="")


asyncio.run(main(sys.argv[1]))
