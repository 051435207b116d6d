# SPDX-License-Identifier: MIT
"""The best weights under linear constraints, which are a nonparametric maximum-likelihood mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solveh_banded

Floats = NDArray[np.float64]

_STEPS = 60
_TO_BORDER = 0.99
_SHRINK = 0.15
_BANDED = 4  # a band that is this many times smaller than the matrix is worth being treated as one


@dataclass(frozen=True, eq=False)
class Block:
    """Some constraints, which share the columns that are not 0.

    Attributes:
        begin: first of these columns.
        rows: (I, C) at least 0.
    """

    begin: int
    rows: Floats

    @property
    def columns(self) -> slice:
        """The columns."""
        return slice(self.begin, self.begin + self.rows.shape[1])


@dataclass(frozen=True, eq=False)
class Weights:
    """An interior point.

    Attributes:
        weights: (J,) above 0, with every constraint at or below 1.
        mixing: (I,) the multiplier of each constraint, at least 0; they add up to about 1.
    """

    weights: Floats
    mixing: Floats


def best_weights(blocks: Sequence[Block], q: Floats, tolerance: float = 1e-6) -> Weights:
    """Maximises sum_j q_j ln v_j over v > 0 where every row a of the blocks has sum_j a_j v_j <= 1.

    The dual maximises sum_j q_j ln(sum_i mixing_i a_ij) over probability vectors, and v_j is q_j over that mixture.
    Solved by a primal-dual interior-point method: Newton's method on the conditions of optimality with all products
    of a multiplier and its slack equal to mu, which falls to 0. What comes out need not be exact: a table is made
    valid, whatever its weights are, by ``Cells.largest``.

    Args:
        blocks: the constraints; each column has an entry above 0 in some of them.
        q: (J,) at least 0, with sum 1.
        tolerance: gap of the objective at which to stop.

    Returns:
        ``Weights``.

    Source:
        Kiefer and Wolfowitz (Annals of Mathematical Statistics 1956); Koenker and Mizera (JASA 2014) for the dual by
        interior points.
    """
    size = q.size
    # Columns scaled by their largest entry, so that no weight is tiny.
    scale = np.zeros(size)
    for block in blocks:
        np.maximum(scale[block.columns], block.rows.max(axis=0), out=scale[block.columns])
    system = _System([Block(b.begin, b.rows / scale[b.columns]) for b in blocks], size)
    v = np.full(size, 0.5 / system.times(np.ones(size)).max())
    slack = 1.0 - system.times(v)
    mixing = np.full(slack.size, 1.0 / slack.size)
    for _ in range(_STEPS):
        gap = float(mixing @ slack)
        missed = float(np.abs(q - v * system.transposed(mixing)).sum())
        if gap < tolerance and missed < tolerance:
            break
        mu = _SHRINK * gap / slack.size
        gradient = q - v * system.transposed(mu / slack)
        try:
            move = v * system.solve(v, mixing / slack, q, gradient)
        except LinAlgError:  # at the end of what doubles can tell apart
            break
        lost = system.times(move)
        turn = (mu + mixing * lost) / slack - mixing
        v = v + min(_longest(v, move), _longest(slack, -lost)) * move
        slack = np.maximum(1.0 - system.times(v), 1e-300)
        mixing = mixing + _longest(mixing, turn) * turn
    return Weights(v / scale, mixing)


class _System:
    """Products with all rows, and the equations of a Newton step."""

    def __init__(self, blocks: Sequence[Block], size: int) -> None:
        self._blocks, self._size = blocks, size
        ends = np.cumsum([0, *(len(block.rows) for block in blocks)])
        self._places = [slice(a, b) for a, b in pairwise(ends)]
        self._total = int(ends[-1])
        self._band = max(block.rows.shape[1] for block in blocks)

    def times(self, v: Floats) -> Floats:
        """(I,) every row times v."""
        return np.concatenate([block.rows @ v[block.columns] for block in self._blocks])

    def transposed(self, mixing: Floats) -> Floats:
        """(J,) the rows mixed."""
        result = np.zeros(self._size)
        for block, place in zip(self._blocks, self._places, strict=True):
            result[block.columns] += mixing[place] @ block.rows
        return result

    def solve(self, v: Floats, ratio: Floats, q: Floats, right: Floats) -> Floats:
        """In units of v, in which the matrix is well scaled: (diag(q) + V A' diag(ratio) A V) x = right."""
        matrix = np.zeros((self._size, self._size))
        for block, place in zip(self._blocks, self._places, strict=True):
            scaled = block.rows * v[block.columns]
            matrix[block.columns, block.columns] += (scaled.T * ratio[place]) @ scaled
        diagonal = np.diag_indices(self._size)
        # Columns that nobody expects have no curvature of their own once their constraint is slack.
        matrix[diagonal] += q + 1e-14
        if self._band * _BANDED > self._size:
            result: Floats = cho_solve(cho_factor(matrix, check_finite=False), right)
            return result
        band = np.zeros((self._band, self._size))
        for offset in range(self._band):
            band[offset, : self._size - offset] = matrix.diagonal(-offset)
        banded: Floats = solveh_banded(band, right, lower=True, check_finite=False)
        return banded


def _longest(values: Floats, moves: Floats) -> float:
    """How far a step may go while every value stays above 0."""
    falling = moves < 0
    if not falling.any():
        return 1.0
    return min(1.0, _TO_BORDER * float((-values[falling] / moves[falling]).min()))
