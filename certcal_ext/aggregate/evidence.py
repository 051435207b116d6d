# SPDX-License-Identifier: MIT
"""One statement about the sum over all rows, with its share of the failure probability: the e-values of a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from certcal_ext.aggregate.lattice import Cells, cells, lattice
from certcal_ext.aggregate.tables import MOST_SPAN, Expected, Table, expected_of, fit_table
from certcal_ext.aggregate.votes import PARTS, VoteHistogram

Floats = NDArray[np.float64]

#: h on the cells, of wrong or right rows.
Worst = Callable[[bool, Cells], Floats]

#: Weights lambda to choose from, in units of what h spans, upward in steps of sqrt(2).
_LADDER = tuple(2.0 ** (step / 2) for step in range(-12, 11))
#: Of the failure probability, what the leg of most rows has where there are two.
_MAIN_SHARE = 0.75


@dataclass(frozen=True, eq=False)
class Stratum:
    """Rows of one part, correctness and number of draws.

    Attributes:
        correct: whether their class is right.
        n: draws of each.
        least: the fewest votes with which one is counted.
        histogram: (n + 1,) rows by votes.
        expected: what tables are fitted to: of rows that come before these in a leg, or are in another leg.
        foreseen: what lambda is chosen by: of rows outside the leg.
    """

    correct: bool
    n: int
    least: int
    histogram: NDArray[np.int64]
    expected: Expected
    foreseen: Expected

    @cached_property
    def total(self) -> int:
        """Number of rows."""
        return int(self.histogram.sum())

    @cached_property
    def forecast(self) -> Floats:
        """(J,) foreseen rows of each group of counts."""
        result: Floats = self.total * self.foreseen.counts(lattice(self.n, self.least))
        return result

    def mean(self, worst: Worst, shift: float) -> float:
        """The foreseen sum of h over the counted rows."""
        fine, points = cells(self.n, self.least, shift), self.foreseen.points
        at = np.clip(np.searchsorted(fine.left, points, side="right") - 1, 0, fine.left.size - 1)
        counted = binom.sf(self.least - 1, self.n, points)
        return self.total * float(self.foreseen.weights @ (worst(self.correct, fine)[at] * counted))


@dataclass(frozen=True, eq=False)
class Leg:
    """Rows of one e-value, whose tables are fixed before their own votes are looked at.

    Attributes:
        strata: the rows.
        share: of the failure probability of a statement.
    """

    strata: tuple[Stratum, ...]
    share: float


class Evidence:
    """The votes of a data set, with tables that are fitted on other votes than those they are used with.

    The rows are in three parts, by their ids. Tables of part 1 are fitted on part 0, those of part 2 on parts 0 and
    1, with one lambda that is chosen by part 0. Given part 0, each factor exp(lambda (h - g)) of their product has
    mean at most 1 given all factors before it, so the product has. Part 0 is a leg of its own, whose tables and
    lambda come from the other two. Each leg's statement fails with at most its share of the probability.

    Args:
        votes: histograms, one for each number of draws.
        shift: radius / sigma, rounded up.
        least: of each histogram, the fewest votes with which a row is counted; 0: every row is.
        expected: what is expected of (wrong, right) rows, from draws that are not among these, for all rows together,
            which then are one leg; None: the parts tell each other.
    """

    def __init__(
        self,
        votes: Sequence[VoteHistogram],
        shift: float,
        least: Sequence[int],
        expected: tuple[Expected, Expected] | None = None,
    ) -> None:
        self.shift = shift
        if expected is not None:
            everyone = tuple(range(PARTS))
            legs = [_strata(votes, least, everyone, expected, expected)]
        else:
            first, both, rest = (_pooled(votes, parts) for parts in ((0,), (0, 1), (1, 2)))
            legs = [
                _strata(votes, least, (1,), first, first)
                + _strata(votes, least, (2,), both, first),
                _strata(votes, least, (0,), rest, rest),
            ]
        filled = [leg for leg in legs if leg]
        shares = (_MAIN_SHARE, 1.0 - _MAIN_SHARE) if len(filled) == 2 else (1.0,)
        #: Those that hold rows.
        self.legs = [Leg(strata, share) for strata, share in zip(filled, shares, strict=True)]

    @property
    def rows(self) -> int:
        """Number of rows, counted or not."""
        return sum(stratum.total for leg in self.legs for stratum in leg.strata)

    def forecast(self, worst: Worst, leg: Leg) -> float:
        """The sum of h over the counted rows of a leg that the other votes lead one to expect."""
        return math.fsum(stratum.mean(worst, self.shift) for stratum in leg.strata)

    def weight(self, worst: Worst, risk: float, leg: Leg) -> float:
        """The lambda whose bound is expected to be lowest; nothing of the leg's own votes is looked at."""
        heights = self._heights(worst, leg)
        span = max(_span(heights), 1e-6)
        ladder = [weight / span for weight in _LADDER]
        expected = partial(self._expected, heights, risk, leg, ladder)
        return float(ladder[_lowest(expected, len(ladder))])

    def _expected(
        self, heights: Sequence[Floats], risk: float, leg: Leg, ladder: list[float], place: int
    ) -> float:
        """The bound that one weight leads one to expect."""
        weight = ladder[place]
        return math.log(1.0 / (leg.share * risk)) / weight + math.fsum(
            float(s.forecast @ self._table(s, s.foreseen, h, weight).charge)
            for s, h in zip(leg.strata, heights, strict=True)
        )

    def upper(self, worst: Worst, risk: float, weights: Sequence[float]) -> float:
        """An upper bound on the sum of h over the counted rows, but with probability ``risk``.

        Args:
            worst: h on the cells of some number of draws, by correctness.
            risk: failure probability.
            weights: lambda of each leg, of ``weight`` of any h; one that is too large for this h is made smaller.
        """
        total = 0.0
        for leg, wanted in zip(self.legs, weights, strict=True):
            heights = self._heights(worst, leg)
            weight = min(wanted, MOST_SPAN / max(_span(heights), 1e-300))
            terms = [
                self._table(s, s.expected, h, weight).total(s.histogram)
                for s, h in zip(leg.strata, heights, strict=True)
            ]
            total += math.fsum(terms) + math.log(1.0 / (leg.share * risk)) / weight
        return total + 2.0**-46 * (abs(total) + len(self.legs))

    def _heights(self, worst: Worst, leg: Leg) -> list[Floats]:
        """Of each stratum, h; parts share it."""
        known: dict[tuple[bool, int, int], Floats] = {}
        for s in leg.strata:
            key = (s.correct, s.n, s.least)
            if key not in known:
                known[key] = worst(s.correct, cells(s.n, s.least, self.shift))
        return [known[s.correct, s.n, s.least] for s in leg.strata]

    def _table(self, stratum: Stratum, expected: Expected, height: Floats, weight: float) -> Table:
        return fit_table(expected, height, stratum.n, weight, self.shift, stratum.least)


