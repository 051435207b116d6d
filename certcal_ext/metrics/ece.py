# SPDX-License-Identifier: MIT
"""The expected calibration error and its exact worst case; ``ece_table`` has the sums behind it."""

from __future__ import annotations

from typing import Any

from certcal_ext import _check
from certcal_ext.bins import Bins
from certcal_ext.metrics.base import Options, Samples, SignedSumMetric
from certcal_ext.metrics.ece_table import CertifiedEce, EceTable

__all__ = ["CertifiedEce", "EceState", "EceTable", "certified_ece", "ece"]


def certified_ece(
    correct: Any,
    lower: Any,
    upper: Any,
    bins: int | Bins = 15,
    edges: Any = None,
    closed: str = "right",
) -> CertifiedEce:
    """The exact worst-case expected calibration error over all confidences inside the intervals.

    Theorem (``csrc/core/ece_solve.hpp``): with ECE = (1/N) sum_m |sum_{n in bin m} (c_n - z_n)| and
    |x| = max_s s x, the worst case is the maximum over the signs of the bins of a sum in which the
    samples no longer interact, and a recursion over runs of equal signs finds it in O(N + M^2).
    Emde et al. (ICLR 2025) pose the same problem as a mixed-integer program and solve it
    approximately. The value is a supremum: an open edge of a bin is approached.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: ``"right"``: bins are (e, e'] and the first also holds 0. ``"left"``: bins are [e,
            e') and the last also holds 1.

    Returns:
        ``CertifiedEce``.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0,
            1], or bad bins.

    Example:
        >>> result = certified_ece([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.5], bins=2)
        >>> result.value, result.worst_confidence
        (0.5, array([0.5, 0.5]))
    """
    right, low, high = _check.some_intervals(correct, lower, upper)
    table = EceTable(bins, edges, closed)
    table.add_checked(right, low, high)
    return table.solve((right, low, high))


def ece(
    correct: Any,
    confidence: Any,
    bins: int | Bins = 15,
    edges: Any = None,
    closed: str = "right",
) -> float:
    """The expected calibration error (1/N) sum_m |sum_{n in bin m} (c_n - z_n)| without an attack.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences of the predicted class, in [0, 1].
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Returns:
        The error, at most 2^-50 too large: it is the worst case over intervals that are points.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, confidences outside [0, 1], or bad bins.

    Example:
        >>> ece([1, 0], [1.0, 0.25])
        0.125
    """
    right, z = _check.points(correct, confidence)
    return certified_ece(right, z, z, bins, edges, closed).value


class EceState(EceTable):
    """The certified ECE of data in parts: an ``EceTable`` among the other states.

    State and memory: those of ``EceTable``.

    Args:
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Raises:
        TypeError: ``bins`` or ``edges`` of the wrong kind.
        ValueError: bad bins.

    Example:
        >>> state = EceState(bins=2)
        >>> state.update([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.5])
        >>> state.compute().value
        0.5
    """


class Ece(SignedSumMetric):
    """By how much confidence and accuracy differ on average."""

    name = "ece"
    title = "ECE"
    words = "expected calibration error"
    uses = ("bins",)

    def certified(self, samples: Samples, options: Options) -> float:
        """``certified_ece``."""
        rows = samples.correct, samples.lower, samples.upper
        return certified_ece(*rows, options.bins).value

    def state(self, options: Options) -> EceState:
        """The table of sums."""
        return EceState(options.bins)


METRIC = Ece()
