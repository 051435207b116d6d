# SPDX-License-Identifier: MIT
"""What a row can add to a metric's sum, by scope: the h of a table.

Each function of a confidence interval here grows with the interval (it is a supremum over it), so its value at the
widest interval of a cell of probabilities is a bound for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from certcal_ext.aggregate.lattice import Cells
from certcal_ext.bins import Bins
from certcal_ext.metrics.clip import Clip, rounded_up_from_wide
from certcal_ext.metrics.gaps import largest_gap

Floats = NDArray[np.float64]
Image = Callable[[Floats], tuple[Floats, Floats]]

#: Over which rows the mean of a metric of the top label is; "class" is for the confidence of a class that is fixed
#: beforehand.
SCOPES = ("certified", "all", "robust", "class")


def no_map(values: Floats) -> tuple[Floats, Floats]:
    """Confidences as they are."""
    return values, values


class Term(ABC):
    """What one row adds to the sum of a metric."""

    @abstractmethod
    def kept(self, correct: bool, lower: Floats, upper: Floats) -> Floats:
        """(C,) at most, of a row whose prediction stays, with a confidence in [lower, upper]; rounded up."""

    @property
    @abstractmethod
    def anything(self) -> float:
        """At most, of a row of which nothing is known."""

    def of_gap(self, gap: Floats) -> Floats:
        """(C,) at most, of a row that may change its prediction, with abs(correctness - confidence) at most ``gap``."""
        return np.full(gap.size, self.anything)


def worst(
    term: Term, correct: bool, fine: Cells, scope: str, image: Image = no_map, less: float = 0.0
) -> Floats:
    """(C,) the most that a row whose probability lies in each cell adds.

    Args:
        term: of the metric.
        correct: whether the row's class is right.
        fine: the cells.
        scope: "certified": a row is counted by its votes, and one that is counted without being certified in truth
            may do anything; "all": every row is counted, and one that is not certified may change its prediction;
            "robust": the rows that are certified in truth are counted; "class": every row is counted, and its class
            is none that is predicted but a fixed one.
        image: images (rounded down, rounded up) of confidences under the recalibration map.
        less: in scope "robust", taken off each counted row.

    Returns:
        h of each cell.
    """
    lower, upper = image(fine.lower)[0], image(fine.upper)[1]
    kept = term.kept(correct, lower, upper)
    if scope == "class":
        return kept
    if scope == "certified":
        return np.where(fine.certain, kept, term.anything)
    if scope == "robust":
        kept = np.nextafter(kept - less, np.inf) if less else kept
        return np.where(fine.certain, kept, np.where(fine.possible, np.maximum(kept, 0.0), 0.0))
    right = np.full(lower.size, correct, np.uint8)
    other = term.of_gap(largest_gap(right, fine.lower, fine.upper, image, top=True))
    return np.where(fine.certain, kept, np.maximum(kept, other))


def _gap(correct: bool, lower: Floats, upper: Floats) -> Floats:
    """The largest distance from right or wrong, rounded up."""
    return np.minimum(np.nextafter(1.0 - lower, 2.0), 1.0) if correct else upper


class BrierTerm(Term):
    """(c - z)^2."""

    anything = 1.0

    def kept(self, correct: bool, lower: Floats, upper: Floats) -> Floats:
        """The largest gap squared."""
        return self.of_gap(_gap(correct, lower, upper))

    def of_gap(self, gap: Floats) -> Floats:
        """The gap squared."""
        result: Floats = np.minimum(np.nextafter(gap * gap, 2.0), 1.0)
        return result


@dataclass(frozen=True)
class LogTerm(Term):
    """-ln of the probability given to what is true, of confidences that are reported within a clip.

    Attributes:
        clip: how they are reported.
    """

    clip: Clip

    @property
    def anything(self) -> float:
        """The largest loss that there is."""
        return self.clip.largest

    def kept(self, correct: bool, lower: Floats, upper: Floats) -> Floats:
        """Of the lower end where it is right, of the upper one where it is wrong."""
        right = np.full(lower.size, correct, np.uint8)
        return rounded_up_from_wide(self.clip.losses(right, lower, upper))

    def of_gap(self, gap: Floats) -> Floats:
        """Of a wrong sample with that confidence, or of a right one whose confidence is as far from 1."""
        away = np.nextafter(1.0 - gap, -1.0).clip(0.0, 1.0)
        return np.maximum(self.kept(False, gap, gap), self.kept(True, away, away))


@dataclass(frozen=True, eq=False)
class EceTerm(Term):
    """s(z) (c - z) with the signs s of some bins fixed (theorem 1 of docs/theory.md), and the others at their best.

    Attributes:
        bins: the M bins.
        plus: (M,) bins whose sign may be +1.
        minus: (M,) bins whose sign may be -1.
    """

    bins: Bins
    plus: NDArray[np.bool_]
    minus: NDArray[np.bool_]
    anything = 1.0

    def kept(self, correct: bool, lower: Floats, upper: Floats) -> Floats:
        """F of the theorem."""
        a, b = self.bins.index(lower), self.bins.index(upper)
        count, edges = len(self.bins), self.bins.edges
        if correct:
            # The first bin from each one on that may be a plus bin; count: none.
            places = np.where(self.plus, np.arange(count), count)
            first = np.minimum.accumulate(places[::-1])[::-1][a]
            low = np.maximum(lower, edges[np.minimum(first, count - 1)])
            return np.nextafter(np.where(first <= b, 1.0 - low, upper - 1.0), 2.0)
        places = np.where(self.minus, np.arange(count), -1)
        last = np.maximum.accumulate(places)[b]
        high = np.minimum(upper, edges[np.maximum(last, 0) + 1])
        return np.where(last >= a, high, -lower)

    def of_gap(self, gap: Floats) -> Floats:
        """The gap itself."""
        return gap


@dataclass(frozen=True)
class KsTerm(Term):
    """sign (c - z) of the rows with z <= t, at most for any threshold t from ``low`` to ``high``.

    Attributes:
        sign: +1 or -1.
        low: least threshold.
        high: largest one.
    """

    sign: int
    low: float
    high: float
    anything = 1.0

    def kept(self, correct: bool, lower: Floats, upper: Floats) -> Floats:
        """Its best confidence up to t where it can be there, or 0 where it can be above."""
        inside, above = lower <= self.high, upper > self.low
        reach = np.minimum(upper, self.high)
        if self.sign > 0:
            if correct:
                return np.where(inside, np.nextafter(1.0 - lower, 2.0), 0.0)
            return np.where(above, 0.0, -lower)
        if correct:
            return np.where(above, 0.0, np.nextafter(reach - 1.0, 2.0))
        return np.where(inside, reach, 0.0)

    def of_gap(self, gap: Floats) -> Floats:
        """The gap itself."""
        return gap


@dataclass(frozen=True)
class RiskTerm(Term):
    """Wrong and accepted, less ``rate`` for each accepted row: at most 0 in sum where the risk is at most ``rate``.

    Attributes:
        threshold: confidence from which a prediction is accepted.
        rate: from 0 to 1.
    """

    threshold: float
    rate: float

    @property
    def anything(self) -> float:
        """An accepted wrong row."""
        return float(np.nextafter(1.0 - self.rate, 2.0))

    def kept(self, correct: bool, lower: Floats, upper: Floats) -> Floats:
        """A right row is rejected where it can be, a wrong one accepted."""
        if correct:
            return np.where(lower >= self.threshold, -self.rate, 0.0)
        return np.where(upper >= self.threshold, self.anything, 0.0)


class RightTerm(Term):
    """-1 for a row that stays right, so that an upper bound on the sum is a lower one on their number."""

    anything = 0.0

    def kept(self, correct: bool, lower: Floats, upper: Floats) -> Floats:
        """-1 or 0."""
        return np.full(lower.size, -1.0 if correct else 0.0)
