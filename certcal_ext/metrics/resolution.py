# SPDX-License-Identifier: MIT
"""The resolution of the Brier score: how far confidences tell right from wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from certcal_ext import _check
from certcal_ext.bins import Bins


def resolution(
    correct: Any,
    confidence: Any,
    bins: int | Bins = 15,
    edges: Any = None,
    closed: str = "right",
) -> float:
    """The resolution of the Brier score: sum_m (n_m / N) (acc_m - acc)^2 over the bins of the ECE.

    It says how far the confidences tell right from wrong: 0 for a constant, at most acc(1 - acc). With the
    reliability, sum_m (n_m / N) (acc_m - conf_m)^2, the Brier score is reliability - resolution + acc(1 -
    acc), up to how confidences vary inside a bin.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences, in [0, 1].
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Returns:
        The resolution.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, confidences outside [0, 1], or bad bins.

    Source:
        Murphy, Journal of Applied Meteorology 1973.

    Example:
        >>> resolution([1, 0], [1.0, 0.25]), resolution([1, 0], [0.5, 0.5])
        (0.25, 0.0)
    """
    right, points = _check.points(correct, confidence)
    if not right.size:
        raise ValueError("correct, confidence: expected at least one sample, got none")
    cells = Bins.of(bins, edges, closed)
    at = cells.index(points)
    count = np.bincount(at, minlength=len(cells))
    good = np.bincount(at[right == 1], minlength=len(cells))
    held = count > 0
    gap = good[held] / count[held] - good.sum() / right.size
    return float((count[held] * gap**2).sum() / right.size)
