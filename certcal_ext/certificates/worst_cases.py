# SPDX-License-Identifier: MIT
"""Each metric over a set of samples: plain, worst case, and what unreliable samples can add to it.

A *certified* sample keeps its prediction, so its correctness is known and its confidence lies in [lower, upper]. Any
*other* sample is charged the largest gap between correctness and confidence that its interval allows, whatever class the
attack makes of it. A sample whose interval *failed* may do anything at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._rounding import rounded_up
from certcal_ext.certificates.validity import raised, sum_of_largest
from certcal_ext.metrics.brier_ece import brier, certified_brier, certified_ece, ece
from certcal_ext.metrics.ks_mce import certified_ks, certified_mce
from certcal_ext.metrics.log_loss import (
    Clip,
    certified_log_loss,
    checked_clip,
    rounded_up_from_wide,
)
from certcal_ext.metrics.selective import checked_threshold

METRICS = ("brier", "ece", "ks", "mce", "log_loss", "selective_risk")

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a metric at one radius.

    Attributes:
        correct: (n,) uint8, of the certified samples.
        lower: (n,) lower ends under attack.
        upper: (n,) upper ends under attack.
        confidence: (n,) point estimates, or None where there are none.
        gap: (m,) of the other samples, the largest possible abs(correctness - confidence); empty in scope "certified".
    """

    correct: NDArray[np.uint8]
    lower: Floats
    upper: Floats
    confidence: Floats | None
    gap: Floats

    def __len__(self) -> int:
        """All samples of the average."""
        return int(self.correct.size + self.gap.size)


@dataclass(frozen=True)
class Choices:
    """How the metrics are defined.

    Attributes:
        edges: (M + 1,) bin edges.
        closed: which end of a bin belongs to it.
        clip: confidences are reported in [clip, 1 - clip] (log loss); None does not clip.
        threshold: confidence from which a prediction is accepted (selective risk).
        dtype: the floating-point format that the deployed model clips in.
    """

    edges: Floats
    closed: str = "right"
    clip: float | None = None
    threshold: float = 0.5
    dtype: str = "float64"

    @property
    def reporting(self) -> Clip:
        """``clip`` and ``dtype`` in one."""
        return Clip(self.clip, self.dtype)


def checked_choices(
    bins: Any = 15,
    edges: Any = None,
    closed: Any = "right",
    clip: Any = None,
    threshold: Any = 0.5,
    dtype: Any = "float64",
) -> Choices:
    """The one check of the options of metrics; every function that takes some of them ends here.

    Raises:
        TypeError: an option of the wrong kind.
        ValueError: an option out of range.
    """
    borders = _check.bin_edges(bins, edges)
    side = "left" if _check.closed_left(closed) else "right"
    reporting = checked_clip(clip, dtype)
    accept = checked_threshold(threshold)
    return Choices(borders, side, reporting.clip, accept, reporting.dtype)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as in ``METRICS``.
        plain: of the certified samples' point estimates.
        worst: over the samples, all intervals holding.
        failed: the same when ``k`` of the intervals may have failed.
        terms: (n + m,) what each sample adds at worst, and the largest possible one; None where the metric is no mean.
    """

    name: str
    plain: Callable[[Samples, Choices], float]
    worst: Callable[[Samples, Choices], float]
    failed: Callable[[Samples, Choices, int], float]
    terms: Callable[[Samples, Choices], tuple[Floats, float]] | None


def metric_of(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ValueError: there is none.
    """
    return _TABLE[_check.choice("metric", name, METRICS)]


def _mean_of_terms(terms: Callable[[Samples, Choices], tuple[Floats, float]]) -> Any:
    """``worst`` and ``failed`` of a mean: k failed samples add the largest term in place of their own."""

    def worst(samples: Samples, choices: Choices) -> float:
        return failed(samples, choices, 0)

    def failed(samples: Samples, choices: Choices, k: int) -> float:
        values, most = terms(samples, choices)
        if not np.isfinite(most) and (k or not np.isfinite(values).all()):
            return float("inf") if k else float(values.max())
        missing = sum_of_largest(most - values, k) if k else 0.0
        total = raised(float(np.sum(values, dtype=np.longdouble)) + missing)
        return min(most, total / values.size * (1.0 + 1e-12))

    return worst, failed


def _brier_terms(samples: Samples, choices: Choices) -> tuple[Floats, float]:
    return np.concatenate((_gap(samples) ** 2, samples.gap**2)), 1.0


def _brier_worst(samples: Samples, choices: Choices) -> float:
    if samples.gap.size:
        return float(_mean_of_terms(_brier_terms)[0](samples, choices))
    return certified_brier(samples.correct, samples.lower, samples.upper).value


def _log_terms(samples: Samples, choices: Choices) -> tuple[Floats, float]:
    reporting, gap = choices.reporting, samples.gap
    own = reporting.losses(samples.correct, samples.lower, samples.upper)
    # An uncertified sample is right with a confidence of at least 1 - gap, or wrong with one of at most gap. What is
    # reported is not symmetric (1 - clip is rounded), so the costlier of the two. 1 - gap is exact from 1/2 on.
    right = np.ones(gap.size, np.uint8)
    least = np.where(gap >= 0.5, 1.0 - gap, np.nextafter(1.0 - gap, 0.0))
    rest = np.maximum(reporting.losses(right, least, gap), reporting.losses(1 - right, least, gap))
    most = reporting.largest
    return np.minimum(rounded_up_from_wide(np.concatenate((own, rest))), most), most


