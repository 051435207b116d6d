# SPDX-License-Identifier: MIT
"""Edges of bins: of equal width, or with equal numbers of clean confidences."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check

__all__ = ["equal_mass_edges", "equal_width_edges"]


def equal_width_edges(bins: int = 15) -> NDArray[np.float64]:
    """Edges of bins of equal width, the ones used where no edges are given.

    Args:
        bins: number M of bins, from 1 to 2048.

    Returns:
        (M + 1,) float64, strictly increasing from 0 to 1.

    Raises:
        TypeError: ``bins`` is no whole number.
        ValueError: ``bins`` is below 1 or above 2048.

    Example:
        >>> equal_width_edges(4)
        array([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    return _check.bin_edges(bins, None)


def equal_mass_edges(confidence: Any, bins: int = 15, closed: str = "right") -> NDArray[np.float64]:
    """Edges between which the given confidences lie in as equal numbers as ties allow.

    The sorted confidences are cut into M runs whose lengths differ by at most one, and an inner edge lies halfway between
    the last confidence of a run and the first of the next. Where these are equal the edge is that value and ``closed=``
    says on which side the tied ones fall. Where they are neighbouring float64 numbers none lies between, and the edge is
    the one that keeps them apart: the lower one with ``closed="right"``, the upper one with ``closed="left"``. Edges that
    coincide become one, as do those at 0 and 1, so there can be fewer than M bins.

    The edges must not depend on the attack: give the clean confidences here (or those of another data set), and the
    result as ``edges=`` to a certified metric, which then holds for these bins. Bins that are formed anew from the
    attacked confidences are another metric.

    Args:
        confidence: (N,) confidences without an attack, in [0, 1], at least one.
        bins: number M of bins wanted, from 1 to 2048; with fewer confidences than that, one bin for each.
        closed: as it will be for the metric: which end of a bin belongs to it.

    Returns:
        (at most M + 1,) float64, strictly increasing from 0 to 1.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: no confidences, one that is NaN or outside [0, 1], or ``bins`` out of range.

    Source:
        The halfway rule: Kumar, Liang and Ma, "Verified uncertainty calibration" (NeurIPS 2019).

    Example:
        >>> equal_mass_edges([0.9, 0.5, 0.7, 0.8], bins=2)
        array([0.  , 0.75, 1.  ])
    """
    count = _check.whole_number("bins", bins, 1, _check.MAX_BINS)
    left = _check.closed_left(closed)
    points = np.sort(_check.float_vector("confidence", confidence))
    if not points.size:
        raise ValueError("confidence: expected at least one, got none")
    if not (points[0] >= 0 and points[-1] <= 1):  # NaN is sorted to the end
        bad = points[0] if points[0] < 0 else points[-1]
        raise ValueError(f"confidence: expected values in [0, 1], got {bad}")
    lengths = [run.size for run in np.array_split(points, min(count, points.size))]
    starts = np.cumsum(lengths)[:-1]
    below, above = points[starts - 1], points[starts]
    middle = (below + above) / 2
    between = (below < middle) & (middle < above)
    inner = np.unique(np.where(between, middle, above if left else below))
    return np.concatenate(([0.0], inner[(inner > 0) & (inner < 1)], [1.0]))
