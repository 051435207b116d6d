# SPDX-License-Identifier: MIT
"""The area under the ROC curve of right against wrong samples, and its exact worst case."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from certcal_ext import _check


def auroc(correct: Any, confidence: Any) -> float:
    """The chance that a right sample has a higher confidence than a wrong one; ties count half.

    A strictly increasing map does not change it; pooling does.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences, in [0, 1].

    Returns:
        The area under the ROC curve, 0.5 for a constant; nan where all or none are right.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, or confidences outside [0, 1].

    Source:
        Mann and Whitney, Annals of Mathematical Statistics 1947.

    Example:
        >>> auroc([1, 0, 1], [0.9, 0.5, 0.5])
        0.75
    """
    right, points = _check.points(correct, confidence)
    if not right.size:
        raise ValueError("correct, confidence: expected at least one sample, got none")
    good = int(np.count_nonzero(right))
    if good in (0, right.size):
        return float("nan")
    ranks = float(rankdata(points)[right == 1].sum())
    return (ranks - good * (good + 1) / 2) / (good * (right.size - good))


class CertifiedAuroc(float):
    """The exact lowest AUROC. For one release it is the number itself too, as ``certified_auroc`` gave it before."""

    @property
    def value(self) -> float:
        """The AUROC of the worst-case points; nan where all or none are right."""
        return float(self)


def certified_auroc(correct: Any, lower: Any, upper: Any) -> CertifiedAuroc:
    """The exact lowest AUROC that confidences inside the intervals can have.

    Theorem (this project): every pair of a right and a wrong sample is ordered worst with the right one at
    its lower and the wrong one at its upper end, and these ends are the worst for all pairs at once.
    Below 0.5 an attack can turn the order around. Strictly increasing maps do not change it.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of certified intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.

    Returns:
        ``CertifiedAuroc``.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, or bounds that are NaN, unordered or outside [0, 1].

    Example:
        >>> certified_auroc([1, 0, 0], lower=[0.5, 0.1, 0.2], upper=[0.9, 0.4, 0.6]).value
        0.5
    """
    right, low, high = _check.some_intervals(correct, lower, upper)
    _check.require_ordered(low, high)
    return CertifiedAuroc(auroc(right, np.where(right == 1, low, high)))
