# SPDX-License-Identifier: MIT
"""The class-wise calibration error and its worst case over certified intervals of all classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._rounding import rounded_up
from certcal_ext.bins import Bins
from certcal_ext.metrics.base import Metric, Options, Samples
from certcal_ext.metrics.ece_table import EceTable

__all__ = ["CertifiedClasswiseEce", "certified_classwise_ece", "classwise_ece"]

#: So many float64 of each array are turned from rows into columns at a time: 8 MB.
_BLOCK = 2**20


@dataclass(frozen=True, eq=False)
class CertifiedClasswiseEce:
    """The worst-case class-wise calibration error.

    Attributes:
        value: the mean of ``per_class``, rounded up.
        per_class: (K,) float64, the exact worst-case ECE of each class, rounded up.
        n: number of samples.
    """

    value: float
    per_class: NDArray[np.float64]
    n: int

    @property
    def classes(self) -> int:
        """Number K of classes."""
        return self.per_class.size

    @property
    def worst_class(self) -> int:
        """The class with the largest error, the first one of several."""
        return int(np.argmax(self.per_class))


def certified_classwise_ece(
    labels: Any,
    lower: Any,
    upper: Any,
    bins: int | Bins = 15,
    edges: Any = None,
    closed: str = "right",
) -> CertifiedClasswiseEce:
    """The worst-case class-wise expected calibration error, (1/K) sum_k ECE_k.

    ECE_k bins the confidences of class k of all samples and compares them with c_n = [label_n = k]; its worst case over
    the intervals of that class is exact (``certified_ece``). The mean of the K suprema is the supremum over confidences
    that move independently of each other. Those of one sample really sum to 1, which is not used: the value is never
    below the true worst case, and may be above it.

    Args:
        labels: (N,) the true classes, whole numbers from 0 to K - 1.
        lower: (N, K) lower ends of the certified intervals of each class's confidence, in [0, 1].
        upper: (N, K) upper ends, each at least its lower end.
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1; the same for all classes.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Returns:
        ``CertifiedClasswiseEce``.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples or classes, shapes that differ, labels outside [0, K), bounds that are NaN, unordered or
            outside [0, 1], or bad bins.

    Source:
        The error: Kull et al., "Beyond temperature scaling" (NeurIPS 2019). Its worst case: this project.

    Example:
        >>> result = certified_classwise_ece(
        ...     [0, 1], lower=[[0.5, 0.0], [0.0, 0.75]], upper=[[1.0, 0.5], [0.25, 1.0]], bins=2)
        >>> result.value, result.per_class
        (0.375, array([0.375, 0.375]))
    """
    truth, low, high = _labelled_intervals(labels, lower, upper)
    cells = Bins.of(bins, edges, closed)
    worst = np.empty(low.shape[1])
    for k, low_k, high_k in _columns(low, high):
        table = EceTable(cells)
        try:
            table.add_checked((truth == k).view(np.uint8), low_k, high_k)
        except ValueError as error:
            raise ValueError(f"class {k}: {error}") from error
        worst[k] = table.certify().value
    worst.flags.writeable = False
    return CertifiedClasswiseEce(_mean_up(worst), worst, truth.size)


def classwise_ece(
    labels: Any,
    probabilities: Any,
    bins: int | Bins = 15,
    edges: Any = None,
    closed: str = "right",
) -> float:
    """The class-wise expected calibration error (1/K) sum_k ECE_k without an attack.

    Args:
        labels: (N,) the true classes, whole numbers from 0 to K - 1.
        probabilities: (N, K) confidences of all classes, in [0, 1]; rows need not sum to 1.
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1; the same for all classes.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Returns:
        The error, right to N-independent 2^-50.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples or classes, shapes that differ, labels outside [0, K), confidences outside [0, 1], or bad
            bins.

    Example:
        >>> classwise_ece([0, 1], [[0.75, 0.25], [0.5, 0.5]])
        0.375
    """
    truth = _check.int_vector("labels", labels)
    values = _columns_of_classes("probabilities", probabilities, truth.size)
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # NaN fails
        raise ValueError(
            f"probabilities: expected values in [0, 1], got {values.min()} to {values.max()}"
        )
    return certified_classwise_ece(truth, values, values, bins, edges, closed).value


def _mean_up(values: NDArray[np.float64]) -> float:
    """The mean, rounded up."""
    return rounded_up(sum((Fraction(float(v)) for v in values), Fraction(0)) / values.size)


def _columns(
    low: NDArray[Any], high: NDArray[Any]
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """Class by class the contiguous columns, of which only a block is in memory at a time."""
    samples, classes = low.shape
    step = max(1, _BLOCK // samples)
    for begin in range(0, classes, step):
        block = slice(begin, begin + step)
        lows = np.ascontiguousarray(low[:, block].T, np.float64)
        highs = lows if high is low else np.ascontiguousarray(high[:, block].T, np.float64)
        for k, (low_k, high_k) in enumerate(zip(lows, highs, strict=True), start=begin):
            yield k, low_k, high_k


def _labelled_intervals(
    labels: Any, lower: Any, upper: Any
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
    truth = _check.int_vector("labels", labels)
    if not truth.size:
        raise ValueError("labels, lower, upper: expected at least one sample, got none")
    low = _columns_of_classes("lower", lower, truth.size)
    high = low if upper is lower else _columns_of_classes("upper", upper, truth.size)
    if low.shape != high.shape:
        raise ValueError(f"lower, upper: expected one shape, got {low.shape} and {high.shape}")
    good = (truth >= 0) & (truth < low.shape[1])
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"labels: expected whole numbers from 0 to {low.shape[1] - 1}, got {truth[row]} in row "
            f"{row}"
        )
    return truth, low, high


def _columns_of_classes(name: str, value: Any, samples: int) -> NDArray[Any]:
    """An (N, K) array of numbers. The values are not looked at."""
    result = _check.array(name, value)
    _check.require_kind(name, result, "fiu", "real numbers")
    if (
        result.dtype.itemsize > 8
    ):  # refused where float64 does not hold them; others are converted block by block
        result = _check.float_array(name, result)
    if result.ndim != 2 or result.shape[0] != samples or not result.shape[1]:
        raise ValueError(
            f"{name}: expected shape ({samples}, K) with at least one class, got {result.shape}"
        )
    return result


class ClasswiseEce(Metric):
    """The mean over classes of the calibration error of each class's confidence."""

    name = "classwise_ece"
    title = "class-wise ECE"
    words = "class-wise calibration error"
    uses = ("bins",)
    of_classes = True

    def certified(self, samples: Samples, options: Options) -> float:
        """``certified_classwise_ece``."""
        rows = samples.correct, samples.lower, samples.upper
        return certified_classwise_ece(*rows, options.bins).value

    def failed(self, samples: Samples, options: Options, k: int) -> float:
        """A failed sample moves each class's error by at most 2 / n: it leaves one sum of gaps and joins another."""
        moved = self.certified(samples, options) + 2.0 * k / len(samples)
        return min(1.0, moved * (1.0 + 1e-15))


METRIC = ClasswiseEce()