def _span(heights: Sequence[Floats]) -> float:
    """The largest |h|."""
    return max(float(np.abs(height).max()) for height in heights)


def _strata(
    votes: Sequence[VoteHistogram],
    least: Sequence[int],
    parts: tuple[int, ...],
    expected: tuple[Expected, Expected],
    foreseen: tuple[Expected, Expected],
) -> tuple[Stratum, ...]:
    """The rows of some parts, by correctness and number of draws; those of none are left out."""
    found = []
    for one, fewest in zip(votes, least, strict=True):
        for correct in (False, True):
            rows = one.rows[list(parts), int(correct)].sum(axis=0)
            if rows.any():
                found.append(
                    Stratum(correct, one.n, fewest, rows, expected[correct], foreseen[correct])
                )
    return tuple(found)


def _pooled(votes: Sequence[VoteHistogram], parts: tuple[int, ...]) -> tuple[Expected, Expected]:
    """What some parts say of wrong and of right rows, all numbers of draws together."""
    wrong, right = (
        [expected_of(one.rows[list(parts), correct].sum(axis=0)) for one in votes]
        for correct in (0, 1)
    )
    return _joined(wrong), _joined(right)


def _joined(found: Sequence[Expected]) -> Expected:
    """By their numbers of rows; the arcsine law where there are none."""
    whole = sum(one.rows for one in found)
    if not whole:
        return found[0]
    points = np.concatenate([one.points for one in found])
    weights = np.concatenate([one.weights * one.rows / whole for one in found])
    order = np.argsort(points, kind="stable")
    return Expected(points[order], weights[order], whole)


def _lowest(value: Callable[[int], float], size: int) -> int:
    """The place of the lowest of values that fall and then rise, from the middle in steps that get shorter."""
    known: dict[int, float] = {}

    def at(place: int) -> float:
        if place not in known:
            known[place] = value(place) if 0 <= place < size else math.inf
        return known[place]

    best, step = size // 2, max(1, size // 4)
    while step:
        before, best = best, min((best, best - step, best + step), key=at)
        if best == before:
            step //= 2
    return best
