# SPDX-License-Identifier: MIT
"""Points that the arguments allow, whose ECE is a lower end of the worst case."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from certcal_ext.metrics.ece import certified_ece
from certcal_ext.milp.problem import Bools, Floats, Ints, Pieces, Problem, sums

#: How often a point is moved back to its linear constraints before it is given up.
_MOVES = 6

#: How far inside a constraint a point is moved, in units of what rounding may cost.
_CLEAR = 4


@dataclass(frozen=True)
class Point:
    """One choice of all confidences.

    Attributes:
        problem: what it belongs to.
        bin: (N,) the bin or group of each sample.
        confidence: (N,) the confidences. Without linear constraints and with fixed edges an edge
            may stand for confidences as near to it as one likes, on the side of ``bin``.
        met: whether linear constraints hold exactly, and not only but for rounding.
    """

    problem: Problem
    bin: Ints
    confidence: Floats
    met: bool = True

    @cached_property
    def total(self) -> float:
        """N times the ECE, about."""
        errors = sums(self.bin, self.problem.right - self.confidence, self.problem.bins)
        return float(np.abs(errors).sum())

    @cached_property
    def exact(self) -> Fraction:
        """The ECE."""
        errors = [Fraction()] * self.problem.bins
        truth, z = self.problem.right.tolist(), self.confidence.tolist()
        for at, c, x in zip(self.bin.tolist(), truth, z, strict=True):
            errors[at] += c - Fraction(x)
        return Fraction(sum(abs(error) for error in errors), len(z))

    @property
    def rank(self) -> tuple[bool, float]:
        """The larger, the better."""
        return self.met, self.total

    def inside_bins(self) -> Floats:
        """The confidences, moved by one float where they sit on an edge that is not their bin's."""
        problem, at, z = self.problem, self.bin, self.confidence
        if problem.sizes is not None:
            return z
        if problem.left:
            outside = (z == problem.edges[at + 1]) & (at < problem.bins - 1)
            return np.where(outside, np.nextafter(z, -1.0), z)
        return np.where((z == problem.edges[at]) & (at > 0), np.nextafter(z, 2.0), z)


def settled(problem: Problem, pieces: Pieces, index: Ints) -> Point:
    """All samples in these pieces, each bin pushed as far as it goes: a supremum."""
    at, right = pieces.bin[index], pieces.right[index]
    low, high = pieces.low[index], pieces.high[index]
    largest = sums(at, right - low, problem.bins)
    smallest = sums(at, right - high, problem.bins)
    return Point(problem, at, np.where((largest >= -smallest)[at], low, high))


def placed(problem: Problem, confidence: Floats, moved: Bools) -> Point | None:
    """Given confidences; None where limits forbid them. Ties of groups are broken by index."""
    if problem.attacked is not None and int(moved.sum()) > problem.attacked:
        return None
    missed = max((abs(by) for by in problem.missed(confidence)), default=Fraction())
    if missed > problem.rounding:
        return None
    if problem.sizes is None:
        at = problem.bin_of(confidence)
    else:
        at = np.empty(confidence.size, np.int64)
        at[np.argsort(confidence, kind="stable")] = np.repeat(
            np.arange(problem.bins), problem.sizes
        )
    return Point(problem, at, confidence, not missed)


def plain_points(problem: Problem) -> list[Point]:
    """Points that need no solver: both ends of the intervals and the clean confidences."""
    everyone = np.ones(problem.right.size, np.bool_)
    wrong_way = np.where(problem.right == 1, problem.low, problem.high)
    candidates = [(z, everyone) for z in (problem.low, problem.high, wrong_way)]
    if problem.clean is not None:
        candidates.append((problem.clean, ~everyone if problem.attacked is not None else everyone))
    points = (placed(problem, z, moved) for z, moved in candidates)
    return [point for point in points if point is not None]


def recursion_points(problem: Problem, pieces: Pieces) -> list[Point]:
    """What the recursion's solution gives: itself, or its best k attacks."""
    if problem.sizes is not None:
        return []
    closed = "left" if problem.left else "right"
    exact = certified_ece(
        problem.right, problem.low, problem.high, edges=problem.edges, closed=closed
    )
    if not problem.rows:
        return [searched(problem, pieces, exact.signs > 0)]
    if problem.attacked is not None:
        return []
    point = placed(problem, exact.worst_confidence, np.ones(problem.right.size, np.bool_))
    return [] if point is None else [point]


def searched(problem: Problem, pieces: Pieces, up: Bools) -> Point:
    """Local search over the sides of the bins; for given sides the best pieces are exact."""
    best, value = _best_pieces(problem, pieces, up)
    better, up = True, up.copy()
    while better and problem.attacked is not None:
        better = False
        for m in range(problem.bins):
            up[m] = not up[m]
            index, gain = _best_pieces(problem, pieces, up)
            if gain > value + 1e-12:
                best, value, better = index, gain, True
            else:
                up[m] = not up[m]
    return settled(problem, pieces, best)


def _best_pieces(problem: Problem, pieces: Pieces, up: Bools) -> tuple[Ints, float]:
    """The pieces that are best for the sides, and N times what they reach."""
    gain = np.where(up[pieces.bin], pieces.right - pieces.low, pieces.high - pieces.right)
    if problem.attacked is None:
        index = pieces.largest(gain)
        return index, float(gain[index].sum())
    index = pieces.largest(np.where(pieces.stays, gain, -np.inf))
    moving = pieces.largest(np.where(pieces.stays, -np.inf, gain))
    improvement = gain[moving] - gain[index]
    most = np.argsort(-improvement, kind="stable")[: problem.attacked]
    most = most[improvement[most] > 0]
    index[most] = moving[most]
    return index, float(gain[index].sum())


