# SPDX-License-Identifier: MIT
"""What nDPI calls conversations of ours, with and without shaped first bytes; HTTP and SSH as controls.

Some of its rules look at a byte or two, so that it has a name for one in a hundred flows of random bytes. Ours are
unknown to it if it names no more of them than of those.
"""

import random
import tempfile
from pathlib import Path

from looks.capture import named_more, names_given
from looks.measure import deviations
from looks.probes import seed_make

from tools.assurance import finish, programs_install

N_FLOWS = 500
ERROR = 1e-4  # of both comparisons together


def main() -> None:
    programs_install(ndpiReader="libndpi-bin")
    seed = seed_make()
    with tempfile.TemporaryDirectory() as folder:
        names = names_given(Path(folder) / "flows.pcap", N_FLOWS, random.Random(seed))
    more = {group: round(named_more(names[group], names["random"]), 2) for group in ("uniform", "printable6")}
    finish(
        "classified",
        max(more.values()) < deviations(ERROR / 2) and names["control"] == {"HTTP": 1, "SSH": 1},
        seed=seed,
        names=names,
        deviations_from_random=more,
    )


if __name__ == "__main__":
    main()
