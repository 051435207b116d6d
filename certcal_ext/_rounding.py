# SPDX-License-Identifier: MIT
"""Exact fractions to the float64 beside them, on the side that keeps a bound a bound."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


def rounded_up(exact: Fraction) -> float:
    """The smallest float64 at or above ``exact``."""
    nearest = float(exact)
    return float(np.nextafter(nearest, np.inf)) if Fraction(nearest) < exact else nearest


def rounded_down(exact: Fraction) -> float:
    """The largest float64 at or below ``exact``."""
    nearest = float(exact)
    return float(np.nextafter(nearest, -np.inf)) if Fraction(nearest) > exact else nearest


def constant_and_skill(right: int, total: int, bound: float) -> tuple[float, float]:
    """What a constant confidence equal to the accuracy scores, and how much better a bound on a Brier score is.

    Args:
        right: samples that are right.
        total: samples.
        bound: of the Brier score.

    Returns:
        acc(1 - acc) and the skill 1 - bound / acc(1 - acc), both rounded down; nan where they are not defined.

    Example:
        >>> constant_and_skill(1, 2, 0.125)
        (0.25, 0.5)
    """
    if not total:
        return math.nan, math.nan
    constant = Fraction(right * (total - right), total * total)
    if not constant or not math.isfinite(bound):
        return rounded_down(constant), math.nan
    return rounded_down(constant), rounded_down(1 - Fraction(bound) / constant)


def sum_of_largest(values: NDArray[np.float64], count: int) -> float:
    """The sum of the ``count`` largest values, or of all where there are fewer; rounded up."""
    if count <= 0 or not values.size:
        return 0.0
    chosen = values if count >= values.size else np.partition(values, values.size - count)[-count:]
    return raised(math.fsum(chosen))


def raised(value: float) -> float:
    """One step up."""
    return math.nextafter(value, math.inf)


def ratios_up(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """The smallest float64 at or above each ``part / whole``, 0 <= part <= whole < 2^53; 0 / 0 is 0."""
    nearest, excess = _ratios(part, whole)
    return np.where(excess < 0, np.nextafter(nearest, 2.0), nearest)


def ratios_down(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """The largest float64 at or below each ``part / whole``, 0 <= part <= whole < 2^53; 0 / 0 is 0."""
    nearest, excess = _ratios(part, whole)
    return np.where(excess > 0, np.nextafter(nearest, -1.0), nearest)


def _ratios(
    part: NDArray[np.int64], whole: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The quotients q, rounded to nearest, and q * whole - part, exactly 0 or of the right sign."""
    divisor = np.maximum(whole, 1).astype(np.float64)
    quotient = part / divisor
    # Dekker's product: quotient * divisor = product + error, exactly. The product lies within a
    # step of part, so their difference is exact too.
    quotient_high, quotient_low = _halves(quotient)
    divisor_high, divisor_low = _halves(divisor)
    product = quotient * divisor
    error = quotient_high * divisor_high - product
    for first, second in (
        (quotient_high, divisor_low),
        (quotient_low, divisor_high),
        (quotient_low, divisor_low),
    ):
        error += first * second
    return quotient, (product - part) + error


def _halves(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Veltkamp's split into two numbers of at most 26 bits each."""
    scaled = values * (2.0**27 + 1)
    high = scaled - (scaled - values)
    return high, values - high