def most_moved(problem: Problem, share_moved: Floats) -> Bools:
    """The samples that are attacked: those with the largest shares, as many as may be."""
    moved = np.ones(share_moved.size, np.bool_)
    if problem.attacked is not None:
        moved[np.argsort(-share_moved, kind="stable")[problem.attacked :]] = False
    return moved


def grouped(problem: Problem, order: Ints, moved: Bools) -> Point | None:
    """The best confidences for groups of equal mass that are cut from an order; None if not allowed.

    For given groups, and thresholds e_m between them, a group pushed up has z = max(l, e_(m-1)) and
    one pushed down z = min(u, e_m); a recursion over the groups finds the best thresholds among the
    ends of the intervals, where a vertex has them.
    """
    assert problem.sizes is not None
    low, high = problem.low, problem.high
    if problem.clean is not None and problem.attacked is not None:
        low, high = np.where(moved, low, problem.clean), np.where(moved, high, problem.clean)
    low, high, right = low[order], high[order], problem.right[order]
    cuts = np.r_[0, np.cumsum(problem.sizes)]
    floors = np.maximum.accumulate(low)[cuts[1:-1] - 1]
    tops = np.minimum.accumulate(high[::-1])[::-1][cuts[1:-1]]
    if (floors > tops).any():
        return None
    candidate = np.unique(np.r_[0.0, low, high, 1.0])
    # value[e]: the best of the groups so far if the threshold above them is e.
    value = np.where(candidate == 0.0, 0.0, -np.inf)
    steps = []
    for m in range(problem.bins):
        part = slice(cuts[m], cuts[m + 1])
        up = (right[part] - np.maximum(low[part], candidate[:, None])).sum(1)
        down = (np.minimum(high[part], candidate[:, None]) - right[part]).sum(1)
        steps.append((value, up))
        value = np.maximum(np.maximum.accumulate(value) + down, np.maximum.accumulate(value + up))
        if m < tops.size:
            value[(candidate < floors[m]) | (candidate > tops[m])] = -np.inf
    z, above = np.empty_like(low), candidate.size - 1
    for m in range(problem.bins - 1, -1, -1):
        part = slice(cuts[m], cuts[m + 1])
        value, up = steps[m]
        pushed, kept = np.argmax((value + up)[: above + 1]), np.argmax(value[: above + 1])
        down = (np.minimum(high[part], candidate[above]) - right[part]).sum()
        if (value + up)[pushed] >= value[kept] + down:
            z[part] = np.maximum(low[part], candidate[pushed])
            above = int(pushed)
        else:
            z[part] = np.minimum(high[part], candidate[above])
            above = int(kept)
    result, at = np.empty_like(z), np.empty(z.size, np.int64)
    result[order], at[order] = z, np.repeat(np.arange(problem.bins), problem.sizes)
    return Point(problem, at, result)


def met(problem: Problem, pieces: Pieces, index: Ints, confidence: Floats) -> Point | None:
    """Confidences near the given ones, in these pieces, that satisfy the linear constraints.

    Open ends of bins are kept clear of by one float, so that the confidences lie in these bins.
    """
    at = pieces.bin[index]
    low, high = pieces.low[index].copy(), pieces.high[index].copy()
    if problem.sizes is None and problem.left:
        beyond = (high == problem.edges[at + 1]) & (at < problem.bins - 1)
        high[beyond] = np.nextafter(high[beyond], -1.0)
    elif problem.sizes is None:
        beyond = (low == problem.edges[at]) & (at > 0)
        low[beyond] = np.nextafter(low[beyond], 2.0)
    z = np.clip(confidence, low, high)
    weights = np.array([row for row, _, _ in problem.rows])
    # Constraints that have been missed so far: the others take no part.
    active = np.zeros(weights.shape[0], np.bool_)
    left = problem.missed(z)
    for _ in range(_MOVES):
        if not any(left):
            break
        # Into the range that is allowed, clear of its end by more than rounding if there is room.
        by = np.zeros(len(left))
        for k, (_, least, most) in enumerate(problem.rows):
            if left[k]:
                active[k] = True
                margin = min(_CLEAR * problem.rounding, (most - least) / 2)
                by[k] = float(left[k]) + (margin if left[k] > 0 else -margin)
        z = _moved(weights[active], by[active], z, low, high)
        left = problem.missed(z)
    if max(abs(by) for by in left) > problem.rounding:
        return None
    if problem.sizes is not None:
        order = np.lexsort((z, at))
        if (np.diff(z[order]) < 0).any():
            return None
    return Point(problem, at, z, not any(left))


def _moved(weights: Floats, by: Floats, z: Floats, low: Floats, high: Floats) -> Floats:
    """Confidences whose weighted sums are larger ``by`` so much, about, moved where there is room."""
    room = np.minimum(z - low, high - z)
    if by.size == 1:
        # One constraint tells the direction, and all the room there is counts.
        direction = np.sign(weights[0]) * np.sign(by[0])
        room = np.where(direction > 0, high - z, z - low)
    scaled = weights * room
    shares = np.linalg.lstsq(scaled, by, rcond=None)[0]
    return np.clip(z + shares * room, low, high)
