# SPDX-License-Identifier: MIT
"""Does use show? An observer is trained on windows of links under cover traffic, and on the same without."""

import asyncio
import secrets

from looks.lines import windows
from looks.observer import share_right
from sim.covered import Link

from qg.config import CoverConfig
from tools.assurance import finish

N_WINDOWS, WINDOW_S, N_LINKS = 2000, 10, 100
POISSON = {"mode": 2, "size": 1200, "per_s": 10}


def virtual(seed: str, **options: object) -> float:
    link = Link(seed, **options)
    share = share_right(link.windows(N_WINDOWS), seed)
    link.close()
    return share


def real(cover: CoverConfig, n_windows: int) -> float:
    seed = secrets.token_hex(8)
    return share_right(asyncio.run(windows(cover, N_LINKS, n_windows, WINDOW_S, seed)), seed)


def main() -> None:
    seed = secrets.token_hex(8)
    circuits = POISSON | {"on_links": False, "on_circuits": True}
    covered = {
        "link_on_the_virtual_clock": virtual(seed, cover=POISSON),
        "circuit_on_the_virtual_clock": virtual(seed, n_relays=2, cover=circuits),
        "real_links": real(CoverConfig(mode="poisson", rate_per_s=10), N_WINDOWS // N_LINKS),
    }
    bare = {
        "link_on_the_virtual_clock": virtual(seed),
        "circuit_on_the_virtual_clock": virtual(seed, n_relays=2),
        "real_links": real(CoverConfig(), 4),
    }
    finish(
        "patterns",
        max(covered.values()) <= 0.55 and min(bare.values()) >= 0.9,
        n_windows=N_WINDOWS,
        window_s=WINDOW_S,
        n_real_links=N_LINKS,
        share_right_under_poisson={name: round(share, 3) for name, share in covered.items()},
        share_right_without_cover={name: round(share, 3) for name, share in bare.items()},
    )


if __name__ == "__main__":
    main()
