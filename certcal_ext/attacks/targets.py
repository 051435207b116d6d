# SPDX-License-Identifier: MIT
"""Worst confidences within reach, for confidences that are known up to an error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from certcal_ext import _check
from certcal_ext.metrics.ece import certified_ece

Floats = NDArray[np.float64]

#: Bins merged in threes or fives give signs that turn less often: starts that an error spoils less.
_MERGED = (1, 2, 3, 5)
_MOST_TURNS = 50

#: Distances from a border, in units of the error, that a target may keep.
_DISTANCES = (-6.0, -4.5, -3.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0)


@dataclass(frozen=True)
class Plan:
    """Signs of the bins, and a target for each sample.

    Attributes:
        signs: (M,) +1 or -1.
        edges: (M + 1,).
        blur: standard error of a confidence, above 0.
        target: (N,) confidences within reach.
        value: the expected error there, over normal errors of the confidences.
    """

    signs: Floats
    edges: Floats
    blur: float
    target: Floats
    value: float

    def gain(self, correct: Floats, confidence: Floats) -> Floats:
        """(...) what samples add to the error under the signs: the expected sign at z times (c - z).

        Args:
            correct: (...) 0 or 1.
            confidence: (...) z, of a shape that goes with it.
        """
        return _gain(self.signs, self.edges, self.blur, correct, confidence)


def plan(
    correct: Floats, lower: Floats, upper: Floats, edges: Floats, closed: str, blur: float
) -> Plan:
    """The confidences within [lower, upper] that make the ECE largest if each is off by a normal error.

    The exact recursion puts targets next to the borders of bins, where the smallest error takes them to the other
    side. So its signs are a start: with the signs fixed, each sample has its best confidence under the blurred
    signs; with the confidences fixed, each bin has its best sign; both raise sum_m |E[sum of (c - z) in bin m]|, and
    they are taken in turn until nothing changes. The best of a few starts is returned: the signs of the recursion
    on the bins and on merged bins, and all bins of one sign. As the blur tends to 0, the first start is the optimum.

    Args:
        correct: (N,) 0 or 1.
        lower: (N,) lowest confidences within reach.
        upper: (N,) highest.
        edges: (M + 1,) from 0 to 1.
        closed: which end of a bin belongs to it.
        blur: standard error of a confidence, above 0.

    Returns:
        ``Plan``.

    Raises:
        ValueError: as ``certified_ece``, or a blur that is not above 0.

    Source:
        this project.

    Example:
        >>> found = plan(np.array([1.0]), np.array([0.2]), np.array([0.9]), np.linspace(0, 1, 3), "right", 1e-6)
        >>> float(found.target[0]), round(found.value, 3)
        (0.2, 0.8)
    """
    _check.positive_number("blur", blur)
    bins = len(edges) - 1
    starts = [np.full(bins, sign) for sign in (1.0, -1.0)]
    for step in _MERGED:
        merged = np.unique([*edges[::step], edges[-1]])
        solved = certified_ece(correct, lower, upper, edges=merged, closed=closed)
        starts.append(
            solved.signs[np.searchsorted(merged, edges[:-1], side="right") - 1].astype(np.float64)
        )
    points = np.concatenate(
        [edges[1:-1, None] + blur * np.array(_DISTANCES), (edges[:-1, None] + edges[1:, None]) / 2],
        axis=None,
    )
    points = np.unique(np.clip(points, 0, 1))
    best: Plan | None = None
    for signs in starts:
        found = _in_turn(signs, correct, lower, upper, edges, blur, points)
        if best is None or found.value > best.value:
            best = found
    assert best is not None
    return best


def _in_turn(
    signs: Floats,
    correct: Floats,
    lower: Floats,
    upper: Floats,
    edges: Floats,
    blur: float,
    points: Floats,
) -> Plan:
    """Targets under the signs, signs under the targets, until neither changes."""
    for _ in range(_MOST_TURNS):
        target = _targets(signs, correct, lower, upper, edges, blur, points)
        sums = (_membership(target, edges, blur) * (correct - target)[:, None]).sum(0)
        turned = np.where(sums == 0, signs, np.sign(sums))
        if np.array_equal(turned, signs):
            break
        signs = turned
    return Plan(signs, edges, blur, target, float(np.abs(sums).sum() / len(correct)))


def _targets(
    signs: Floats,
    correct: Floats,
    lower: Floats,
    upper: Floats,
    edges: Floats,
    blur: float,
    points: Floats,
) -> Floats:
    """(N,) the best of the ends and of the points between them."""
    # What a point gains depends on the sample only by its correctness.
    by_point = [_gain(signs, edges, blur, np.array(c), points) for c in (0.0, 1.0)]
    inside = (points >= lower[:, None]) & (points <= upper[:, None])
    table = np.where(correct[:, None] == 1, by_point[1], by_point[0])
    at = np.where(inside, table, -np.inf).argmax(1)
    rows = np.arange(len(correct))
    choices = np.stack([lower, upper, points[at]])
    gains = np.stack(
        [
            _gain(signs, edges, blur, correct, lower),
            _gain(signs, edges, blur, correct, upper),
            np.where(inside[rows, at], table[rows, at], -np.inf),
        ]
    )
    target: Floats = choices[gains.argmax(0), rows]
    return target


def _gain(signs: Floats, edges: Floats, blur: float, correct: Floats, confidence: Floats) -> Floats:
    turns = np.diff(signs)
    at = np.flatnonzero(turns)
    sign = signs[0] + (turns[at] * ndtr((confidence[..., None] - edges[1:-1][at]) / blur)).sum(-1)
    result: Floats = sign * (correct - confidence)
    return result


def _membership(confidence: Floats, edges: Floats, blur: float) -> Floats:
    """(N, M) probability that a confidence with its error lies in each bin; the outer ones have no outer border."""
    below = ndtr((edges[1:-1] - confidence[:, None]) / blur)
    ends = np.ones((len(confidence), 1))
    result: Floats = np.diff(np.concatenate([0 * ends, below, ends], axis=1), axis=1)
    return result
