# SPDX-License-Identifier: MIT
"""Handshakes one after the other leave no memory behind: python -m tools.assurance.handshakes [--handshakes N]

Nodes of one process dial one of them and close the link again. The slope of the resident memory over the number of
handshakes is that of a straight line through one look at every hundred, once what is reused has been taken.
"""

import argparse
import asyncio
import gc
from typing import Any

import qg
from qg.testing import conserved
from tools.assurance import finish
from tools.assurance.soak import resident_len, slope

N_HANDSHAKES = 100_000
N_WARM = 4_000  # by then the replay filter has touched all its pages
N_DIALLERS = 4  # two connects of one node to another share a link
LOOK = 100
SLOPE_MAX = 16  # bytes a handshake; the smallest thing that could be left behind is larger
ANY = 100_000


class Dialled:
    """A node, those that dial it, and how many handshakes they had."""

    def __init__(self, node: qg.Node) -> None:
        self._node = node
        self.n_done = 0
        self.looks: list[tuple[float, int]] = []

    async def dial(self, dialler: qg.Node, n_until: int) -> None:
        while self.n_done < n_until:
            self.n_done += 1
            if self.n_done % LOOK == 0:
                self.looks.append((self.n_done, resident_len()))
            peer = await dialler.connect(self._node.address)
            await peer.close()

    async def dial_all(self, diallers: list[qg.Node], n_until: int) -> None:
        async with asyncio.TaskGroup() as group:
            for dialler in diallers:
                group.create_task(self.dial(dialler, n_until))


def limits() -> qg.LimitsConfig:
    return qg.LimitsConfig(node_handshakes_per_s=ANY, handshake_cpu_ms=100)


async def handshaken(n: int, n_warm: int = N_WARM) -> dict[str, Any]:
    """Have so many handshakes after those that warm up; raises AssertionError if one is missing."""
    async with conserved() as closed:
        node = qg.Node(
            qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], config=qg.Config(workers=1, limits=limits())
        )
        diallers = [qg.Node(qg.Identity.generate(), config=qg.Config(workers=1)) for _ in range(N_DIALLERS)]
        closed += [node, *diallers]
        try:
            for each in closed:
                await each.start()
            dialled = Dialled(node)
            await dialled.dial_all(diallers, n_warm)
            gc.collect()
            dialled.looks.clear()
            await dialled.dial_all(diallers, n_warm + n)
            assert node.status().counters["handshakes"] == dialled.n_done
        finally:
            for each in closed:
                await each.close()
    looks = dialled.looks
    return {
        "handshakes": dialled.n_done - n_warm,
        "resident_mib": round(looks[-1][1] / (1 << 20), 1),
        "growth_kib": (looks[-1][1] - looks[0][1]) // 1024,
        "slope_bytes_per_handshake": round(slope(looks), 2),
        "slope_max": SLOPE_MAX,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Handshakes one after the other leave no memory behind.")
    parser.add_argument("--handshakes", type=int, default=N_HANDSHAKES)
    figures = asyncio.run(handshaken(parser.parse_args().handshakes))
    finish("handshakes", figures["slope_bytes_per_handshake"] < SLOPE_MAX, **figures)


if __name__ == "__main__":
    main()
