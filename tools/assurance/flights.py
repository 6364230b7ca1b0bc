# SPDX-License-Identifier: MIT
"""Twenty thousand first flights: bytes at every offset, lengths, repeats, and the published rules of a censor."""

import os

from core.endpoint_help import NOW_S
from looks.flights import ERROR, bit_fix, blocked_share, bytes_spread, lengths_likely, repeats_count
from looks.probes import Flights

from tools.assurance import finish

N_FLIGHTS = 20_000


def flights_make(**options: int) -> list[bytes]:
    make = Flights(os.urandom(32), NOW_S, **options).make
    return [make() for _ in range(N_FLIGHTS)]


def main() -> None:
    uniform, printable = flights_make(), flights_make(first_bytes=1)
    spread, shaped = bytes_spread(uniform), bytes_spread(printable, begin=6)
    spoilt = bytes_spread(bit_fix(uniform, 700, 3))
    likely, n_repeats = lengths_likely(uniform), repeats_count(uniform)
    blocked = {"uniform": blocked_share(uniform), "printable6": blocked_share(printable)}
    finish(
        "flights",
        spread.largest < spread.limit
        and shaped.largest < shaped.limit
        and spoilt.largest > spoilt.limit
        and likely > ERROR
        and n_repeats == 0
        and blocked["uniform"] > 0.99
        and blocked["printable6"] == 0,
        n_flights=N_FLIGHTS,
        family_error=ERROR,
        n_compared=spread.n_compared,
        largest_deviation=round(spread.largest, 2),
        deviation_allowed=round(spread.limit, 2),
        largest_deviation_printable6=round(shaped.largest, 2),
        deviation_with_one_fixed_bit=round(spoilt.largest, 1),
        lengths_ks_p=likely,
        n_repeats_of_8_bytes=n_repeats,
        blocked_by_rules_of_2023=blocked,
    )


if __name__ == "__main__":
    main()
