# SPDX-License-Identifier: MIT
"""Tables g: what each count of votes is charged, so that the charges of a data set bound what its rows can add.

Theorem (docs/aggregate.md). Let lambda > 0, and let h(p) be the most that a row of probability p adds where it is
counted, which it is with k >= k*. If E exp(lambda (1{K >= k*} h(p) - g(K))) <= 1 for every p in [0, 1], K ~
Binomial(n, p), then over independent rows sum 1{k >= k*} h(p_i) <= sum g(k_i) + ln(1 / delta) / lambda with
probability at least 1 - delta.

A table is fitted to what is expected of k, and then made valid whatever it was fitted to: exp(-lambda g) is divided
by an upper bound, over all p, of the left side. So neither the solver nor the expectation matters for what is proved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from certcal_ext.aggregate.lattice import Lattice, cells, lattice
from certcal_ext.aggregate.mixture import Block, best_weights

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_CONSTRAINTS = 4  # every so many ends of coarse cells are constraints of the solver
_JUMP = 0.02  # where h jumps by more, the cells on both sides are constraints too
_BLOCK = 48
_ROUNDS, _CLOSE = 3, 2e-3  # more constraints, while a sum exceeds 1 by more than that
_NEGLIGIBLE = 1e-9
#: Least share of the expected counts that is spread evenly, as the others may be where none of those were.
_SPREAD = 1e-3
#: The same in what the distribution is fitted to, so that no weight has to vanish.
_FLOOR = 1e-5
#: Most that lambda h may span: beyond it tables say no more, and sums of doubles less.
MOST_SPAN = 40.0


@dataclass(frozen=True, eq=False)
class Expected:
    """What is expected of the probabilities of some rows: a distribution on few points.

    Attributes:
        points: (I,) probabilities.
        weights: (I,) above 0, with sum 1.
        rows: how many rows said so; a little of the expected counts, less the more they were, is spread evenly.
    """

    points: Floats
    weights: Floats
    rows: int

    def counts(self, grid: Lattice) -> Floats:
        """(J,) distribution of the groups of counts."""
        at = np.clip(np.searchsorted(grid.points, self.points) - 1, 0, grid.points.size - 2)
        place = (self.points - grid.points[at]) / np.diff(grid.points)[at]
        share = np.zeros(grid.points.size)
        np.add.at(share, at, self.weights * (1 - place))
        np.add.at(share, at + 1, self.weights * place)
        mixed = np.asarray(share @ grid.mass)
        sizes = np.diff(np.append(grid.starts, grid.n + 1))
        spread = max(_SPREAD, 1.0 / (self.rows + 2.0))
        result: Floats = (1 - spread) * mixed / mixed.sum() + spread * sizes / (grid.n + 1)
        return result


def expected_of(histogram: Counts) -> Expected:
    """The maximum-likelihood distribution of the probabilities behind numbers of rows by count; for no rows the arcsine law.

    Args:
        histogram: (n + 1,) rows with 0, ..., n votes.
    """
    total = int(histogram.sum())
    grid = lattice(histogram.size - 1, 0)
    if not total:
        angles = np.linspace(0.0, np.pi / 2, 65)
        return Expected(np.sin((angles[:-1] + angles[1:]) / 2) ** 2, np.full(64, 1 / 64), 0)
    design = _design(grid.n, 0)
    sizes = np.diff(np.append(grid.starts, grid.n + 1)) / (grid.n + 1)
    found = best_weights(
        design.blocks, grid.summed(histogram) / total * (1 - _FLOOR) + _FLOOR * sizes
    )
    kept = found.mixing > 1e-6 * found.mixing.max()
    return Expected(design.points[kept], found.mixing[kept] / found.mixing[kept].sum(), total)


@dataclass(frozen=True, eq=False)
class Table:
    """Charges by count.

    Attributes:
        starts: (J,) the first count of each group.
        charge: (J,) g of each group, rounded up.
        weight: lambda.
        loss: what dividing by the bound over all p added to each charge.
    """

    starts: Counts
    charge: Floats
    weight: float
    loss: float

    def total(self, histogram: Counts) -> float:
        """The sum of g over rows, rounded up.

        Args:
            histogram: (n + 1,) rows by count.
        """
        rows = np.add.reduceat(histogram, self.starts)
        terms = rows * self.charge
        return math.fsum(terms) + 2.0**-50 * math.fsum(np.abs(terms))

    def at(self, counts: Counts) -> Floats:
        """G of some counts."""
        result: Floats = self.charge[np.searchsorted(self.starts, counts, side="right") - 1]
        return result


def fit_table(
    expected: Expected, worst: Floats, n: int, weight: float, shift: float, least: int = 0
) -> Table:
    """The table whose expected charges are smallest.

    Args:
        expected: what is expected of the rows, from data other than those that the table is used with.
        worst: (C,) h on each of ``cells(n, least, shift)``: at least the most that a row adds if its probability lies there.
        n: draws of a row.
        weight: lambda.
        shift: radius / sigma, rounded up.
        least: k*, the fewest votes with which a row is counted; 0: every row is.

    Returns:
        ``Table``.

    Raises:
        ValueError: weights so large that lambda h spans more than ``MOST_SPAN``.
    """
    if weight * float(np.abs(worst).max()) > MOST_SPAN * (1.0 + 1e-12):
        raise ValueError(
            f"weight: expected lambda h up to {MOST_SPAN:g}, got {weight * np.abs(worst).max():.3g}"
        )
    grid, fine = lattice(n, least), cells(n, least, shift)
    counted = grid.starts >= least
    q = expected.counts(grid)
    design = _design(n, least, shift)
    blocks = _raised(design.blocks, np.exp(weight * design.worst(worst)), counted)
    extra = np.flatnonzero(np.abs(np.diff(worst)) > _JUMP)
    points, values = fine.right[extra], np.maximum(worst[extra], worst[extra + 1])
    for _ in range(_ROUNDS):
        if points.size:
            blocks = blocks + _raised(_blocks(grid, points), np.exp(weight * values), counted)
        v = best_weights(blocks, q).weights
        low = np.where(counted, 0.0, v)
        sums = fine.values(grid, low, v - low, weight * worst)
        if sums.max() <= 1.0 + _CLOSE:
            break
        # Between the constraints something is above 1: its peaks are constraints too.
        begins = np.flatnonzero(np.diff(fine.coarse // _CONSTRAINTS, prepend=-1))
        tops = np.maximum.reduceat(sums, begins)[
            np.cumsum(np.diff(fine.coarse // _CONSTRAINTS, prepend=0) > 0)
        ]
        peaks = np.flatnonzero((sums == tops) & (sums > 1.0 + _CLOSE / 2))
        points, values = fine.right[peaks], worst[peaks]
    return valid_table(v, worst, n, weight, shift, least)


def valid_table(
    v: Floats, worst: Floats, n: int, weight: float, shift: float, least: int = 0
) -> Table:
    """The table of any weights v = exp(-lambda g), divided by what makes it valid; arguments as ``fit_table``.

    Args:
        v: (J,) above 0, one a group of ``lattice(n, least)``.
        worst: as ``fit_table``.
        n: as ``fit_table``.
        weight: lambda.
        shift: as ``fit_table``.
        least: as ``fit_table``.

    Raises:
        ValueError: weights that are not positive and finite.
    """
    grid, fine = lattice(n, least), cells(n, least, shift)
    if not (np.isfinite(v).all() and (v > 0).all()):
        raise ValueError("v: expected finite weights above 0")
    low = np.where(grid.starts < least, v, 0.0)
    largest = fine.largest(grid, low, v - low, weight * worst)
    # Above -ln(v / largest) / lambda by more than the rounding of the few operations.
    charge = (np.log(largest) - np.log(v)) / weight
    charge += 2.0**-48 * (np.abs(np.log(v)) + abs(math.log(largest)) + 1.0) / weight
    return Table(grid.starts, charge, weight, math.log(largest) / weight)


@dataclass(frozen=True, eq=False)
class _Design:
    """The constraints of the solver before anything multiplies them.

    Attributes:
        points: (I,) their probabilities.
        blocks: their rows.
        before: (I,) the fine cell to the left of each point.
        after: (I,) the fine cell to its right.
    """

    points: Floats
    blocks: list[Block]
    before: Counts
    after: Counts

    def worst(self, worst: Floats) -> Floats:
        """(I,) h at the points: the larger of the cells on both sides."""
        result: Floats = np.maximum(worst[self.before], worst[self.after])
        return result


@lru_cache(maxsize=64)
def _design(n: int, least: int, shift: float = 0.0) -> _Design:
    grid, fine = lattice(n, least), cells(n, least, shift)
    last = grid.points.size - 1
    some = np.unique(np.append(np.arange(0, last, _CONSTRAINTS), last))
    points = grid.points[some]
    after = np.clip(np.searchsorted(fine.left, points), 0, fine.left.size - 1)
    return _Design(points, _blocks(grid, points), np.maximum(after - 1, 0), after)


def _blocks(grid: Lattice, points: Floats) -> list[Block]:
    """Rows of group probabilities at some points in increasing order, interpolated, without what is negligible."""
    at = np.clip(np.searchsorted(grid.points, points) - 1, 0, grid.points.size - 2)
    place = (points - grid.points[at]) / np.diff(grid.points)[at]
    blocks = []
    for first in range(0, points.size, _BLOCK):
        part = slice(first, first + _BLOCK)
        left, right = (grid.mass[at[part] + step].toarray() for step in (0, 1))
        w = place[part, None]
        rows = left * (1 - w) + right * w
        used = np.flatnonzero((rows > _NEGLIGIBLE).any(axis=0))
        blocks.append(Block(int(used[0]), rows[:, used[0] : used[-1] + 1]))
    return blocks


def _raised(blocks: list[Block], factor: Floats, counted: NDArray[np.bool_]) -> list[Block]:
    """The rows with the columns of counted groups multiplied."""
    result, first = [], 0
    for block in blocks:
        own = factor[first : first + len(block.rows), None]
        first += len(block.rows)
        result.append(Block(block.begin, block.rows * np.where(counted[block.columns], own, 1.0)))
    return result
