# SPDX-License-Identifier: MIT
"""Feasible points of the program of ``milp_program``: what starts the solver and what it found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from certcal_ext.metrics.ece import certified_ece
from certcal_ext.milp.program import Bools, Floats, Pieces, Problem, Program, sums

#: How far a point of HiGHS may miss a linear constraint, whose largest coefficient is in [1/2, 1),
#: and how far one that HiGHS starts from, which has to pass its tolerance.
_FEASIBLE, _START = 1e-9, 1e-11


@dataclass(frozen=True)
class Point:
    """One choice of all confidences.

    Attributes:
        chosen: (P,) the piece of each sample.
        confidence: (N,) the confidences, edges that a bin does not hold included.
        errors: (M,) the sums E_m of c - z.
    """

    chosen: Bools
    confidence: Floats
    errors: Floats

    @property
    def total(self) -> float:
        """N times the ECE."""
        return float(np.abs(self.errors).sum())

    def columns(self, problem: Problem, pieces: Pieces, program: Program) -> Floats:
        """The point as values of all columns of the program."""
        above = np.where(self.chosen, self.confidence[pieces.sample] - pieces.low, 0.0)
        thresholds = np.zeros(0)
        if problem.sizes is not None:
            ranks = np.cumsum(problem.sizes)[:-1] - 1
            thresholds = np.sort(self.confidence)[ranks]
        values = np.concatenate(
            [self.chosen, above, self.errors >= 0, np.abs(self.errors), thresholds]
        )
        inside: Floats = np.clip(values, *program.columns)
        return inside

    def inside_bins(self, problem: Problem, pieces: Pieces) -> Floats:
        """The confidences, moved by one float where they sit on an edge that is not their bin's."""
        if problem.sizes is not None:
            return self.confidence
        at, z = pieces.bin[self.chosen], self.confidence
        if problem.left:
            outside = (z == problem.edges[at + 1]) & (at < problem.bins - 1)
            return np.where(outside, np.nextafter(z, -1.0), z)
        return np.where((z == problem.edges[at]) & (at > 0), np.nextafter(z, 2.0), z)


def settled(problem: Problem, pieces: Pieces, chosen: Bools) -> Point:
    """All samples in their chosen pieces, each bin pushed as far as it goes: a supremum."""
    at, right = pieces.bin[chosen], pieces.right[chosen]
    low, high = pieces.low[chosen], pieces.high[chosen]
    largest = sums(at, right - low, problem.bins)
    smallest = sums(at, right - high, problem.bins)
    up = largest >= -smallest
    return Point(chosen, np.where(up[at], low, high), np.where(up, largest, smallest))


def placed(
    problem: Problem, pieces: Pieces, confidence: Floats, moved: Bools, slack: float = _START
) -> Point | None:
    """Given confidences, with each sample in the piece that holds its own; None if infeasible."""
    if not problem.satisfied(confidence, slack):
        return None
    if problem.attacked is not None and int(moved.sum()) > problem.attacked:
        return None
    if problem.sizes is None:
        at = problem.bin_of(confidence)
    else:
        at = np.empty(confidence.size, np.int64)
        order = np.argsort(confidence, kind="stable")
        at[order] = np.repeat(np.arange(problem.bins), problem.sizes)
    chosen = pieces.bin == at[pieces.sample]
    if problem.attacked is not None:
        chosen &= pieces.stays == ~moved[pieces.sample]
    if int(chosen.sum()) != confidence.size:
        return None
    errors = sums(at, problem.right - confidence, problem.bins)
    return Point(chosen, confidence, errors)


