# SPDX-License-Identifier: MIT
"""Certified accuracy: the share of samples that are right and stay so, counted sample by sample; a bound from below."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from certcal_ext._rounding import rounded_down
from certcal_ext.intervals.population import population_share
from certcal_ext.metrics.base import Metric, Options, Samples


class Accuracy(Metric):
    """The accuracy under attack (Cohen et al., ICML 2019). A certified prediction stays; any other sample counts as wrong.

    It is of all samples, in every scope: among the certified ones alone an attack changes none.
    """

    name = "certified_accuracy"
    title = "certified accuracy"
    words = "certified accuracy"
    lowest = True
    of_everyone = True

    def certified(self, samples: Samples, options: Options) -> float:
        """An attack changes no prediction."""
        return self.failed(samples, options, 0)

    def failed(self, samples: Samples, options: Options, k: int) -> float:
        """A failed sample was counted as right and is wrong."""
        return rounded_down(Fraction(max(_right(samples) - k, 0), len(samples)))

    def plain(self, samples: Samples, options: Options) -> float:
        """Of the certified samples; it takes no confidences."""
        right = samples.correct.size
        return rounded_down(Fraction(_right(samples), right)) if right else float("nan")

    def no_population(self, options: Options) -> str | None:
        """There is one."""
        return None

    def population(self, samples: Samples, options: Options, risk: float, alpha: float) -> float:
        """The share of counted samples by Clopper-Pearson; each is counted by mistake with at most ``alpha``."""
        share = population_share(_right(samples), len(samples), risk)
        return max(0.0, (share - alpha) * (1.0 - 1e-12))


def _right(samples: Samples) -> int:
    return int(np.count_nonzero(samples.correct))


METRIC = Accuracy()
