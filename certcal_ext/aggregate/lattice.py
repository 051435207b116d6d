# SPDX-License-Identifier: MIT
"""Binomial mixtures over the continuum of probabilities, bounded from above.

For votes K ~ Binomial(n, p), groups of outcomes j = 0, ..., J - 1 and weights v_j >= 0, let P(p) = sum_j v_j P(K in j
| p). A table is valid only if such a sum stays below 1 for *every* p, so it is bounded on each cell of a fine
partition of [0, 1]:

1. On a coarse cell [a, b], P lies below the chord of its values at a and b plus (b - a)^2 / 8 times the largest |P''|
   there. P'(p) is n sum_j (v_{j+1} - v_j) b(t_j | p), with t_j the last count of group j and b the probabilities of
   Binomial(n - 1, p), and b'(t | p) = b(t | p) (t - (n - 1) p) / (p (1 - p)). On the cell each factor is bounded by
   its largest value: b(t | .) rises up to p = t / (n - 1) and falls after it.
2. A fine cell lies in a coarse one, and a chord is largest at an end. Whatever multiplies P there is taken at its
   largest value on the fine cell.

Probabilities are computed in floating point; they are raised by a relative ``slack`` that is above what 40-digit
arithmetic showed to be their error (aggregate/test_tables.py). Counts further than 16 standard deviations from n p,
in arcsin sqrt, are left out: they have at most exp(-56) on a side (KL(a, p) >= (arcsin sqrt a - arcsin sqrt p)^2 and
Chernoff), which is added for the largest v.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import gammaln, ndtr

from certcal_ext._load import core
from certcal_ext.intervals.clopper_pearson import probit

Floats = NDArray[np.float64]

#: Most draws of a row.
MAX_DRAWS = 100_000

_REACH = 16.0  # standard deviations beyond which counts are left out
#: One less: these are deviations of n draws, and derivatives have the counts of n - 1 and n - 2.
_LEFT_OUT = 2.0 * math.exp(-((_REACH - 1.0) ** 2) / 4)
_CELLS = 20  # coarse cells in a standard deviation of arcsin sqrt(k / n)
_GROUPS = 2  # groups of counts in one, at most: finer ones are fitted to noise
_CHUNK = 64
_LEVELS = 16_000  # fine cells are no wider than this in either end under attack, and finer next to 0 and 1


@dataclass(frozen=True, eq=False)
class Lattice:
    """Probabilities of groups of counts at the ends of coarse cells, and how far a sum of them can curve between.

    Attributes:
        n: draws.
        starts: (J,) first count of each group.
        points: (G + 1,) ends of the coarse cells, 0 to 1.
        mass: (G + 1, J) probabilities of the groups.
        bend: (G, J - 1), by which a jump of 1 between two groups can lift a cell above its chord.
        slack: relative error allowed to the probabilities.
    """

    n: int
    starts: NDArray[np.int64]
    points: Floats
    mass: csr_array
    bend: csr_array
    slack: float

    def group_of(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The group of each count."""
        return np.searchsorted(self.starts, counts, side="right") - 1

    def summed(self, histogram: NDArray[np.int64]) -> NDArray[np.int64]:
        """(..., n + 1) numbers of rows by count, summed over the counts of each group."""
        return np.add.reduceat(histogram, self.starts, axis=-1)

    def sums(self, weights: Floats) -> Floats:
        """(G + 1,) the sum at the ends of the coarse cells, not rounded up."""
        return np.asarray(self.mass @ weights)

    def envelope(self, weights: Floats) -> tuple[Floats, Floats]:
        """The sum at the ends of coarse cells, rounded up, and (G,) what has to be added to chords between."""
        ends = self.sums(weights) * (1.0 + self.slack) + _LEFT_OUT * weights.max()
        bend = np.asarray(self.bend @ np.abs(np.diff(weights))) * (1.0 + 2.0 * self.slack)
        # Differences of counts that were left out, and the rounding of the place on the chord.
        bend += 2.0 * self.n**2 * np.diff(self.points) ** 2 * _LEFT_OUT * weights.max()
        bend += np.abs(np.diff(ends)) * 2.0**-49 / np.diff(self.points)
        return ends, bend


