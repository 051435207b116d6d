# SPDX-License-Identifier: MIT
"""From intervals that hold one by one to a bound that holds as a whole: over the draws, and over the population."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from certcal_ext import _check
from certcal_ext.intervals.clopper_pearson import clopper_pearson

#: Relative error allowed to the incomplete beta function here (see ``intervals``): far above what was measured.
_TAIL_MARGIN = 1e-9


def failing_intervals(total: int, alpha: float, delta: float) -> int:
    """How many of ``total`` intervals may fail, but with probability ``delta``.

    Theorem: each interval fails only inside an event of the sample's own draws, of probability at most ``alpha``; draws are
    independent between samples, so the number of failures is stochastically at most Binomial(total, alpha), and with
    probability at least 1 - delta it is at most its 1 - delta quantile, which is returned (rounded outward). ``total``
    counts every sample that was drawn for, because the certified ones are chosen by the same draws. Where samples stop
    early the event is that an interval fails at any look that the sample may have, given the planning draws.

    Args:
        total: number of samples that were drawn for, abstained ones too.
        alpha: failure probability of one interval.
        delta: failure probability of the statement.

    Returns:
        The smallest k with P(Binomial(total, alpha) > k) <= delta.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range.

    Source:
        This project (docs/theory.md, theorem 6).

    Example:
        >>> failing_intervals(2000, 1e-3, 1e-3)
        8
    """
    samples = _check.whole_number("total", total, 1)
    rate = _check.failure_probability("alpha", alpha)
    risk = _check.failure_probability("delta", delta)
    low, high = -1, samples  # the tail is above delta at low, and not above it at high
    while high - low > 1:
        middle = (low + high) // 2
        tail = betainc(middle + 1.0, float(samples - middle), rate)  # P(Binomial > middle)
        if tail * (1.0 + _TAIL_MARGIN) <= risk:
            high = middle
        else:
            low = middle
    return high


def sum_of_largest(values: NDArray[np.float64], count: int) -> float:
    """The sum of the ``count`` largest values, or of all where there are fewer; rounded up."""
    if count <= 0 or not values.size:
        return 0.0
    chosen = values if count >= values.size else np.partition(values, values.size - count)[-count:]
    return raised(math.fsum(chosen))


def raised(value: float) -> float:
    """One step up."""
    return math.nextafter(value, math.inf)


def population_mean(terms: Any, delta: float, most: float = 1.0) -> float:
    """An upper bound on an expectation from independent terms in [0, most].

    Theorem (Maurer and Pontil, COLT 2009, Theorem 4): with probability at least 1 - delta the expectation is at most
    mean + sqrt(2 V log(2/delta) / n) + 7 most log(2/delta) / (3 (n - 1)), with V the sample variance.

    Args:
        terms: (n,) independent values of one distribution.
        delta: failure probability.
        most: largest possible value.

    Returns:
        The bound, at most ``most``, rounded up; ``most`` itself for fewer than two terms.

    Raises:
        TypeError: terms are no numbers, or an argument of the wrong kind.
        ValueError: a term outside [0, most], or an argument out of range.

    Example:
        >>> round(population_mean([0.1] * 1000, 0.01), 4)
        0.1124
    """
    values = _check.float_vector("terms", terms)
    risk = _check.failure_probability("delta", delta)
    limit = _check.positive_number("most", most)
    if values.size and not bool(((values >= 0) & (values <= limit)).all()):
        raise ValueError(
            f"terms: expected values from 0 to {limit:g}, got {values.min():g} to {values.max():g}"
        )
    n = values.size
    if n < 2:
        return limit
    mean = math.fsum(values) / n
    variance = math.fsum((values - mean) ** 2) / (n - 1)
    logarithm = math.log(2.0 / risk)
    bound = mean + math.sqrt(2.0 * variance * logarithm / n)
    bound += 7.0 * limit * logarithm / (3.0 * (n - 1))
    return min(
        limit, bound * (1.0 + 1e-12)
    )  # the relative error of the few operations above is far below


def population_share(hits: int, total: int, delta: float) -> float:
    """A lower bound, at 1 - delta, on the probability that a sample of the population is a hit."""
    return float(clopper_pearson([hits], total, min(2.0 * delta, 0.999)).lower[0])
