# SPDX-License-Identifier: MIT
"""From independent samples of a population to bounds on its expectation."""

from __future__ import annotations

import math
from typing import Any

from certcal_ext import _check
from certcal_ext.intervals.clopper_pearson import clopper_pearson


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
