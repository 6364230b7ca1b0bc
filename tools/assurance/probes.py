# SPDX-License-Identifier: MIT
"""Ten thousand probes of an engine on a virtual clock, drawn anew: bytes answered, and what close times tell."""

from looks.measure import ks_uniform
from looks.probes import seed_make, ways_compare
from looks.silence import ground_probed

from tools.assurance import finish

N_PROBES = 10_000
ERROR = 1e-4  # unseeded: of all comparisons together
BIAS_S = 5


def main() -> None:
    seed = seed_make()
    ground, ways = ground_probed(seed, N_PROBES, max_sinks=20_000, max_half_open=20_000, max_sessions=40_000)
    lives = ground.lives_s(ways)
    likely = ways_compare(lives)
    likely["all-uniform"] = ks_uniform([life for values in lives.values() for life in values], 30, 90)
    biased = lives | {"wrong": [life + BIAS_S for life in lives["wrong"]]}
    bias_likely = min(ways_compare(biased).values())
    n_answered = sum(ground.answered.values())
    finish(
        "probes",
        n_answered == 0 and min(likely.values()) > ERROR / len(likely) and bias_likely < ERROR / len(likely),
        seed=seed,
        n_probes=len(ways),
        n_bytes_answered=n_answered,
        family_error=ERROR,
        ks_p=likely,
        ks_p_with_bias_of_5_s=bias_likely,
    )


if __name__ == "__main__":
    main()
