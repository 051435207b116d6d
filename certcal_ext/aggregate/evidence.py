# SPDX-License-Identifier: MIT
"""One statement about the sum over all rows, with its share of the failure probability: the e-value of a data set."""

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


@dataclass(frozen=True, eq=False)
class _Stratum:
    """Rows of one part, correctness and number of draws."""

    part: int
    correct: bool
    n: int
    least: int
    histogram: NDArray[np.int64]
    expected: Expected

    @cached_property
    def total(self) -> int:
        return int(self.histogram.sum())

    @cached_property
    def forecast(self) -> Floats:
        """(J,) expected rows of each group of counts."""
        grid = lattice(self.n, self.least)
        result: Floats = self.total * self.expected.counts(grid)
        return result

    def mean(self, worst: Worst, shift: float) -> Floats:
        """(I,) expected h at the expected probabilities, 0 where the row is not counted."""
        fine, points = cells(self.n, self.least, shift), self.expected.points
        at = np.clip(np.searchsorted(fine.left, points, side="right") - 1, 0, fine.left.size - 1)
        result: Floats = worst(self.correct, fine)[at] * binom.sf(self.least - 1, self.n, points)
        return result


class Evidence:
    """The votes of a data set, with tables that are fitted on other votes than those they are used with.

    Each half of the rows gets tables that are fitted on the other half. Given that half they are fixed, and the theorem of ``tables``
    holds for this one; the failure probability is shared between the two.

    Args:
        votes: histograms, one for each number of draws.
        shift: radius / sigma, rounded up.
        least: of each histogram, the fewest votes with which a row is counted; 0: every row is.
        expected: what is expected of (wrong, right) rows, from draws that are not among these, for all rows together; None: the
            halves of the rows tell each other.
    """

    def __init__(
        self,
        votes: Sequence[VoteHistogram],
        shift: float,
        least: Sequence[int],
        expected: tuple[Expected, Expected] | None = None,
    ) -> None:
        self.shift = shift
        self._strata: list[_Stratum] = []
        parts = (
            [(0, tuple(range(PARTS)), ())]
            if expected
            else [
                (part, (part,), tuple(p for p in range(PARTS) if p != part))
                for part in range(PARTS)
            ]
        )
        for part, own, others in parts:
            for correct in (False, True):
                told = expected[correct] if expected else _pooled(votes, others, correct)
                for one, fewest in zip(votes, least, strict=True):
                    rows = one.rows[list(own), int(correct)].sum(axis=0)
                    if rows.any():
                        self._strata.append(_Stratum(part, correct, one.n, fewest, rows, told))
        #: Parts that hold rows; each has tables of its own.
        self.parts = sorted({stratum.part for stratum in self._strata})

    def forecast(self, worst: Worst, part: int) -> float:
        """The sum of h over the counted rows of a part that the other votes lead one to expect."""
        return math.fsum(
            stratum.total * float(stratum.expected.weights @ stratum.mean(worst, self.shift))
            for stratum in self._of(part)
        )

    def weights(
        self, worst: Worst, risk: float, parts: Sequence[int] | None = None
    ) -> dict[int, float]:
        """For each part the lambda whose bound is expected to be lowest; nothing of its own votes is looked at."""
        chosen = {}
        for part in self.parts if parts is None else parts:
            ladder = self._ladder(worst)
            value = partial(self._expected, worst, risk, part, ladder)
            chosen[part] = ladder[_lowest(value, len(ladder))]
        return chosen

    def upper(self, worst: Worst, risk: float, weights: dict[int, float]) -> float:
        """An upper bound on the sum of h over the counted rows, but with probability ``risk``.

        Args:
            worst: h on the cells of some number of draws, by correctness.
            risk: failure probability.
            weights: lambda of each part, of ``weights``.
        """
        total = 0.0
        for part in self.parts:
            terms = [
                self._table(stratum, worst, weights[part]).total(stratum.histogram)
                for stratum in self._of(part)
            ]
            total += math.fsum(terms) + math.log(len(self.parts) / risk) / weights[part]
        return total + 2.0**-48 * (abs(total) + len(self._strata))

    def _expected(
        self, worst: Worst, risk: float, part: int, ladder: list[float], place: int
    ) -> float:
        """The bound of a part that one weight leads one to expect."""
        weight = ladder[place]
        return math.log(len(self.parts) / risk) / weight + math.fsum(
            float(stratum.forecast @ self._table(stratum, worst, weight).charge)
            for stratum in self._of(part)
        )

    def _of(self, part: int) -> list[_Stratum]:
        return [stratum for stratum in self._strata if stratum.part == part]

    def _ladder(self, worst: Worst) -> list[float]:
        """Weights in units of what h spans."""
        spans = [
            float(np.abs(worst(s.correct, cells(s.n, s.least, self.shift))).max())
            for s in self._strata
        ]
        span = max(max(spans, default=1.0), 1e-6)
        return [weight / span for weight in _LADDER if weight <= MOST_SPAN]

    def _table(self, stratum: _Stratum, worst: Worst, weight: float) -> Table:
        fine = cells(stratum.n, stratum.least, self.shift)
        return fit_table(
            stratum.expected,
            worst(stratum.correct, fine),
            stratum.n,
            weight,
            self.shift,
            stratum.least,
        )


def _pooled(votes: Sequence[VoteHistogram], parts: tuple[int, ...], correct: bool) -> Expected:
    """What some parts say, all numbers of draws together."""
    found, sizes = [], []
    for one in votes:
        rows = one.rows[list(parts), int(correct)].sum(axis=0)
        if rows.any():
            found.append(expected_of(rows))
            sizes.append(int(rows.sum()))
    if not found:
        return expected_of(np.zeros(2, np.int64))
    whole = sum(sizes)
    order = np.argsort(np.concatenate([one.points for one in found]), kind="stable")
    return Expected(
        np.concatenate([one.points for one in found])[order],
        np.concatenate(
            [one.weights * size / whole for one, size in zip(found, sizes, strict=True)]
        )[order],
    )


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
