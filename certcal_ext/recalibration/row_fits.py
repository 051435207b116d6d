# SPDX-License-Identifier: MIT
"""Fits of row maps on the worst case: a map for each label, shrunk to a common one, and a stack of events.

As in ``fit``, a sample counts by its worst-case point only: all its lower ends for a right, all its upper ends for a wrong
one. Labels with few samples are drawn to all samples, as if those were ``PRIOR`` more of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from certcal_ext import _check
from certcal_ext.recalibration.fit import fit_recalibration, fit_tradeoff
from certcal_ext.recalibration.maps import RecalibrationMap
from certcal_ext.recalibration.row_maps import LabelMaps, StackMap

#: So many samples' worth of all samples is in the fit of every label.
PRIOR = 50

#: Weights are whole: one of the other samples counts so often, where that leaves room.
_REST = 20
_MOST_OWN = 10**6
#: Pieces of the function of an event, between quantiles of the worst-case points.
_PIECES = 4


def fit_by_label(
    kind: str,
    sample: tuple[Any, Any, Any, Any],
    labels: Any,
    by: str = "predicted",
    *,
    share: float = 0.5,
    prior: float = PRIOR,
) -> LabelMaps:
    """A map for each label, each with the lowest certified Brier score of its kind on its own and ``prior`` other samples.

    The samples of a label have weight 1 each, and all samples together the weight ``prior``: without samples of its own, a
    label would have the common map, and with many its own. Every kind of ``fit_recalibration`` can be fitted so.

    Args:
        kind: "isotonic", "tradeoff", "temperature", "platt", "beta", "constant" or "identity".
        sample: ``correct``, ``lower``, ``upper`` and ``confidence`` (for "tradeoff"), each (N,), as in ``fit_tradeoff``.
        labels: (N,) whole numbers of at least 0, which no attack changes.
        by: what the labels are, "predicted" or "group".
        share: for "tradeoff", the weight of the certified score.
        prior: weight of all samples together, above 0.

    Returns:
        ``LabelMaps``; its common map is fitted on all samples alike.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: what the fits refuse, labels below 0, or another kind.

    Source:
        This project (docs/recalibration.md).

    Example:
        >>> ends = [1, 1, 0, 1], [0.5] * 4, [0.5] * 4, [0.5] * 4
        >>> fitted = fit_by_label("constant", ends, [0, 0, 1, 1], prior=4)
        >>> fitted([0.5, 0.5], [0, 1]).round(3)
        array([0.833, 0.667])
    """
    correct, lower, upper, confidence = sample
    right = _check.correct_vector("correct", correct)
    groups = _check.int_vector("labels", labels, right.size)
    if groups.size and groups.min() < 0:
        raise ValueError(f"labels: expected whole numbers of at least 0, got {groups.min()}")
    weight = _check.positive_number("prior", prior)
    size = max(right.size, 1)
    own = min(_MOST_OWN, max(1, round(_REST * size / weight)))
    rest = max(1, round(weight * own / size))

    def fit(weights: NDArray[np.int64] | None) -> RecalibrationMap:
        if kind == "tradeoff":
            return fit_tradeoff(right, lower, upper, confidence, share, weights)
        return fit_recalibration(kind, right, lower, upper, weights)

    maps = {int(label): fit(own * (groups == label) + rest) for label in np.unique(groups)}
    return LabelMaps(by, maps, fit(None))


def fit_stack(correct: Any, lower: Any, upper: Any, labels: Any, prior: float = PRIOR) -> StackMap:
    """The stack with the lowest certified Brier score before it is clipped: non-negative least squares, exactly.

    For a right sample the target is 1 and the certified confidence is the stack at its lower ends, for a wrong one 0 and
    the stack at its upper ends; both are linear in the coefficients, so the certified Brier score is a sum of squares. The
    offsets of labels pay a penalty, as if each label had ``prior`` samples more without one. Clipping to [0, 1] can only
    lower the score.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N, J) lower ends of the probabilities of J events.
        upper: (N, J) upper ends.
        labels: (N,) predicted classes, or other labels that no attack changes.
        prior: of the offsets, in samples.

    Returns:
        ``StackMap``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no samples, shapes that differ, or ends that are unordered or outside [0, 1].

    Source:
        This project (docs/recalibration.md); bounded least squares as in scipy.optimize.lsq_linear.

    Example:
        >>> low, high = [[0.6, 0.7], [0.1, 0.2], [0.7, 0.9]], [[0.8, 0.9], [0.4, 0.3], [0.9, 1.0]]
        >>> fit_stack([1, 0, 1], low, high, [0, 0, 0]).events
        2
    """
    low, high = (
        _check.float_array(name, _check.array(name, value))
        for name, value in (("lower", lower), ("upper", upper))
    )
    if low.ndim != 2 or low.shape != high.shape or not low.size:
        raise ValueError(
            f"lower, upper: expected shape (N, J) of both, got {low.shape}, {high.shape}"
        )
    _check.require_ordered(low, high)
    right = _check.correct_vector("correct", correct, len(low))
    groups = _check.int_vector("labels", labels, len(low))
    weight = _check.positive_number("prior", prior)
    points = np.where(right[:, None] == 1, low, high)
    knots = [_knots(column) for column in points.T]
    pieces = [_rising(column, t) for column, t in zip(points.T, knots, strict=True)]
    own, which = np.unique(groups, return_inverse=True)
    of_label = np.eye(own.size)[which.reshape(-1)]
    count = sum(part.shape[1] for part in pieces)
    columns = np.concatenate([np.ones((len(low), 1)), *pieces, of_label], axis=1)
    penalty = np.zeros((own.size, columns.shape[1]))
    penalty[:, 1 + count :] = np.sqrt(weight) * np.eye(own.size)
    free = np.full(columns.shape[1], -np.inf)
    free[1 : 1 + count] = 0.0
    target = np.concatenate([right.astype(np.float64), np.zeros(own.size)])
    fitted = lsq_linear(np.concatenate([columns, penalty]), target, (free, np.inf), method="bvls").x
    ends = np.cumsum([part.shape[1] for part in pieces])[:-1]
    rises = np.split(np.maximum(fitted[1 : 1 + count], 0.0), ends)
    offsets = dict(zip(own.tolist(), fitted[1 + count :].tolist(), strict=True))
    return StackMap(float(fitted[0]), _tuples(knots), _tuples(rises), offsets)


def _tuples(parts: list[NDArray[np.float64]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(part.tolist()) for part in parts)


def _knots(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """0, 1, and quantiles between them."""
    inner = np.quantile(points, np.linspace(0.0, 1.0, _PIECES + 1)[1:-1])
    return np.unique(np.concatenate(([0.0], inner, [1.0])))


def _rising(points: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K) from 0 to 1 between each knot and the next."""
    return np.clip((points[:, None] - knots[:-1]) / np.diff(knots), 0.0, 1.0)