@lru_cache(maxsize=64)
def lattice(n: int, least: int) -> Lattice:
    """The lattice of some number of draws, with groups that do not straddle the count ``least``."""
    sd = 0.5 / math.sqrt(n)  # of arcsin sqrt(K / n), about
    cells = math.ceil(math.pi / 2 / sd * _CELLS)
    points = np.sin(np.linspace(0.0, math.pi / 2, cells + 1)) ** 2
    points[0], points[-1] = 0.0, 1.0
    points = np.unique(points)
    counts = np.arange(n + 1)
    place = np.arcsin(np.sqrt(counts / n))
    step = np.floor(place / (sd / _GROUPS)).astype(np.int64)
    new = np.concatenate(([True], step[1:] != step[:-1]))
    if 0 < least <= n:
        new[least] = True
    starts = np.flatnonzero(new)
    angle = np.arcsin(np.sqrt(points))
    reach = _REACH * sd
    slack = 2.0**-47 * (n + 1) * math.log(n + 2)
    mass, bend = [], []
    for first in range(0, points.size, _CHUNK):
        some = points[first : first + _CHUNK]
        low = max(0, math.floor(n * math.sin(max(0.0, angle[first] - reach)) ** 2) - 1)
        high = math.ceil(
            n * math.sin(min(math.pi / 2, angle[min(first + _CHUNK, points.size - 1)] + reach)) ** 2
        )
        window = np.searchsorted(starts, [low, high + 1], side="right") - 1
        begin, end = int(window[0]), int(window[1]) + 1
        mass.append((begin, _masses(n, starts, begin, end, some)))
        left = some[: points.size - 1 - first]
        right = points[first + 1 : first + 1 + left.size]
        bend.append((begin, _bends(n, starts[begin + 1 : end], left, right)))
    return Lattice(
        n, starts, points, _stacked(mass, starts.size), _stacked(bend, starts.size - 1), slack
    )


def _masses(n: int, starts: NDArray[np.int64], begin: int, end: int, points: Floats) -> Floats:
    """P(K in group | p) for groups begin to end - 1."""
    last = int(starts[end]) if end < starts.size else n + 1
    counts = np.arange(int(starts[begin]), last)
    return np.add.reduceat(_pmf(n, counts, points), starts[begin:end] - counts[0], axis=1)


def _bends(n: int, after: NDArray[np.int64], left: Floats, right: Floats) -> Floats:
    """(cells, borders) (b - a)^2 / 8 times the largest |d/dp n b(t | p)|, t the count before each border."""
    if n < 3:
        return np.broadcast_to(
            ((right - left) ** 2 / 8)[:, None] * n * (n - 1.0), (left.size, after.size)
        )
    t = (after - 1).astype(np.float64)
    largest = _most_likely(n - 1, t, left, right)
    far = np.maximum(np.abs(t - (n - 1) * left[:, None]), np.abs(t - (n - 1) * right[:, None]))
    spread = np.minimum(left * (1 - left), right * (1 - right))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(spread > 0, largest * far / spread, np.inf)
    # In the first and the last cell as a difference: b'(t | p) = (n - 1) (b(t - 1 | p) - b(t | p)), of n - 2 draws.
    end = spread[:, 0] <= 0
    if end.any():
        pair = [_most_likely(n - 2, count, left[end], right[end]) for count in (t - 1, t)]
        slope[end] = (n - 1) * np.maximum(*pair)
    result: Floats = ((right - left) ** 2 / 8)[:, None] * n * slope
    return result


def _most_likely(n: int, counts: Floats, left: Floats, right: Floats) -> Floats:
    """(cells, counts) the largest probability of each count for p in the cell; 0 for counts that there are not."""
    top = np.clip(counts / n, left[:, None], right[:, None])
    there = (counts >= 0) & (counts <= n)
    result: Floats = np.where(there, _pmf_at(n, np.clip(counts, 0, n)[None, :], top), 0.0)
    return result


def _pmf(n: int, counts: NDArray[np.int64], points: Floats) -> Floats:
    return _pmf_at(n, counts[None, :].astype(np.float64), points[:, None])


