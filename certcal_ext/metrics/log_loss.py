# SPDX-License-Identifier: MIT
"""The top-label log loss, its exact worst case, and sums of it that add."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._rounding import rounded_up
from certcal_ext.metrics.base import Floats, MeanMetric, Options, Right, Samples
from certcal_ext.metrics.clip import Clip, rounded_up_from_wide
from certcal_ext.metrics.state import LOW_BITS, MAX_ROWS, CertifiedState

__all__ = ["CertifiedLogLoss", "LogLossState", "certified_log_loss", "log_loss"]

#: A loss is kept as a multiple of 2^-42: the largest finite one, -log 2^-1074 < 2^10, then has 52
#: bits, and a sum of 2^36 of them fits into two words, the lower one of 26 bits.
_FRACTION_BITS = 42

#: Samples, right ones, samples of infinite loss, sum of the others in two words.
_WORDS = 5


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
    limit = Clip.of(clip, dtype)
    right, low, high = _check.some_intervals(correct, lower, upper)
    return _of_sums(_sums_of(right, low, high, limit), limit)


def log_loss(
    correct: Any, confidence: Any, clip: float | None = None, dtype: str = "float64"
) -> float:
    """The top-label log loss, the mean of -log(z if right, else 1 - z), in nats, without an attack.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences of the predicted class, in [0, 1].
        clip: above 0 and below 0.5: confidences are clipped to [clip, 1 - clip]; None: as they are.
        dtype: "float64" or "float32", in which they are rounded and clipped, as in ``certified_log_loss``.

    Returns:
        The loss, at most 2^-41 too large; infinite where a right sample has confidence 0 or a wrong one 1.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: no samples, shapes that differ, confidences outside [0, 1], a ``clip`` out of range or vanishing
            in ``dtype``, or an unknown ``dtype``.

    Example:
        >>> round(log_loss([1, 0], [1.0, 0.5]), 6)
        0.346574
    """
    right, z = _check.points(correct, confidence)
    return certified_log_loss(right, z, z, clip, dtype).value


class LogLossState(CertifiedState[CertifiedLogLoss]):
    """The certified log loss of data in parts; ``compute`` equals ``certified_log_loss`` bit for bit.

    State: (5,) samples, right ones, those of infinite loss, and the sum of the other losses in two words, (high * 2^26 +
    low) / 2^42.

    Args:
        clip: as for ``certified_log_loss``.
        dtype: likewise.

    Raises:
        TypeError: ``clip`` is no number.
        ValueError: it is out of range or vanishes in ``dtype``, or ``dtype`` is unknown.

    Example:
        >>> state = LogLossState(clip=0.01)
        >>> state.update([1, 0], lower=[0.0, 0.25], upper=[1.0, 0.5])
        >>> round(state.compute().value, 6)
        2.649159
    """

    def __init__(self, clip: float | None = None, dtype: str = "float64") -> None:
        """A state of no samples; the arguments are described with the class."""
        super().__init__((_WORDS,))
        self._clip = Clip.of(clip, dtype)

    def _add(self, right: Right, low: Floats, high: Floats) -> None:
        self._state += _sums_of(right, low, high, self._clip)

    def _result(self) -> CertifiedLogLoss:
        return _of_sums(self._state, self._clip)

    def _settings(self) -> dict[str, Any]:
        return {"clip": self._clip.clip, "dtype": self._clip.dtype}

    def _checked_rows(self) -> int:
        rows, right, infinite, high, low = (int(word) for word in self._state)
        if rows > MAX_ROWS or max(right, infinite) > rows:
            raise ValueError(
                "state: expected at most 2^36 samples, no more of them right or infinite"
            )
        if infinite and self._clip.clip is not None:
            raise ValueError("state: expected no infinite loss with a clip")
        # The largest finite loss of a right and of a wrong sample, and the least one: with a clip neither 0 nor infinite.
        of_right, of_wrong = self._loss(1, 0.0), self._loss(0, 1.0)
        least = min(self._loss(1, 1.0), self._loss(0, 0.0))
        finite = rows - infinite
        most = min(right, finite) * of_right + (finite - min(right, finite)) * of_wrong
        total = (high << LOW_BITS) + low
        if not finite * least <= total <= most or low > finite * ((1 << LOW_BITS) - 1):
            raise ValueError("state: expected a sum of losses that its finite samples can give")
        return rows

    def _loss(self, correct: int, confidence: float) -> int:
        """The loss of one sample in units; of the confidence beside it where it would be infinite."""
        ends = np.array([confidence]), np.array([confidence])
        words = _sums_of(np.array([correct], np.uint8), *ends, self._clip)
        if words[2]:
            kind = np.dtype(self._clip.dtype).type
            return self._loss(correct, float(np.nextafter(kind(confidence), kind(0.5))))
        return (int(words[3]) << LOW_BITS) + int(words[4])


def _sums_of(right: Right, low: Floats, high: Floats, clip: Clip) -> NDArray[np.int64]:
    """(5,) the integers of these samples; those of several parts add."""
    _check.require_ordered(low, high)
    losses = clip.losses(right, low, high)
    finite = losses[np.isfinite(losses)]
    fixed = np.ceil(np.ldexp(finite, _FRACTION_BITS)).astype(np.int64)
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


def _of_sums(sums: NDArray[np.int64], clip: Clip) -> CertifiedLogLoss:
    """The result from the integers of at least one sample."""
    rows, right, infinite, high, low = (int(word) for word in sums)
    exact = Fraction((high << LOW_BITS) + low, rows << _FRACTION_BITS)
    value = math.inf if infinite else min(rounded_up(exact), clip.largest)
    return CertifiedLogLoss(value, rows, right / rows, infinite, clip.clip, clip.dtype)


class LogLoss(MeanMetric):
    """The mean of -log of what the truth was given, in nats."""

    name = "log_loss"
    title = "log loss"
    words = "log loss"
    uses = ("clip",)

    def certified(self, samples: Samples, options: Options) -> float:
        """``certified_log_loss``."""
        clip = options.clip
        rows = samples.correct, samples.lower, samples.upper
        return certified_log_loss(*rows, clip.clip, clip.dtype).value

    def terms(self, samples: Samples, options: Options) -> tuple[Floats, float]:
        """Losses; an uncertified sample is right with a confidence of at least 1 - gap, or wrong with one of at most gap.

        What is reported is not symmetric (1 - clip is rounded), so the costlier of the two counts. 1 - gap is exact from a
        gap of 1/2 on.
        """
        clip, gap = options.clip, samples.gap
        right = np.ones(gap.size, np.uint8)
        least = np.where(gap >= 0.5, 1.0 - gap, np.nextafter(1.0 - gap, 0.0))
        own = clip.losses(samples.correct, samples.lower, samples.upper)
        rest = np.maximum(clip.losses(right, least, gap), clip.losses(1 - right, least, gap))
        most = clip.largest
        return np.minimum(rounded_up_from_wide(np.concatenate((own, rest))), most), most

    def no_population(self, options: Options) -> str | None:
        """Only of losses that are bounded."""
        if options.clip.clip is not None:
            return None
        return "clip: expected a number for the population's log loss, which is unbounded without"

    def state(self, options: Options) -> LogLossState:
        """Sums of losses."""
        return LogLossState(options.clip.clip, options.clip.dtype)


METRIC = LogLoss()
