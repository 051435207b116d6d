# SPDX-License-Identifier: MIT
"""What a metric is: everything that is known of one stands in the file of its name, and every path asks it there.

A *certified* sample keeps its prediction, so its correctness is known and its confidence lies in [lower, upper]. Any
*other* sample is charged the largest gap between correctness and confidence that its interval allows, whatever class the
attack makes of it. A sample whose interval *failed* may do anything at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._rounding import raised, sum_of_largest
from certcal_ext.bins import Bins
from certcal_ext.intervals.population import population_mean
from certcal_ext.metrics.clip import Clip
from certcal_ext.metrics.state import CertifiedState

Floats = NDArray[np.float64]
Right = NDArray[np.uint8]


class MetricOptions(TypedDict, total=False):
    """The keyword arguments of ``Options.of``, for those who pass them on."""

    bins: int | Bins
    edges: Any
    closed: str
    clip: float | None
    threshold: float
    dtype: str


@dataclass(frozen=True, eq=False)
class Options:
    """How metrics are defined; each uses some of it.

    Attributes:
        bins: of the calibration errors.
        clip: how confidences are reported, for the log loss.
        threshold: confidence from which a prediction is accepted, for the selective risk.
    """

    bins: Bins
    clip: Clip
    threshold: float = 0.5

    @classmethod
    def of(
        cls,
        bins: Any = 15,
        edges: Any = None,
        closed: Any = "right",
        clip: Any = None,
        threshold: Any = 0.5,
        dtype: Any = "float64",
    ) -> Options:
        """The one check of the options of metrics: every function that takes several ends here.

        Args:
            bins: number of bins of equal width; not used where ``edges`` is given.
            edges: (M + 1,) strictly increasing from 0 to 1.
            closed: which end of a bin belongs to it, "right" or "left".
            clip: for the log loss, confidences are reported in [clip, 1 - clip]; None: as they are.
            threshold: confidence from which the selective risk accepts a prediction.
            dtype: "float64" or "float32", the format that the deployed model rounds its confidences to and clips them in.

        Raises:
            TypeError: an option of the wrong kind.
            ValueError: an option out of range.
        """
        accept = _check.confidence("threshold", threshold)
        return cls(Bins.of(bins, edges, closed), Clip.of(clip, dtype), accept)


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a metric at one radius.

    Attributes:
        correct: (n,) uint8, of the certified samples; for a metric of all classes the labels.
        lower: (n,) lower ends under attack, or (n, K) those of all classes.
        upper: likewise, upper ends.
        confidence: likewise, point estimates; None where there are none.
        gap: (m,) of the other samples, the largest possible abs(correctness - confidence); empty in scope "certified".
    """

    correct: NDArray[Any]
    lower: Floats
    upper: Floats
    confidence: Floats | None
    gap: Floats

    def __len__(self) -> int:
        """All samples of the average."""
        return int(self.correct.size + self.gap.size)

    def largest_gaps(self) -> Floats:
        """(n + m,) the largest gap between correctness and confidence; rounded up."""
        gap = np.where(self.correct != 0, np.nextafter(1.0 - self.lower, 2.0), self.upper)
        return np.concatenate((np.minimum(gap, 1.0), self.gap))