def _pmf_at(n: int, counts: Floats, points: Floats) -> Floats:
    choose = gammaln(n + 1.0) - gammaln(counts + 1.0) - gammaln(n - counts + 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = np.where(counts > 0, counts * np.log(points), 0.0)
        misses = np.where(counts < n, (n - counts) * np.log1p(-points), 0.0)
    result: Floats = np.exp(choose + hits + misses)
    return result


def _stacked(blocks: list[tuple[int, Floats]], width: int) -> csr_array:
    """Blocks of rows, each with the number of its first column."""
    data = np.concatenate([block.reshape(-1) for _, block in blocks])
    columns = np.concatenate(
        [np.tile(np.arange(at, at + block.shape[1]), block.shape[0]) for at, block in blocks]
    )
    lengths = np.concatenate([np.full(block.shape[0], block.shape[1]) for _, block in blocks])
    pointers = np.concatenate(([0], np.cumsum(lengths)))
    return csr_array((data, columns, pointers), shape=(lengths.size, width))


@dataclass(frozen=True, eq=False)
class Cells:
    """Fine cells [a, b] of probabilities, and what an attack can make of a probability in them.

    Attributes:
        left: (C,) the ends a.
        right: (C,) the ends b.
        coarse: (C,) the coarse cell that each lies in.
        at_left: (C,) place of a in the coarse cell, 0 to 1.
        at_right: (C,) place of b.
        lower: (C,) lower end of the confidence under attack for p = a, rounded down: no p of the cell has less.
        upper: (C,) upper end for p = b, rounded up.
        certain: (C,) whether every p of the cell keeps the prediction.
        possible: (C,) whether some p of the cell may.
    """

    left: Floats
    right: Floats
    coarse: NDArray[np.int64]
    at_left: Floats
    at_right: Floats
    lower: Floats
    upper: Floats
    certain: NDArray[np.bool_]
    possible: NDArray[np.bool_]

    def largest(self, grid: Lattice, low: Floats, high: Floats, exponent: Floats) -> float:
        """An upper bound on the maximum over p of sum_j (low_j + high_j exp(exponent(p))) P(K in j | p).

        Args:
            grid: of the coarse cells.
            low: (J,) weights that nothing multiplies.
            high: (J,) weights that exp(exponent) multiplies.
            exponent: (C,) its largest value on each fine cell.
        """
        return float(self.values(grid, low, high, exponent).max())

    def values(self, grid: Lattice, low: Floats, high: Floats, exponent: Floats) -> Floats:
        """(C,) the bound of each cell, as ``largest``."""
        factor = np.exp(exponent) * (1.0 + 2.0**-50 * (2.0 + np.abs(exponent)))
        plain, plain_bend = grid.envelope(low)
        raised, raised_bend = grid.envelope(high)
        i = self.coarse
        bend = plain_bend[i] + factor * raised_bend[i]
        result = bend
        ends = []
        for place in (self.at_left, self.at_right):
            p = plain[i] + place * (plain[i + 1] - plain[i])
            q = raised[i] + place * (raised[i + 1] - raised[i])
            ends.append(p + factor * q)
        result = (np.maximum(*ends) + bend) * (1.0 + 2.0**-46)
        return result


@lru_cache(maxsize=64)
def cells(n: int, least: int, shift: float) -> Cells:
    """The fine cells for attacks of a size.

    Args:
        n: draws.
        least: as in ``lattice``.
        shift: radius / sigma, rounded up.
    """
    grid = lattice(n, least)
    levels = np.concatenate(
        (np.linspace(0, 1, _LEVELS + 1)[1:-1], np.geomspace(1e-9, 0.9 / _LEVELS, 600))
    )
    levels = np.concatenate((levels, 1.0 - levels[_LEVELS - 1 :]))
    quantile = probit(levels, levels).lower
    moved = [_phi(quantile + way * shift) for way in (-1.0, 1.0)]
    border = _phi(np.array([shift]))
    near = border * (1.0 + np.array([-1e-12, 1e-12]))
    edges = np.unique(np.clip(np.concatenate((grid.points, *moved, near)), 0.0, 1.0))
    left, right = edges[:-1], edges[1:]
    coarse = np.searchsorted(grid.points, left, side="right") - 1
    width = np.diff(grid.points)[coarse]
    places = [np.clip((end - grid.points[coarse]) / width, 0.0, 1.0) for end in (left, right)]
    low, high = probit(left, left).lower, probit(right, right).upper
    lower, upper = np.empty(left.size), np.empty(left.size)
    core.shift_interval(low, high, shift, lower, upper, threads=1)
    return Cells(left, right, coarse, places[0], places[1], lower, upper, low > shift, high > shift)


def _phi(values: Floats) -> Floats:
    result: Floats = ndtr(values)
    return result
