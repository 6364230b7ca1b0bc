# SPDX-License-Identifier: MIT
"""Does a sample look as it should? Tests of distributions, each with the probability by which chance exceeds it."""

import math
from bisect import bisect_right
from collections import Counter


def chi_square(counts, n_bins):
    """Compare counts of values with the same expectation for all; the square sum in deviations of its distribution."""
    expected = sum(counts.values()) / n_bins
    square = sum((n - expected) ** 2 for n in counts.values()) / expected + (n_bins - len(counts)) * expected
    return normal_of(square, n_bins - 1)


def normal_of(square, n_free):
    """Wilson and Hilferty: the cube root of a chi-square is nearly normal."""
    return ((square / n_free) ** (1 / 3) - (1 - 2 / (9 * n_free))) / math.sqrt(2 / (9 * n_free))


def tail(deviation):
    """Give the probability that a normal variable exceeds so many deviations, upwards."""
    return math.erfc(deviation / math.sqrt(2)) / 2


def deviations(error):
    """Give the number of deviations that a normal variable exceeds, upwards, with probability `error`."""
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) > error else (low, middle)
    return high


def kolmogorov_smirnov(values, least, most):
    """Give the largest distance between the distribution of the values and the uniform one of whole numbers."""
    n_below, counts, distance = 0, Counter(values), 0.0
    for value in range(least, most + 1):
        n_below += counts[value]
        distance = max(distance, abs(n_below / len(values) - (value - least + 1) / (most - least + 1)))
    return distance


def ks_p(distance, n):
    """Give how likely chance makes a distance of Kolmogorov and Smirnov at least so large, for n large."""
    if distance * math.sqrt(n) < 0.2:
        return 1.0  # the sum below converges slowly, and nothing is more likely
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * n * (k * distance) ** 2) for k in range(1, 101))


def ks_same(one, other):
    """Give how likely two samples of one distribution differ by so much."""
    one, other = sorted(one), sorted(other)
    distance = max(
        abs(bisect_right(one, value) / len(one) - bisect_right(other, value) / len(other)) for value in one + other
    )
    return ks_p(distance, len(one) * len(other) / (len(one) + len(other)))


def ks_uniform(values, low, high):
    """Give how likely a sample of the uniform distribution from low to high is so far from it."""
    values = sorted(values)
    n = len(values)
    places = [(value - low) / (high - low) for value in values]
    distance = max(max((idx + 1) / n - place, place - idx / n) for idx, place in enumerate(places))
    return ks_p(distance, n)
