# SPDX-License-Identifier: MIT
"""Whoever sees sizes and times of what passes on a link, and learns from examples whether somebody uses it."""

import itertools
import math
import operator
import random

N_ROUNDS = 40
N_CUTS = 24


def features(pieces, start_s, window_s):
    """Describe what passed in a window: `pieces` are (time in s, bytes)."""
    lengths = [length for _, length in pieces]
    times = [start_s, *(time for time, _ in pieces), start_s + window_s]
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    bins = [0] * 20
    for time, length in pieces:
        bins[min(19, int((time - start_s) / window_s * 20))] += length
    return [
        len(pieces),
        sum(lengths),
        max(lengths, default=0),
        min(lengths, default=0),
        len(set(lengths)),
        *_spread(lengths),
        *_spread(gaps),
        max(gaps),
        sum(gap < 0.001 for gap in gaps),
        sum(gap < 0.01 for gap in gaps),
        sum(gap > window_s / 4 for gap in gaps),
        *_spread(bins),
        max(bins),
        sum(length == 0 for length in bins),
        _follows(bins),
        _follows(gaps),
    ]


def _spread(values):
    """Give mean and deviation."""
    if not values:
        return 0.0, 0.0
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def _follows(values):
    """Give how much each value resembles the one before it."""
    mean, deviation = _spread(values)
    if deviation == 0 or len(values) < 2:
        return 0.0
    pairs = itertools.pairwise(values)
    return sum((one - mean) * (other - mean) for one, other in pairs) / (len(values) * deviation**2)


class Observer:
    """Boosted thresholds (Freund and Schapire): each round weighs more what the rounds before got wrong."""

    def __init__(self, examples, labels):
        n = len(examples)
        self.rules = []  # (weight, which feature, threshold): above it is a vote for yes
        signs = [1 if label else -1 for label in labels]
        weights = [1 / n] * n
        candidates = [
            (idx, cut, [1 if example[idx] > cut else -1 for example in examples])
            for idx in range(len(examples[0]))
            for cut in _cuts([example[idx] for example in examples])
        ]
        for _ in range(N_ROUNDS if candidates else 0):
            signed = [weight * sign for weight, sign in zip(weights, signs, strict=True)]
            edges = [sum(map(operator.mul, signed, votes)) for _, _, votes in candidates]
            best = max(range(len(edges)), key=lambda which: abs(edges[which]))
            idx, cut, votes = candidates[best]
            edge = max(-0.999, min(0.999, edges[best]))
            weight = 0.5 * math.log((1 + edge) / (1 - edge))
            self.rules.append((weight, idx, cut))
            weights = [
                each * math.exp(-weight * vote * sign) for each, vote, sign in zip(weights, votes, signs, strict=True)
            ]
            total = sum(weights)
            weights = [each / total for each in weights]

    def sees_use(self, example):
        """Say whether somebody uses the link."""
        return sum(weight if example[idx] > cut else -weight for weight, idx, cut in self.rules) > 0


def _cuts(values):
    """Give thresholds between the values, evenly by their rank."""
    ranked = sorted(set(values))
    middles = [(low + high) / 2 for low, high in itertools.pairwise(ranked)]
    step = max(1, len(middles) // N_CUTS)
    return middles[step // 2 :: step]


def share_right(windows, seed):
    """Train an observer on half of the windows, (features, whether the link was used), and let it judge the others."""
    windows = list(windows)
    random.Random(seed).shuffle(windows)
    known, judged = windows[: len(windows) // 2], windows[len(windows) // 2 :]
    observer = Observer([example for example, _ in known], [label for _, label in known])
    return sum(observer.sees_use(example) == label for example, label in judged) / len(judged)
