# SPDX-License-Identifier: MIT
"""The certified ECE as a mixed-integer program, and bounds on it that rest on no solver.

A *piece* is a place where a confidence can be: one bin within the interval of one sample, or the
clean confidence of a sample that is not attacked. A column is a piece, a side to which its bin is
pushed, and a confidence there. ``docs/milp.md`` writes the program down and proves the bound.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: More than what rounding of a difference of two numbers in [0, 1] can cost.
_ROUNDING = 2.0**-51

#: Pairs of samples whose order is given: rows for so many of each sample; for more, but not for
#: many, where they are so near that tolerances would swap them.
_FEW, _MANY, _NEAR = 4, 64, 2.0**-20


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
        return self.right.size * 2.0**-50

    def bin_of(self, confidence: Floats) -> Ints:
        """The bin with fixed edges in which each confidence lies."""
        side: Literal["left", "right"] = "right" if self.left else "left"
        return np.searchsorted(self.edges[1:-1], confidence, side).astype(np.int64)

    def missed(self, confidence: Floats) -> list[Fraction]:
        """By how much each linear constraint is missed, exactly: 0 where it holds."""
        z = [Fraction(x) for x in confidence.tolist()]
        result = []
        for row, least, most in self.rows:
            total = sum((Fraction(w) * x for w, x in zip(row.tolist(), z, strict=True)), Fraction())
            below = Fraction(least) - total if np.isfinite(least) else Fraction(-1)
            above = total - Fraction(most) if np.isfinite(most) else Fraction(-1)
            result.append(max(below, above, Fraction()))
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


@dataclass(frozen=True)
class Program:
    """The maximum of cost @ x over lower <= x <= upper and rows; N times the ECE is never above it.

    Attributes:
        piece: (C,) the piece of each of the first C columns, which are shares: one whole share a
            sample. After them stand M columns that are 1 where a bin is pushed up, and M - 1
            thresholds between groups, or none.
        up: (C,) whether it belongs to the bin being pushed up, the sum of c - z being positive.
        place: (C,) the confidence.
        cost: of all columns.
        columns: (lower, upper) of all columns; lower is at least 0.
        rows: (lower, upper) of the rows.
        entries: (row, column, value).
    """

    piece: Ints
    up: Bools
    place: Floats
    cost: Floats
    columns: tuple[Floats, Floats]
    rows: tuple[Floats, Floats]
    entries: tuple[Ints, Ints, Floats]

    def lp(self, highspy: Any) -> Any:
        """The program without its whole numbers, as HiGHS takes it."""
        row, column, value = self.entries
        order = np.lexsort((row, column))
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self.cost.size, self.rows[0].size
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.col_cost_ = self.cost
        lp.col_lower_, lp.col_upper_ = self.columns
        lp.row_lower_, lp.row_upper_ = self.rows
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        starts = np.r_[0, np.cumsum(np.bincount(column, minlength=self.cost.size))]
        lp.a_matrix_.start_ = starts.astype(np.int32)
        lp.a_matrix_.index_ = row[order].astype(np.int32)
        lp.a_matrix_.value_ = value[order]
        return lp

    def proved(self, prices: Floats, upper: Floats) -> float:
        """A bound on the maximum with ``upper``, for any prices of the rows; not below by rounding.

        Neumaier and Shcherbina (2004): cost @ x = (cost - A'y) @ x + y @ (A x), and each column and
        each row lies between its ends, whatever y is. The prices decide how good the bound is.
        """
        row, column, value = self.entries
        least, most = self.rows
        useless = (prices > 0) & np.isinf(most) | (prices < 0) & np.isinf(least)
        y = np.where(useless, 0.0, prices)
        side = np.where(y > 0, most, np.where(y < 0, least, 0.0))
        with np.errstate(all="ignore"):
            product = value * y[row]
            size = np.abs(self.cost) + np.bincount(column, np.abs(product), self.cost.size)
            reduced = self.cost - np.bincount(column, product, self.cost.size)
            # A sum of k products is off by at most k + 1 units of rounding of their sizes.
            entries = np.bincount(column, minlength=self.cost.size)
            reduced += (entries + 4) * 2.0**-52 * size
            # No column is below 0, so that a larger reduced cost never gives less.
            ends = np.maximum(reduced * self.columns[0], reduced * upper)
            terms = np.concatenate([y * side, ends])
            total = float(np.abs(terms).sum())
        if not np.isfinite(total):
            return math.inf
        return math.fsum(terms) + 2.0**-50 * total + 1e-300


def sums(index: Ints, values: Floats, size: int) -> Floats:
    """The sum of the values of each index."""
    return np.bincount(index, values, size).astype(np.float64)


class _Rows:
    """Rows as they are added."""

    def __init__(self) -> None:
        self.entries: list[tuple[Ints, Ints, Floats]] = []
        self.lower: list[Floats] = []
        self.upper: list[Floats] = []
        self.count = 0

    def add(
        self, lower: Floats, upper: Floats, *entries: tuple[Ints, Ints, Floats | float]
    ) -> None:
        """Adds rows numbered from 0."""
        for row, column, value in entries:
            values = np.broadcast_to(np.asarray(value, np.float64), row.shape)
            self.entries.append((row + self.count, column, values))
        self.lower.append(lower)
        self.upper.append(upper)
        self.count += lower.size


def program_of(problem: Problem, pieces: Pieces) -> Program:
    """The program of ``docs/milp.md``."""
    count, samples, bins = pieces.sample.size, problem.right.size, problem.bins
    every = np.arange(count)
    if problem.coupled:
        # A confidence in a piece is a mean of the piece's ends.
        wide = np.flatnonzero(pieces.low < pieces.high)
        one_side, place = np.r_[every, wide], np.r_[pieces.low, pieces.high[wide]]
        piece, place = np.r_[one_side, one_side], np.r_[place, place]
        up = np.arange(piece.size) < one_side.size
    else:
        piece, up = np.r_[every, every], np.arange(2 * count) < count
        place = np.where(up, pieces.low[piece], pieces.high[piece])
    shares, bin_ = np.arange(piece.size), np.arange(bins)
    signs = shares.size + bin_
    rows = _Rows()
    rows.add(np.ones(samples), np.ones(samples), (pieces.sample[piece], shares, 1.0))
    # Shares of a bin that is pushed up need its sign at 1, others at 0.
    for side, sign, most in ((up, -1.0, 0.0), (~up, 1.0, 1.0)):
        rows.add(
            np.full(count, -np.inf),
            np.full(count, most),
            (piece[side], shares[side], 1.0),
            (every, signs[pieces.bin], sign),
        )
    if problem.attacked:
        stay = np.flatnonzero(pieces.stays[piece])
        unmoved = np.array([samples - problem.attacked], np.float64)
        rows.add(unmoved, np.array([np.inf]), (np.zeros_like(stay), stay, 1.0))
    for coefficients, at_least, at_most in problem.rows:
        value = coefficients[pieces.sample[piece]] * place
        rows.add(
            np.array([at_least - problem.rounding]),
            np.array([at_most + problem.rounding]),
            (np.zeros_like(shares), shares, value),
        )
    if problem.sizes is not None:
        _add_groups(rows, problem, pieces, piece, place)
    right = pieces.right[piece]
    gain = np.where(up, right - place, place - right)
    # Rounded up where it is not exact: a right sample's 1 - z is, where it leads back to z.
    gain = np.where((right == 0) | (1.0 - np.abs(gain) == place), gain, np.nextafter(gain, np.inf))
    thresholds = pieces.floors.size
    lower = np.concatenate([np.zeros(shares.size + bins), pieces.floors])
    upper = np.concatenate([np.ones(shares.size + bins), pieces.ceilings])
    row, column, values = (np.concatenate(part) for part in zip(*rows.entries, strict=True))
    return Program(
        piece=piece,
        up=up,
        place=place,
        cost=np.concatenate([gain, np.zeros(bins + thresholds)]),
        columns=(lower, upper),
        rows=(np.concatenate(rows.lower), np.concatenate(rows.upper)),
        entries=(row, column, values),
    )


def _add_groups(rows: _Rows, problem: Problem, pieces: Pieces, piece: Ints, place: Floats) -> None:
    """Sizes of the groups, each confidence on its side of each threshold, and known orders."""
    assert problem.sizes is not None
    shares, group, sample = np.arange(piece.size), pieces.bin[piece], pieces.sample[piece]
    size = problem.sizes.astype(np.float64)
    rows.add(size, size, (group, shares, 1.0))
    thresholds = piece.size + problem.bins + np.arange(pieces.floors.size)
    before, after = _known_orders(problem)
    for m, threshold in enumerate(thresholds):
        floor, ceiling = pieces.floors[m], pieces.ceilings[m]
        # With A the shares up to group m and z' the part of the confidence that lies there: z' <= e
        # - floor (1 - A). Above m, z'' >= e - ceiling (1 - A'').
        for inside, bound, sign in ((group <= m, floor, 1.0), (group > m, ceiling, -1.0)):
            matters = inside & (sign * (place - bound) > 0)
            members = np.unique(sample[matters])
            if not members.size:
                continue
            mine = np.flatnonzero(inside & np.isin(sample, members))
            rows.add(
                np.full(members.size, -np.inf),
                np.full(members.size, -sign * bound + _ROUNDING),
                (
                    np.searchsorted(members, sample[mine]),
                    shares[mine],
                    sign * (place[mine] - bound),
                ),
                (np.arange(members.size), np.full(members.size, threshold), -sign),
            )
        # Whoever is always after another one is up to group m only if that one is.
        under = np.flatnonzero(group <= m)
        under = under[np.argsort(sample[under], kind="stable")]
        entries = []
        for who, sign in ((after, 1.0), (before, -1.0)):
            first = np.searchsorted(sample[under], who, "left")
            each = np.searchsorted(sample[under], who, "right") - first
            pair = np.repeat(np.arange(who.size), each)
            at = np.arange(pair.size) + np.repeat(first - (np.cumsum(each) - each), each)
            entries.append((pair, under[at], sign))
        rows.add(np.full(before.size, -np.inf), np.zeros(before.size), *entries)
    for below, above in itertools.pairwise(thresholds):
        zero = np.zeros(1, np.int64)
        rows.add(
            np.zeros(1), np.full(1, np.inf), (zero, above[None], 1.0), (zero, below[None], -1.0)
        )


def _known_orders(problem: Problem) -> tuple[Ints, Ints]:
    """Pairs (before, after) with u[before] < l[after], without those that follow from others.

    For each sample the nearest few, and more where a solver's tolerance would not tell them apart.
    Leaving one out only loosens the bound.
    """
    low, high = problem.low, problem.high
    by_high = np.argsort(high, kind="stable")
    last = np.searchsorted(high[by_high], low, "left")
    # The largest lower end of those that are before: what ends below it follows.
    reach = np.r_[-1.0, np.maximum.accumulate(low[by_high])][last]
    first = np.searchsorted(high[by_high], reach, "left")
    near = np.searchsorted(high[by_high], low - _NEAR, "left")
    first = np.maximum(first, np.maximum(np.minimum(near, last - _FEW), last - _MANY))
    each = last - first
    after = np.repeat(np.arange(low.size), each)
    at = np.arange(after.size) + np.repeat(first - (np.cumsum(each) - each), each)
    return by_high[at].astype(np.int64), after.astype(np.int64)
