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

#: The floating-point formats that a deployed model may clip in.
DTYPES = ("float64", "float32")

#: A loss is kept as a multiple of 2^-42: the largest finite one, -log 2^-1074 < 2^10, then has 52
#: bits, and a sum of 2^36 of them fits into two words, the lower one of 26 bits.
LOSS_FRACTION_BITS = 42

#: Samples, right ones, samples of infinite loss, sum of the others in two words.
LOSS_WORDS = 5

_Wide = np.longdouble
_Floats = NDArray[np.float64]
_Losses = NDArray[np.longdouble]


@dataclass(frozen=True)
class Clip:
    """How the deployed model reports a confidence z: min(max(fl(z), fl(clip)), fl(1 - clip)), in floating point.

    Where the rounded 1 - clip differs between the ways of writing it in float32, each loss is charged the costlier one.

    Attributes:
        clip: above 0 and below 0.5; None: nothing is clipped.
        dtype: "float64" or "float32", the format that is computed in.
    """

    clip: float | None = None
    dtype: str = "float64"

    @property
    def least(self) -> float:
        """The smallest confidence that is reported."""
        return 0.0 if self.clip is None else float(np.dtype(self.dtype).type(self.clip))

    @property
    def most(self) -> tuple[float, float]:
        """The largest one, by the way of writing it that gives the smaller and the larger number."""
        if self.clip is None:
            return 1.0, 1.0
        kind = np.dtype(self.dtype).type
        ends = float(kind(1.0 - self.clip)), float(kind(1) - kind(self.clip))
        return min(ends), max(ends)

    def reported(self, right: NDArray[np.uint8], low: _Floats, high: _Floats) -> _Floats:
        """(N,) the reported confidence of largest loss: of right samples that for ``low``, of wrong ones for ``high``."""
        right_most, wrong_most = self.most
        chosen = right != 0
        rounded = np.where(chosen, low, high).astype(self.dtype).astype(np.float64)
        return np.clip(rounded, self.least, np.where(chosen, right_most, wrong_most))

    def losses(self, right: NDArray[np.uint8], low: _Floats, high: _Floats) -> _Losses:
        """(N,) the largest losses in nats, rounded up; infinite where they are unbounded.

        The logarithm is that of ``longdouble``, computed one by one: the vectorised one of float64 may depend on where in
        the array a number stands, and then a sum would depend on the order.
        """
        reported = self.reported(right, low, high).astype(_Wide)
        with np.errstate(divide="ignore"):
            # log1p(-u) instead of log(1 - u): 1 - u would be rounded.
            values = -np.where(right != 0, np.log(reported), np.log1p(-reported))
        # Logarithms of a C library are right to about one unit in the last place; eight are added. abs: no -0.
        return np.asarray(np.abs(values) * (1 + 8 * np.finfo(_Wide).eps))

    @property
    def largest(self) -> float:
        """The largest loss that a sample can have, rounded up; infinite where nothing is clipped."""
        ends = np.array([0.0, 1.0])
        return float(
            rounded_up_from_wide(self.losses(np.array([1, 0], np.uint8), ends, ends)).max()
        )


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
        dtype: the floating-point format that they are clipped in.
    """

    value: float
    n: int
    accuracy: float
    infinite: int
    clip: float | None
    dtype: str = "float64"

    @property
    def constant(self) -> float:
        """What a constant confidence equal to the accuracy scores: its entropy, in nats, rounded down."""
        right = round(self.accuracy * self.n)
        wrong = self.n - right
        if not right or not wrong:
            return 0.0
        entropy = (right * math.log1p(wrong / right) + wrong * math.log1p(right / wrong)) / self.n
        return entropy * (1.0 - 2.0**-48)  # two logarithms right to a few units, and five roundings

    @property
    def skill(self) -> float:
        """1 - value / constant, rounded down: it says nothing unless above 0; nan where ``constant`` is 0."""
        if not self.constant:
            return float("nan")
        return math.nextafter(1.0 - self.value / self.constant * (1.0 + 2.0**-51), -math.inf)


def certified_log_loss(
    correct: Any, lower: Any, upper: Any, clip: float | None = None, dtype: str = "float64"
) -> CertifiedLogLoss:
    """The exact worst-case log loss of the predicted class, in nats.

    A loss is monotone in the confidence, so the maximum of (1/N) sum_n -log(z_n if right, else 1 - z_n) over l_n <= z_n
    <= u_n is the mean of -log l over right and of -log(1 - u) over wrong samples. It is infinite as soon as one right
    sample has l = 0 or one wrong one u = 1. ``clip`` is the usual remedy and part of the model: it reports min(max(z,
    clip), 1 - clip), a monotone map, under which an interval stays a certified interval. A loss then lies between about
    clip, which even certain right predictions cost, and about -log clip: "about", because a model clips in floating
    point, where 1 - clip is rounded. What is charged is the number that a model computing in ``dtype`` reports.

    Each loss is rounded up to a multiple of 2^-42 and the sum is one of integers, so it does not depend on the order of
    the samples.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        clip: above 0 and below 0.5, and not so small that 1 - clip is 1 in ``dtype``; None: confidences are not clipped.
        dtype: "float64" or "float32", the format that the deployed model rounds its confidences to and clips them in.

    Returns:
        ``CertifiedLogLoss``; ``value`` exceeds the exact one by at most 2^-41 and one rounding.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0, 1], a ``clip`` out
            of range or vanishing in ``dtype``, or a ``dtype`` that is neither.

    Source:
        This project.

    Example:
        >>> result = certified_log_loss([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.5])
        >>> round(result.value, 6), result.infinite
        (0.693147, 0)
        >>> certified_log_loss([1, 0], lower=[0.5, 0.25], upper=[1.0, 1.0]).value
        inf
    """
    limit = checked_clip(clip, dtype)
    right, low, high = _check.some_intervals(correct, lower, upper)
    return loss_of_sums(loss_sums(right, low, high, limit), limit)


def checked_clip(clip: Any, dtype: Any = "float64") -> Clip:
    """The two options as one object.

    Raises:
        TypeError: ``clip`` is no number.
        ValueError: it is out of range, or vanishes in ``dtype``; or ``dtype`` is none of ``DTYPES``.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if clip is None:
        return Clip(None, dtype)
    limit = _check.real_number("clip", clip)
    if not 0 < limit < 0.5:
        raise ValueError(f"clip: expected a number above 0 and below 0.5, got {clip}")
    result = Clip(limit, dtype)
    if not (result.least > 0 and result.most[1] < 1):
        raise ValueError(
            f"clip: expected a number that does not vanish in {dtype}, where 1 - clip is {result.most[1]:g}, got {clip}"
        )
    return result


