# SPDX-License-Identifier: MIT
"""The metrics without an attack: each is its worst case over intervals that are points.

``docs/metrics.md`` says under which arguments they equal those of other libraries.
"""

from __future__ import annotations

from typing import Any

from certcal_ext import _check
from certcal_ext.metrics.brier_ece import brier, ece
from certcal_ext.metrics.classwise import certified_classwise_ece, class_columns
from certcal_ext.metrics.ks_mce import certified_ks, certified_mce
from certcal_ext.metrics.log_loss import certified_log_loss
from certcal_ext.metrics.selective import (
    CertifiedRiskCoverage,
    CertifiedSelectiveRisk,
    certified_risk_coverage,
    certified_selective_risk,
)

__all__ = [
    "brier",
    "classwise_ece",
    "ece",
    "ks",
    "log_loss",
    "mce",
    "risk_coverage",
    "selective_risk",
]


def mce(
    correct: Any,
    confidence: Any,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
) -> float:
    """The maximum calibration error max_m abs(accuracy_m - mean confidence_m) without an attack.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences of the predicted class, in [0, 1].
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Returns:
        The error over bins that hold samples, at most 2^-b too large; b = 52 up to 1,023 samples, 42 for a million.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, confidences outside [0, 1], or bad bins.

    Example:
        >>> mce([1, 0], [1.0, 0.25])
        0.25
    """
    right, points = _check.points(correct, confidence)
    return certified_mce(right, points, points, bins, edges, closed).value


def ks(correct: Any, confidence: Any) -> float:
    """The Kolmogorov-Smirnov calibration error max_t (1/N) abs(sum_{z_n <= t} (c_n - z_n)) without an attack.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences of the predicted class, in [0, 1].

    Returns:
        The error, at most 2^-b too large; b as for ``mce``.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, or confidences outside [0, 1].

    Example:
        >>> ks([1, 0], [1.0, 0.25])
        0.125
    """
    right, points = _check.points(correct, confidence)
    return certified_ks(right, points, points).value


def log_loss(
    correct: Any, confidence: Any, clip: float | None = None, dtype: str = "float64"
) -> float:
    """The top-label log loss, the mean of -log(z if right, else 1 - z), in nats, without an attack.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences of the predicted class, in [0, 1].
        clip: above 0 and below 0.5: confidences are clipped to [clip, 1 - clip]; None: as they are.
        dtype: "float64" or "float32", in which they are rounded and clipped, as in ``certified_log_loss``.

    Returns:
        The loss, at most 2^-41 too large; infinite where a right sample has confidence 0 or a wrong one 1.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: no samples, shapes that differ, confidences outside [0, 1], a ``clip`` out of range or vanishing
            in ``dtype``, or an unknown ``dtype``.

    Example:
        >>> round(log_loss([1, 0], [1.0, 0.5]), 6)
        0.346574
    """
    right, points = _check.points(correct, confidence)
    return certified_log_loss(right, points, points, clip, dtype).value


def classwise_ece(
    labels: Any,
    probabilities: Any,
    bins: int = 15,
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
    values = class_columns("probabilities", probabilities, truth.size)
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # NaN fails
        raise ValueError(
            f"probabilities: expected values in [0, 1], got {values.min()} to {values.max()}"
        )
    return certified_classwise_ece(truth, values, values, bins, edges, closed).value


def selective_risk(correct: Any, confidence: Any, threshold: float) -> CertifiedSelectiveRisk:
    """The share of wrong ones among the samples with confidence of at least ``threshold``, without an attack.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences of the predicted class, in [0, 1].
        threshold: t, in [0, 1].

    Returns:
        ``CertifiedSelectiveRisk``, whose ``coverage_at_worst`` is the coverage.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: no samples, shapes that differ, or numbers outside [0, 1].

    Example:
        >>> selective_risk([1, 0, 0], [1.0, 0.5, 0.25], threshold=0.5).risk
        0.5
    """
    right, points = _check.points(correct, confidence)
    return certified_selective_risk(right, points, points, threshold)


def risk_coverage(correct: Any, confidence: Any, thresholds: Any = None) -> CertifiedRiskCoverage:
    """The risk-coverage curve and the area under it, without an attack.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences of the predicted class, in [0, 1].
        thresholds: (T,) strictly increasing, in [0, 1]; None: all distinct confidences.

    Returns:
        ``CertifiedRiskCoverage``. Among equal confidences its area counts the wrong ones first.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, confidences outside [0, 1], or bad thresholds.

    Example:
        >>> curve = risk_coverage([1, 0], [0.75, 0.5])
        >>> curve.thresholds, curve.risk, round(curve.aurc, 12)
        (array([0.5 , 0.75]), array([0.5, 0. ]), 0.25)
    """
    right, points = _check.points(correct, confidence)
    return certified_risk_coverage(right, points, points, thresholds)