def found_point(problem: Problem, pieces: Pieces, columns: Floats) -> Point | None:
    """What the columns of HiGHS's solution stand for, its rounding taken off."""
    count = pieces.sample.size
    if problem.attacked is not None and not problem.coupled:
        signs = columns[2 * count : 2 * count + problem.bins]
        return _best_attacks(problem, pieces, np.where(signs > 0.5, 1.0, -1.0))
    order = np.lexsort((-columns[:count], pieces.sample))
    chosen = np.zeros(count, np.bool_)
    chosen[order[np.r_[True, np.diff(pieces.sample[order]) != 0]]] = True
    if problem.attacked is not None and int((~pieces.stays[chosen]).sum()) > problem.attacked:
        return None
    if not problem.coupled:
        return settled(problem, pieces, chosen)
    z = np.clip((pieces.low + columns[count : 2 * count])[chosen], problem.low, problem.high)
    moved = ~pieces.stays[chosen]
    if problem.clean is not None and problem.attacked is not None:
        z = np.where(moved, z, problem.clean)
    if not problem.satisfied(z, _FEASIBLE):
        return None
    at = pieces.bin[chosen]
    if problem.sizes is None:
        z = np.clip(z, pieces.low[chosen], pieces.high[chosen])
    elif not _ordered(z, at):
        return None
    return Point(chosen, z, sums(at, problem.right - z, problem.bins))


def _ordered(confidence: Floats, group: NDArray[np.int64]) -> bool:
    """Whether no confidence is below one of a lower group; between equal ones any order will do."""
    order = np.lexsort((confidence, group))
    z, at = confidence[order], group[order]
    return bool(np.all(z[1:] >= z[:-1] - _FEASIBLE * (at[1:] > at[:-1])))


def plain_points(problem: Problem, pieces: Pieces) -> list[Point]:
    """Points that need no solver: both ends of the intervals and the clean confidences."""
    everyone = np.ones(problem.right.size, np.bool_)
    wrong_way = np.where(problem.right == 1, problem.low, problem.high)
    candidates = [(z, everyone) for z in (problem.low, problem.high, wrong_way)]
    if problem.clean is not None:
        candidates.append((problem.clean, ~everyone if problem.attacked is not None else everyone))
    points = (placed(problem, pieces, z, moved) for z, moved in candidates)
    return [point for point in points if point is not None]


def recursion_points(problem: Problem, pieces: Pieces) -> list[Point]:
    """What the recursion's solution gives: itself, or its best k attacks."""
    arrays = (problem.right, problem.low, problem.high)
    if problem.sizes is not None:
        return []
    closed = "left" if problem.left else "right"
    exact = certified_ece(*arrays, edges=problem.edges, closed=closed)
    if problem.rows or problem.attacked is None:
        everyone = np.ones(problem.right.size, np.bool_)
        point = placed(problem, pieces, exact.worst_confidence, everyone)
        if point is None:
            return []
        return [point if problem.rows else settled(problem, pieces, point.chosen)]
    return [_best_attacks(problem, pieces, exact.signs.astype(np.float64))]


def _best_attacks(problem: Problem, pieces: Pieces, signs: Floats) -> Point:
    """Local search over the signs of the bins; for fixed signs the best k attacks are exact."""
    best, value = _attacks(problem, pieces, signs)
    better = True
    while better:
        better = False
        for m in range(problem.bins):
            signs[m] = -signs[m]
            point, gain = _attacks(problem, pieces, signs)
            if gain > value + 1e-12:
                best, value, better = point, gain, True
            else:
                signs[m] = -signs[m]
    return settled(problem, pieces, best)


def _attacks(problem: Problem, pieces: Pieces, signs: Floats) -> tuple[Bools, float]:
    """The choice of pieces that is best for the signs, and N times what it reaches."""
    assert problem.attacked is not None
    up = signs[pieces.bin] > 0
    gain = np.where(up, pieces.right - pieces.low, pieces.high - pieces.right)
    staying = _first(pieces, np.where(pieces.stays, gain, -np.inf))
    moving = _first(pieces, np.where(pieces.stays, -np.inf, gain))
    improvement = gain[moving] - gain[staying]
    most = np.argsort(-improvement, kind="stable")[: problem.attacked]
    index = staying.copy()
    index[most] = np.where(improvement[most] > 0, moving[most], staying[most])
    chosen = np.zeros(gain.size, np.bool_)
    chosen[index] = True
    return chosen, float(gain[index].sum())


def _first(pieces: Pieces, gain: Floats) -> NDArray[np.int64]:
    """(N,) the piece of each sample with the largest gain."""
    order = np.lexsort((-gain, pieces.sample))
    return order[np.r_[True, np.diff(pieces.sample[order]) != 0]].astype(np.int64)