def rounded_up_from_wide(values: _Losses) -> _Floats:
    """Float64 at or above each value."""
    return np.nextafter(values.astype(np.float64), np.inf)


def loss_sums(
    right: NDArray[np.uint8], low: _Floats, high: _Floats, clip: Clip
) -> NDArray[np.int64]:
    """(5,) the integers of these samples; those of several parts add."""
    _check.require_ordered(low, high)
    losses = clip.losses(right, low, high)
    finite = losses[np.isfinite(losses)]
    fixed = np.ceil(np.ldexp(finite, LOSS_FRACTION_BITS)).astype(np.int64)
    return np.array(
        [
            right.size,
            np.count_nonzero(right),
            right.size - finite.size,
            (fixed >> LOW_BITS).sum(),
            (fixed & ((1 << LOW_BITS) - 1)).sum(),
        ],
        np.int64,
    )


def loss_of_sums(sums: NDArray[np.int64], clip: Clip) -> CertifiedLogLoss:
    """The result from the integers of at least one sample."""
    rows, right, infinite, high, low = (int(word) for word in sums)
    exact = Fraction((high << LOW_BITS) + low, rows << LOSS_FRACTION_BITS)
    value = math.inf if infinite else min(rounded_up(exact), clip.largest)
    return CertifiedLogLoss(value, rows, right / rows, infinite, clip.clip, clip.dtype)
