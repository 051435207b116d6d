# SPDX-License-Identifier: MIT
"""From intervals that hold one by one to a bound that holds for all draws together."""

from __future__ import annotations

from scipy.special import betainc

from certcal_ext import _check

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
    level = _check.failure_probability("delta", delta)
    low, high = -1, samples  # the tail is above delta at low, and not above it at high
    while high - low > 1:
        middle = (low + high) // 2
        tail = betainc(middle + 1.0, float(samples - middle), rate)  # P(Binomial > middle)
        if tail * (1.0 + _TAIL_MARGIN) <= level:
            high = middle
        else:
            low = middle
    return high
