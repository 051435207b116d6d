# SPDX-License-Identifier: MIT
"""Selective prediction: the exact worst-case risk among the accepted."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from certcal_ext import _check
from certcal_ext._rounding import rounded_down, rounded_up
from certcal_ext.intervals.population import population_share
from certcal_ext.metrics.base import Metric, Options, Samples
from certcal_ext.metrics.risk_coverage import RiskCoverageState

__all__ = ["CertifiedSelectiveRisk", "certified_selective_risk", "selective_risk"]


@dataclass(frozen=True)
class CertifiedSelectiveRisk:
    """The exact worst cases of accepting the samples with a confidence of at least ``threshold``.

    Attributes:
        threshold: samples with confidence z >= threshold are accepted.
        risk: the largest share of wrong ones among the accepted, ``errors / (errors + kept)``, rounded up; 0 where no
            wrong sample can be accepted.
        errors: how many wrong samples can be accepted: those with upper end >= threshold.
        kept: how many right samples cannot be rejected: those with lower end >= threshold.
        coverage: the smallest share of all samples that is accepted, rounded down. It is reached by another attack than
            ``risk``; see ``coverage_at_worst``.
        n: number of samples.
        accuracy: share of right samples.
    """

    threshold: float
    risk: float
    errors: int
    kept: int
    coverage: float
    n: int
    accuracy: float

    @property
    def value(self) -> float:
        """``risk``, under the name that every certified metric has."""
        return self.risk

    @property
    def coverage_at_worst(self) -> float:
        """The share of samples accepted where ``risk`` is reached: (errors + kept) / n."""
        return (self.errors + self.kept) / self.n

    @property
    def constant(self) -> float:
        """The risk of accepting without regard to the confidence: 1 - accuracy."""
        return 1.0 - self.accuracy


def certified_selective_risk(
    correct: Any, lower: Any, upper: Any, threshold: float
) -> CertifiedSelectiveRisk:
    """The worst-case risk among, and the smallest number of, the samples with confidence z_n >= t.

    A wrong sample can be accepted if u >= t, and a right one cannot be rejected if l >= t. With w wrong and r right
    samples accepted the risk w / (w + r) rises in w and falls in r, so its maximum is W / (W + R), W counting the wrong
    ones with u >= t and R the right ones with l >= t. The smallest coverage has all samples at their lower ends. An
    empty set of accepted samples has risk 0.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        threshold: t, in [0, 1].

    Returns:
        ``CertifiedSelectiveRisk``.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0, 1], or a threshold
            outside [0, 1].

    Source:
        Selective risk: El-Yaniv and Wiener (JMLR 2010). Its worst case: this project.

    Example:
        >>> result = certified_selective_risk(
        ...     [1, 1, 0], lower=[0.5, 0.75, 0.25], upper=[1.0, 1.0, 0.75], threshold=0.75)
        >>> result.risk, result.coverage_at_worst == 2 / 3, result.coverage < 1 / 3 + 1e-12
        (0.5, True, True)
    """
    right, low, high = _check.some_intervals(correct, lower, upper)
    _check.require_ordered(low, high)
    t = _check.confidence("threshold", threshold)
    chosen = right != 0
    errors = int(np.count_nonzero(~chosen & (high >= t)))
    kept = int(np.count_nonzero(chosen & (low >= t)))
    stay = int(np.count_nonzero(low >= t))
    return CertifiedSelectiveRisk(
        threshold=t,
        risk=rounded_up(Fraction(errors, errors + kept)) if errors else 0.0,
        errors=errors,
        kept=kept,
        coverage=rounded_down(Fraction(stay, right.size)),
        n=right.size,
        accuracy=int(np.count_nonzero(chosen)) / right.size,
    )


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
    right, z = _check.points(correct, confidence)
    return certified_selective_risk(right, z, z, threshold)


class SelectiveRisk(Metric):
    """The share of wrong ones among the samples with a confidence of at least ``threshold``."""

    name = "selective_risk"
    title = "selective risk"
    words = "risk among the accepted predictions"
    uses = ("threshold",)

    def certified(self, samples: Samples, options: Options) -> float:
        """``certified_selective_risk``."""
        rows = samples.correct, samples.lower, samples.upper
        return certified_selective_risk(*rows, options.threshold).risk

    def failed(self, samples: Samples, options: Options, k: int) -> float:
        """A failed sample is accepted and wrong, first those that were accepted and right."""
        stay, wrong = self.accepted(samples, options)
        wrong, stay = min(wrong + k, len(samples)), max(stay - k, 0)
        return rounded_up(Fraction(wrong, wrong + stay)) if wrong else 0.0

    def accepted(self, samples: Samples, options: Options) -> tuple[int, int]:
        """How many right samples no attack can get rejected, and how many wrong ones one can get accepted."""
        right = samples.correct != 0
        stay = int(np.count_nonzero(right & (samples.lower >= options.threshold)))
        wrong = int(np.count_nonzero(~right & (samples.upper >= options.threshold)))
        return stay, wrong + samples.gap.size

    def no_population(self, options: Options) -> str | None:
        """There is one."""
        return None

    def population(self, samples: Samples, options: Options, risk: float, alpha: float) -> float:
        """From above the share that is accepted and wrong, from below that which is accepted and right."""
        stay, wrong = self.accepted(samples, options)
        n = len(samples)
        most_wrong = 1.0 - population_share(n - wrong, n, risk / 2) + alpha
        least_right = max(population_share(stay, n, risk / 2) - alpha, 0.0)
        return min(1.0, most_wrong / (most_wrong + least_right) * (1.0 + 1e-12))

    def state(self, options: Options) -> RiskCoverageState:
        """Counts at the threshold."""
        return RiskCoverageState([options.threshold])


METRIC = SelectiveRisk()
