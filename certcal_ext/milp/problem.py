# SPDX-License-Identifier: MIT
"""What is asked of ``certified_ece_milp``, and the places where confidences can be.

A *piece* is a place where a confidence can be: one bin within the interval of one sample, or the
clean confidence of a sample that is not attacked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from certcal_ext.bins import Bins

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Problem:
    """Checked arguments of ``certified_ece_milp``.

    Attributes:
        right: (N,) 0 or 1.
        low: (N,) lower ends of the intervals.
        high: (N,) upper ends.
        edges: (M + 1,) edges of the bins; not used with ``sizes``.
        left: whether bins are [e, e') and not (e, e'].
        sizes: (M,) sizes of the groups that the order of the confidences forms; None for bins with
            fixed edges.
        clean: (N,) confidences without an attack, or None.
        attacked: at most so many samples leave ``clean``; None for no such limit.
        rows: (coefficients (N,), least, most) of the linear constraints, each scaled by a power of
            two so that the largest coefficient is in [1/2, 1).
    """

    right: NDArray[np.uint8]
    low: Floats
    high: Floats
    edges: Floats
    left: bool
    sizes: Ints | None = None
    clean: Floats | None = None
    attacked: int | None = None
    rows: tuple[tuple[Floats, float, float], ...] = ()

    @property
    def bins(self) -> int:
        """Number of bins or groups."""
        return self.edges.size - 1 if self.sizes is None else self.sizes.size

    @property
    def coupled(self) -> bool:
        """Whether a confidence cannot be chosen inside its piece without a look at the others."""
        return self.sizes is not None or bool(self.rows)

    @property
    def relaxes(self) -> bool:
        """Whether without its limits this is the problem that ``certified_ece`` solves."""
        return self.sizes is None and (self.attacked is not None or bool(self.rows))

    @property
    def rounding(self) -> float:
        """By how much a linear constraint may be missed where no float64 confidences meet it."""
        return self.right.size * 2.0**-52

    def bin_of(self, confidence: Floats) -> Ints:
        """The bin with fixed edges in which each confidence lies."""
        return Bins(self.edges, "left" if self.left else "right").index(confidence)

    def missed(self, confidence: Floats) -> list[Fraction]:
        """By how much each weighted sum has to change, exactly: 0 where its constraint holds."""
        z = [Fraction(x) for x in confidence.tolist()]
        result = []
        for row, least, most in self.rows:
            total = sum((Fraction(w) * x for w, x in zip(row.tolist(), z, strict=True)), Fraction())
            if total < least:
                result.append(Fraction(least) - total)
            else:
                result.append(Fraction(most) - total if total > most else Fraction())
        return result


@dataclass(frozen=True)
class Pieces:
    """The pieces, those of a sample side by side.

    Attributes:
        sample: (P,) the sample.
        bin: (P,) the bin or group.
        low: (P,) least confidence of the piece; ends that a bin does not hold included.
        high: (P,) largest one.
        right: (P,) 1.0 where the sample is right, else 0.0.
        stays: (P,) whether it is the clean confidence.
        floors: (M - 1,) least value of the threshold above each group but the last; empty for bins
            with fixed edges.
        ceilings: (M - 1,) largest value of it.
    """

    sample: Ints
    bin: Ints
    low: Floats
    high: Floats
    right: Floats
    stays: Bools
    floors: Floats = field(default_factory=lambda: np.zeros(0))
    ceilings: Floats = field(default_factory=lambda: np.zeros(0))

    def largest(self, value: Floats) -> Ints:
        """(N,) the piece of each sample with the largest value."""
        order = np.lexsort((-value, self.sample))
        first = np.r_[True, np.diff(self.sample[order]) != 0]
        return order[first].astype(np.int64)


def pieces_of(problem: Problem) -> Pieces:
    """All places where the confidences can be."""
    if problem.sizes is None:
        first, last = problem.bin_of(problem.low), problem.bin_of(problem.high)
        width = last - first + 1
        sample = np.repeat(np.arange(problem.right.size), width)
        at = np.arange(sample.size) - (np.cumsum(width) - width)[sample] + first[sample]
        below, above = problem.edges[:-1], problem.edges[1:]
        floors = ceilings = np.zeros(0)
    else:
        # The threshold above group m is the largest confidence in it or below: an order statistic,
        # which lies between those of the lower and of the upper ends.
        ranks = np.cumsum(problem.sizes)[:-1] - 1
        floors, ceilings = np.sort(problem.low)[ranks], np.sort(problem.high)[ranks]
        below, above = np.r_[0.0, floors], np.r_[ceilings, 1.0]
        reached = (problem.low[:, None] <= above) & (problem.high[:, None] >= below)
        sample, at = np.nonzero(reached)
    low = np.maximum(problem.low[sample], below[at])
    high = np.minimum(problem.high[sample], above[at])
    stays = np.zeros(sample.size, np.bool_)
    if problem.clean is not None and problem.attacked is not None:
        clean = problem.clean[sample]
        if problem.sizes is None:
            own = np.flatnonzero(at == problem.bin_of(problem.clean)[sample])
        else:
            own = np.flatnonzero((low <= clean) & (clean <= high))
        extra = np.ones(own.size, np.bool_)
        kept = slice(None) if problem.attacked else slice(0)
        low, high = np.r_[low[kept], clean[own]], np.r_[high[kept], clean[own]]
        sample, at = np.r_[sample[kept], sample[own]], np.r_[at[kept], at[own]]
        stays = np.r_[stays[kept], extra]
        order = np.lexsort((stays, at, sample))
        sample, at, low, high, stays = (x[order] for x in (sample, at, low, high, stays))
    right = problem.right[sample].astype(np.float64)
    return Pieces(sample, at, low, high, right, stays, floors, ceilings)


def sums(index: Ints, values: Floats, size: int) -> Floats:
    """The sum of the values of each index."""
    return np.bincount(index, values, size).astype(np.float64)