class Metric(ABC):
    """One metric: its worst case, and what it allows to say of more than the given intervals.

    Attributes:
        name: in arguments, files and JSON.
        title: in the head of a table.
        words: in a sentence.
        uses: the options that define it, of "bins", "clip" and "threshold".
        lowest: whether an attack lowers it: its bounds are then from below, and rounded down.
        of_everyone: whether it is of all samples, whatever the scope.
        of_classes: whether it takes labels and intervals of all classes in place of correctness and the top label's.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    words: ClassVar[str]
    uses: ClassVar[tuple[str, ...]] = ()
    lowest: ClassVar[bool] = False
    of_everyone: ClassVar[bool] = False
    of_classes: ClassVar[bool] = False

    @abstractmethod
    def certified(self, samples: Samples, options: Options) -> float:
        """The exact worst case over the certified samples alone, all intervals holding."""

    @abstractmethod
    def failed(self, samples: Samples, options: Options, k: int) -> float:
        """A bound over all samples where ``k`` of the intervals may have failed."""

    def worst(self, samples: Samples, options: Options) -> float:
        """The worst case over all samples, all intervals holding."""
        if samples.gap.size:
            return self.failed(samples, options, 0)
        return self.certified(samples, options)

    def plain(self, samples: Samples, options: Options) -> float:
        """Of the certified samples' point estimates: the worst case over intervals that are points; nan without any."""
        z = samples.confidence
        if z is None or not len(z):
            return float("nan")
        return self.certified(Samples(samples.correct, z, z, z, np.empty(0)), options)

    def state(self, options: Options) -> CertifiedState[Any] | None:
        """An empty state for samples that come in parts; None where each sample is needed."""
        return None

    def no_population(self, options: Options) -> str | None:
        """Why there is no bound on the expectation over a population; None where there is one."""
        return f"population: expected a metric that is a mean over samples, got {self.name}"

    def population(self, samples: Samples, options: Options, risk: float, alpha: float) -> float:
        """A bound on the expectation, from samples that are independent draws of a population.

        Args:
            samples: the samples.
            options: the options.
            risk: failure probability of the bound.
            alpha: failure probability of a sample's whole statement.
        """
        raise ValueError(self.no_population(options))

    def looser(self, one: float, other: float) -> float:
        """The one of two bounds that says less."""
        return min(one, other) if self.lowest else max(one, other)

    def tightest(self, bounds: dict[str, float]) -> str:
        """The name of the bound that says most; a finite one where there is any."""
        sign = -1.0 if self.lowest else 1.0
        return min(bounds, key=lambda name: (not np.isfinite(bounds[name]), sign * bounds[name]))


class MeanMetric(Metric):
    """A mean of what each sample adds."""

    @abstractmethod
    def terms(self, samples: Samples, options: Options) -> tuple[Floats, float]:
        """(n + m,) what each sample adds at worst, rounded up, and the largest possible one."""

    def failed(self, samples: Samples, options: Options, k: int) -> float:
        """A failed sample adds the largest term in place of its own."""
        values, most = self.terms(samples, options)
        if not np.isfinite(most) and (k or not np.isfinite(values).all()):
            return float("inf") if k else float(values.max())
        missing = sum_of_largest(most - values, k) if k else 0.0
        total = raised(float(np.sum(values, dtype=np.longdouble)) + missing)
        return min(most, total / values.size * (1.0 + 1e-12))

    def no_population(self, options: Options) -> str | None:
        """There is one."""
        return None

    def population(self, samples: Samples, options: Options, risk: float, alpha: float) -> float:
        """By the variance of the terms (Maurer and Pontil); a failed sample adds at most the largest one."""
        terms, most = self.terms(samples, options)
        return min(most, (population_mean(terms, risk, most) + alpha * most) * (1.0 + 1e-12))


class SignedSumMetric(Metric):
    """A metric whose numerator is a signed sum of gaps, so that a sample changes it by no more than its own gap."""

    def failed(self, samples: Samples, options: Options, k: int) -> float:
        """A failed sample counts for at most 1, and was counted for at least upper - 1 (right) or -lower (wrong)."""
        certified = self.certified(samples, options) if samples.correct.size else 0.0
        if not samples.gap.size and not k:
            return certified
        counted = np.where(samples.correct != 0, 1.0 - samples.upper, samples.lower)
        moved = np.concatenate((1.0 + counted, 1.0 - samples.gap))
        others = float(np.sum(samples.gap, dtype=np.longdouble))
        total = certified * samples.correct.size + others + sum_of_largest(moved, k)
        return min(1.0, total / len(samples) * (1.0 + 1e-12))
