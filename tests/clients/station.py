# SPDX-License-Identifier: MIT
"""A program: a node with an exit that remembers its targets. Arguments: file of the network, endpoint, rules.

A real exit keeps no such list. It prints the node's address, then for each line of input what was counted, as JSON; it
ends with its input.
"""

import asyncio
import json
import sys
from collections import defaultdict

import qg
from qg.extenders.proxy import exit as exit_module
from qg.extenders.proxy.exit import CONNECT, Exit
from qg.extenders.sockets.target import Target, target_read


class Ledger(Exit):
    """Count connections and bytes for each target, as it was asked for."""

    def __init__(self, rules):
        super().__init__(rules)
        self.targets = defaultdict(lambda: [0, 0, 0])  # connections, bytes out, bytes in
        self.n_open = 0  # streams that are not counted yet

    async def on_stream(self, stream):
        self.n_open += 1
        try:
            await super().on_stream(stream)
        finally:
            self.n_open -= 1
            if stream.metadata[0] == CONNECT:
                row = self.targets[str(target_read(stream.metadata[1:])[0])]
                row[0] += 1
                row[1] += stream.carried.n_received
                row[2] += max(0, stream.carried.n_sent - 1)  # the outcome was the first


class Association(exit_module._Association):
    """Count datagrams and their bytes for each target."""

    async def _send(self, hosts, target, payload):
        n_before = self._owner.counts["datagrams_out"]
        await super()._send(hosts, target, payload)
        if self._owner.counts["datagrams_out"] > n_before:
            row = self._owner.targets[f"udp {target}"]
            row[0] += 1
            row[1] += len(payload)

    def datagram_received(self, data, source):
        super().datagram_received(data, source)
        self._owner.targets[f"udp {Target(*source[:2])}"][2] += len(data)


exit_module._Association = Association


async def run(network_file, listen, rules):
    ledger = Ledger(rules)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    secret = qg.NetworkSecret.load(network_file)
    async with qg.Node(qg.Identity.generate(), listen=[listen], extenders=[ledger], network_secret=secret) as node:
        print(node.address, flush=True)
        while await reader.readline():
            print(json.dumps([ledger.counts, ledger.targets, ledger.n_open]), flush=True)


asyncio.run(run(sys.argv[1], sys.argv[2], sys.argv[3:]))
