# SPDX-License-Identifier: MIT
"""Slow readable references, written from the definitions and sharing no code with the package."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr, ndtri

Floats = NDArray[np.float64]


def bin_of(x: float, edges: Floats, closed: str) -> int:
    """The bin of one confidence, by looking at each: (e, e'] or [e, e'); the outer ends belong."""
    bins = len(edges) - 1
    for m in range(bins):
        low, high = edges[m], edges[m + 1]
        if closed == "right" and (low < x <= high or (m == 0 and x == low)):
            return m
        if closed == "left" and (low <= x < high or (m == bins - 1 and x == high)):
            return m
    raise AssertionError(f"{x} lies in no bin of {edges}")


def plain_ece(correct: Floats, confidence: Floats, edges: Floats, closed: str) -> float:
    """(1/N) sum_m |sum_{n in bin m} (c_n - z_n)|."""
    sums = np.zeros(len(edges) - 1)
    for c, z in zip(correct, confidence, strict=True):
        sums[bin_of(z, edges, closed)] += c - z
    return float(np.abs(sums).sum() / len(correct))


def plain_brier(correct: Floats, confidence: Floats) -> float:
    """(1/N) sum_n (c_n - z_n)^2."""
    return float(np.mean((np.asarray(correct, float) - confidence) ** 2))


def worst_brier(correct: Floats, lower: Floats, upper: Floats) -> float:
    """The larger squared error of the two ends, sample by sample."""
    c = np.asarray(correct, float)
    return float(np.mean(np.maximum((c - lower) ** 2, (c - upper) ** 2)))


class Piece(NamedTuple):
    """The closure of what an interval and a bin have in common."""

    bin: int
    low: float
    high: float


def pieces(lower: float, upper: float, edges: Floats, closed: str) -> list[Piece]:
    """Where a confidence can go, one piece a bin that it reaches."""
    reached = range(bin_of(lower, edges, closed), bin_of(upper, edges, closed) + 1)
    return [Piece(m, max(lower, edges[m]), min(upper, edges[m + 1])) for m in reached]


def worst_ece_by_signs(
    correct: Floats, lower: Floats, upper: Floats, edges: Floats, closed: str = "right"
) -> float:
    """The maximum over all sign vectors of the sum of what each sample can add."""
    places = [pieces(lo, up, edges, closed) for lo, up in zip(lower, upper, strict=True)]
    best = 0.0
    for signs in itertools.product((-1, 1), repeat=len(edges) - 1):
        total = sum(
            max(signs[p.bin] * (c - z) for p in place for z in (p.low, p.high))
            for c, place in zip(correct, places, strict=True)
        )
        best = max(best, total)
    return best / len(correct)


def worst_ece_by_assignments(
    correct: Floats, lower: Floats, upper: Floats, edges: Floats, closed: str = "right"
) -> float:
    """The maximum over all ways to put the samples in bins; inside a bin all move to one side."""
    places = [pieces(lo, up, edges, closed) for lo, up in zip(lower, upper, strict=True)]
    best = 0.0
    for chosen in itertools.product(*places):
        up, down = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
        for c, p in zip(correct, chosen, strict=True):
            up[p.bin] += c - p.low
            down[p.bin] += c - p.high
        best = max(best, float(np.maximum(np.abs(up), np.abs(down)).sum()))
    return best / len(correct)


def sampled_eces(
    correct: Floats, lower: Floats, upper: Floats, edges: Floats, closed: str, draws: int, seed: int
) -> Iterator[float]:
    """Plain ECEs of confidences inside the intervals: both ends, coin-tossed ends, and uniform."""
    random = np.random.default_rng(seed)
    yield plain_ece(correct, lower, edges, closed)
    yield plain_ece(correct, upper, edges, closed)
    for _ in range(draws):
        t = random.random(len(lower))
        for share in (t, np.round(t)):
            inside = np.clip(lower + share * (upper - lower), lower, upper)
            yield plain_ece(correct, inside, edges, closed)


def binomial_tail(k: int, n: int, p: float) -> mpmath.mpf:
    """P(Binomial(n, p) >= k) to 30 digits, for k above the mean, where the terms fall."""
    with mpmath.workdps(40):
        if k == 0:
            return mpmath.mpf(1)
        chance = mpmath.mpf(p)
        if chance == 0:
            return mpmath.mpf(0)
        if chance == 1:
            return mpmath.mpf(1)
        assert k >= n * p, "terms would rise first"
        term = mpmath.exp(
            mpmath.loggamma(n + 1)
            - mpmath.loggamma(k + 1)
            - mpmath.loggamma(n - k + 1)
            + k * mpmath.log(chance)
            + (n - k) * mpmath.log1p(-chance)
        )
        total, odds = term, chance / (1 - chance)
        for j in range(k, n):
            term *= odds * (n - j) / (j + 1)
            total += term
            if term < total * mpmath.mpf(10) ** -30:
                break
        return total


def normal_cdf(x: mpmath.mpf) -> mpmath.mpf:
    """Phi(x) to 40 digits."""
    with mpmath.workdps(60):
        return mpmath.ncdf(x)


class PlainSet(NamedTuple):
    """What ``smoothed_set`` finds at a radius."""

    rows: NDArray[np.int64]
    lower: Floats
    upper: Floats


def smoothed_set(
    votes: NDArray[np.int64], n: int, sigma: float, alpha: float, radius: float
) -> PlainSet:
    """The certified set and its intervals in plain SciPy, rounded to nearest."""
    with np.errstate(invalid="ignore"):
        p_lower = np.where(votes == 0, 0.0, betaincinv(votes, n - votes + 1, alpha / 2))
        p_upper = np.where(votes == n, 1.0, betaincinv(votes + 1, n - votes, 1 - alpha / 2))
    below, above = ndtri(p_lower) - radius / sigma, ndtri(p_upper) + radius / sigma
    rows = np.flatnonzero(below > 0)
    return PlainSet(rows, ndtr(below[rows]), ndtr(above[rows]))
