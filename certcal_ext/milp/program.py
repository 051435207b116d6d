# SPDX-License-Identifier: MIT
"""The certified ECE as a mixed-integer program, and bounds on it that rest on no solver.

A column is a piece, a side to which its bin is pushed, and a confidence there. ``docs/milp.md``
writes the program down and proves the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from certcal_ext.milp.groups import add_groups
from certcal_ext.milp.problem import Bools, Floats, Ints, Pieces, Problem
from certcal_ext.milp.rows import Rows

#: By what linear constraints are multiplied, so that HiGHS's tolerance is a small part of them.
_SCALE = 2.0**12


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
    rows = Rows()
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
        # What rounding of the products can cost, whatever the confidences.
        lost = 2.0**-52 * float(np.abs(coefficients * problem.high).sum()) + 1e-300
        rows.add(
            _SCALE * np.array([np.nextafter(at_least - lost, -np.inf)]),
            _SCALE * np.array([np.nextafter(at_most + lost, np.inf)]),
            (np.zeros_like(shares), shares, _SCALE * value),
        )
    if problem.sizes is not None:
        add_groups(rows, problem, pieces, piece, place)
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
