# SPDX-License-Identifier: MIT
"""The choice of relays for a path (docs/protocol.md, section 6.2): at random, and never two of one network."""

from collections.abc import Iterable, Mapping, Sequence
from random import Random, SystemRandom
from typing import NamedTuple

from qg.errors import NoRoute
from qg.relays import KnownRelay

__all__ = ["Bars", "no_route", "relays_draw", "relays_usable", "route_choose"]

_RANDOM = SystemRandom()


class Bars(NamedTuple):
    """Say which relays cannot stand on a path, beside those that have failed lately."""

    nodes: tuple[KnownRelay, ...]  # source and target, and what is on the path already
    networks: frozenset[bytes]  # theirs

    def with_relay(self, relay: KnownRelay) -> "Bars":
        """Bar a relay that was chosen, and its networks."""
        return Bars((*self.nodes, relay), self.networks | relay.networks)


def relays_usable(
    known: Iterable[KnownRelay], bars: Bars, avoided: Iterable[KnownRelay]
) -> tuple[list[KnownRelay], dict[str, int]]:
    """Give the relays that may be chosen, and how many each rule has taken out."""
    avoided_keys = {relay.key for relay in avoided}
    removed = dict.fromkeys(("on the path or at its ends", "failed lately", "in a network of the path or its ends"), 0)
    on_path, failed, near = removed
    usable = []
    for relay in known:
        if any(relay.is_same(node) for node in bars.nodes):
            removed[on_path] += 1
        elif relay.key in avoided_keys:
            removed[failed] += 1
        elif relay.networks & bars.networks:
            removed[near] += 1
        else:
            usable.append(relay)
    return usable, removed


def relays_draw(usable: Sequence[KnownRelay], n: int, random: Random = _RANDOM) -> list[KnownRelay]:
    """Draw up to n relays, all distinct, of which no two have a network in common; fewer where there are no more.

    A network is drawn first and then one of its relays, so that many relays in one network are worth no more than one:
    what an attacker would have to own are networks.
    """
    by_network: dict[bytes, list[KnownRelay]] = {}
    for relay in usable:
        by_network.setdefault(min(relay.networks), []).append(relay)
    chosen: list[KnownRelay] = []
    taken: frozenset[bytes] = frozenset()
    for network in random.sample(sorted(by_network), len(by_network)):
        free = [
            relay
            for relay in by_network[network]
            if not relay.networks & taken and not any(relay.is_same(other) for other in chosen)
        ]
        if free and len(chosen) < n:
            chosen.append(random.choice(free))
            taken |= chosen[-1].networks
    return chosen


def route_choose(
    known: Sequence[KnownRelay],
    n: int,
    bars: Bars,
    avoided: Sequence[KnownRelay] = (),
    random: Random = _RANDOM,
) -> list[KnownRelay]:
    """Choose n relays; raises `NoRoute` that says which rule removed how many."""
    usable, removed = relays_usable(known, bars, avoided)
    chosen = relays_draw(usable, n, random)
    if len(chosen) < n:
        removed["in one network with another"] = len(usable) - len(chosen)
        raise no_route(n, len(known), removed)
    return chosen


def no_route(n: int, n_known: int, removed: Mapping[str, int]) -> NoRoute:
    """Make the error for n relays more that cannot be had."""
    reasons = ", ".join(f"{count} {rule}" for rule, count in removed.items() if count)
    left = n_known - sum(removed.values())
    return NoRoute(
        f"choosing {n} relays failed: {n_known} are known"
        + (f", of which {reasons}: {left} left" if reasons else "")
        + "; name more of them by `relays` in the configuration, in other networks (/16 of IPv4, /48 of IPv6), or"
        " connect to nodes that relay",
        removed,
    )
