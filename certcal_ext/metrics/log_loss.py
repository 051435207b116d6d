# SPDX-License-Identifier: MIT
"""The exact worst-case log loss of the predicted class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._rounding import rounded_up
from certcal_ext.metrics.state import LOW_BITS

__all__ = ["CertifiedLogLoss", "certified_log_loss"]

#: A loss is kept as a multiple of 2^-42: the largest finite one, -log 2^-1074 < 2^10, then has 52
#: bits, and a sum of 2^36 of them fits into two words, the lower one of 26 bits.
LOSS_FRACTION_BITS = 42

#: Samples, right ones, samples of infinite loss, sum of the others in two words.
LOSS_WORDS = 5

_Wide = np.longdouble


@dataclass(frozen=True)
class CertifiedLogLoss:
    """The exact worst-case top-label log loss, in nats.

    Attributes:
        value: the worst mean loss, rounded up; infinite where one sample's loss is.
        n: number of samples.
        accuracy: share of right samples.
        infinite: number of samples whose worst loss is infinite: right ones with lower end 0 and wrong ones with upper
            end 1. Always 0 with ``clip``.
        clip: the confidences are reported inside [clip, 1 - clip]; None: as they are.
    """

    value: float
    n: int
    accuracy: float
    infinite: int
    clip: float | None

    @property
    def constant(self) -> float:
        """What a constant confidence equal to the accuracy scores: the entropy of the accuracy, in nats."""
        shares = (self.accuracy, 1.0 - self.accuracy)
        return 0.0 - sum(share * math.log(share) for share in shares if share > 0)

    @property
    def skill(self) -> float:
        """1 - value / constant: it says nothing unless above 0; nan where ``constant`` is 0."""
        return 1.0 - self.value / self.constant if self.constant > 0 else float("nan")


def certified_log_loss(
    correct: Any, lower: Any, upper: Any, clip: float | None = None
) -> CertifiedLogLoss:
    """The exact worst-case log loss of the predicted class, in nats.

    A loss is monotone in the confidence, so the maximum of (1/N) sum_n -log(z_n if right, else 1 - z_n) over l_n <= z_n
    <= u_n is the mean of -log l over right and of -log(1 - u) over wrong samples. It is infinite as soon as one right
    sample has l = 0 or one wrong one u = 1. ``clip`` is the usual remedy and part of the model: it reports min(max(z,
    clip), 1 - clip), a monotone map, under which an interval stays a certified interval and a loss is at most -log
    clip.

    Each loss is rounded up to a multiple of 2^-42 and the sum is one of integers, so it does not depend on the order of
    the samples.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        clip: above 0 and below 0.5; None: confidences are reported as they are.

    Returns:
        ``CertifiedLogLoss``; ``value`` exceeds the exact one by at most 2^-41 and one rounding.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0, 1], or a ``clip`` out
            of range.

    Source:
        This project.

    Example:
        >>> result = certified_log_loss([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.5])
        >>> round(result.value, 6), result.infinite
        (0.693147, 0)
        >>> certified_log_loss([1, 0], lower=[0.5, 0.25], upper=[1.0, 1.0]).value
        inf
    """
    limit = checked_clip(clip)
    right, low, high = _check.some_intervals(correct, lower, upper)
    return loss_of_sums(loss_sums(right, low, high, limit), limit)


def checked_clip(clip: Any) -> float | None:
    """``clip`` as a float, or None."""
    if clip is None:
        return None
    limit = _check.real_number("clip", clip)
    if not 0 < limit < 0.5:
        raise ValueError(f"clip: expected a number above 0 and below 0.5, got {clip}")
    return limit


def loss_sums(
    right: NDArray[np.uint8],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    clip: float | None,
) -> NDArray[np.int64]:
    """(5,) the integers of these samples; those of several parts add.

    The logarithm is that of ``longdouble``, computed one by one: the vectorised one of float64 may depend on where in
    the array a number stands, and then the sum would depend on the order.
    """
    _check.require_ordered(low, high)
    chosen = right != 0
    losses = np.full(right.size, _Wide(np.inf))
    # log1p(-u) instead of log(1 - u): 1 - u would be rounded.
    finite = np.where(chosen, low > 0, high < 1)
    at = chosen & finite
    losses[at] = -np.log(low[at].astype(_Wide))
    at = ~chosen & finite
    losses[at] = -np.log1p(-high[at].astype(_Wide))
    if clip is not None:  # clipping the loss spares the rounding of 1 - clip
        losses = np.clip(losses, -np.log1p(-_Wide(clip)), -np.log(_Wide(clip)))
        finite = np.ones(right.size, np.bool_)
    # Logarithms of a C library are right to about one unit in the last place; eight are added.
    widened = losses[finite] * (1 + 8 * np.finfo(_Wide).eps)
    fixed = np.ceil(np.ldexp(widened, LOSS_FRACTION_BITS)).astype(np.int64)
    return np.array(
        [
            right.size,
            np.count_nonzero(right),
            right.size - np.count_nonzero(finite),
            (fixed >> LOW_BITS).sum(),
            (fixed & ((1 << LOW_BITS) - 1)).sum(),
        ],
        np.int64,
    )


def loss_of_sums(sums: NDArray[np.int64], clip: float | None) -> CertifiedLogLoss:
    """The result from the integers of at least one sample."""
    rows, right, infinite, high, low = (int(word) for word in sums)
    exact = Fraction((high << LOW_BITS) + low, rows << LOSS_FRACTION_BITS)
    value = math.inf if infinite else rounded_up(exact)
    return CertifiedLogLoss(value, rows, right / rows, infinite, clip)