def _log_worst(samples: Samples, choices: Choices) -> float:
    if samples.gap.size:
        return float(_mean_of_terms(_log_terms)[0](samples, choices))
    rows = samples.correct, samples.lower, samples.upper
    return certified_log_loss(*rows, choices.clip, choices.dtype).value


def _gap(samples: Samples) -> Floats:
    """Of the certified samples, the largest gap between correctness and confidence; rounded up."""
    gap = np.where(samples.correct != 0, np.nextafter(1.0 - samples.lower, 2.0), samples.upper)
    return np.minimum(gap, 1.0)


def _most_moved(samples: Samples) -> Floats:
    """What a failed sample can add to a sum of c - z in absolute value, above what it was counted for.

    It was counted for at least upper - 1 (right) or -lower (wrong), and counts for at most 1.
    """
    counted = np.where(samples.correct != 0, 1.0 - samples.upper, samples.lower)
    return np.concatenate((1.0 + counted, 1.0 - samples.gap))


def _signed_sum(value: Callable[[Samples, Choices], float]) -> Any:
    """``worst`` and ``failed`` of a metric whose numerator changes by at most the gap of a sample (ECE, KS)."""

    def worst(samples: Samples, choices: Choices) -> float:
        return failed(samples, choices, 0)

    def failed(samples: Samples, choices: Choices, k: int) -> float:
        n, others = samples.correct.size, float(np.sum(samples.gap, dtype=np.longdouble))
        certified = value(samples, choices) if n else 0.0
        if not samples.gap.size and not k:
            return certified
        total = certified * n + others + sum_of_largest(_most_moved(samples), k)
        return min(1.0, total / len(samples) * (1.0 + 1e-12))

    return worst, failed


def _ece_value(samples: Samples, choices: Choices) -> float:
    return certified_ece(
        samples.correct, samples.lower, samples.upper, edges=choices.edges, closed=choices.closed
    ).value


def _ks_value(samples: Samples, choices: Choices) -> float:
    return certified_ks(samples.correct, samples.lower, samples.upper).value


def _mce_worst(samples: Samples, choices: Choices) -> float:
    if samples.gap.size:
        return 1.0  # one free sample alone in an empty bin
    return certified_mce(
        samples.correct, samples.lower, samples.upper, edges=choices.edges, closed=choices.closed
    ).value


def _mce_failed(samples: Samples, choices: Choices, k: int) -> float:
    return 1.0 if k else _mce_worst(samples, choices)


def accepted(samples: Samples, choices: Choices) -> tuple[int, int]:
    """How many right samples no attack can get rejected, and how many wrong ones one can get accepted."""
    right = samples.correct != 0
    stay = int(np.count_nonzero(right & (samples.lower >= choices.threshold)))
    wrong = int(np.count_nonzero(~right & (samples.upper >= choices.threshold)))
    return stay, wrong + samples.gap.size


def _risk_failed(samples: Samples, choices: Choices, k: int) -> float:
    """Wrong among accepted at worst; a failed sample is accepted and wrong, first those that were accepted and right."""
    stay, wrong = accepted(samples, choices)
    wrong, stay = min(wrong + k, len(samples)), max(stay - k, 0)
    return rounded_up(Fraction(wrong, wrong + stay)) if wrong else 0.0


def _risk_worst(samples: Samples, choices: Choices) -> float:
    return _risk_failed(samples, choices, 0)


def _plain(function: Callable[..., float]) -> Callable[[Samples, Choices], float]:
    def value(samples: Samples, choices: Choices) -> float:
        if samples.confidence is None or not samples.confidence.size:
            return float("nan")
        return float(function(samples, choices))

    return value


def _point(samples: Samples) -> Samples:
    """The same samples without an attack: intervals of no width at the point estimates."""
    z = samples.confidence
    assert z is not None
    return Samples(samples.correct, z, z, z, np.empty(0))


def _metric(
    name: str,
    pair: Any,
    plain: Callable[..., float],
    terms: Callable[[Samples, Choices], tuple[Floats, float]] | None = None,
    worst: Callable[[Samples, Choices], float] | None = None,
) -> Metric:
    return Metric(name, _plain(plain), worst or pair[0], pair[1], terms)


_TABLE = {
    "brier": _metric(
        "brier",
        _mean_of_terms(_brier_terms),
        lambda s, c: brier(s.correct, s.confidence),
        _brier_terms,
        _brier_worst,
    ),
    "ece": _metric(
        "ece",
        _signed_sum(_ece_value),
        lambda s, c: ece(s.correct, s.confidence, edges=c.edges, closed=c.closed),
    ),
    "ks": _metric("ks", _signed_sum(_ks_value), lambda s, c: _ks_value(_point(s), c)),
    "mce": _metric("mce", (_mce_worst, _mce_failed), lambda s, c: _mce_worst(_point(s), c)),
    "log_loss": _metric(
        "log_loss",
        _mean_of_terms(_log_terms),
        lambda s, c: _log_worst(_point(s), c),
        _log_terms,
        _log_worst,
    ),
    "selective_risk": _metric(
        "selective_risk", (_risk_worst, _risk_failed), lambda s, c: _risk_worst(_point(s), c)
    ),
}
