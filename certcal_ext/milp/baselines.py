# SPDX-License-Identifier: MIT
"""Lower estimates of the certified ECE: what approximate solvers reach, as baselines.

Each gives confidences inside the intervals and their plain ECE. None is a certificate: the worst
case is at least this large, and ``certified_ece`` is never below it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.bins import Bins
from certcal_ext.metrics.ece import ece

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "LowerEstimate",
    "lower_estimate_admm",
    "lower_estimate_brier_worst",
    "lower_estimate_dece",
]

Floats = NDArray[np.float64]

#: Where an iteration may start inside each interval: a share of the way from lower to upper, or the
#: end away from the truth.
STARTS = ("lower", "middle", "upper", "brier-worst")

#: Every so many steps the current point is rounded and its plain ECE taken.
_LOOK_EVERY = 10


@dataclass(frozen=True, eq=False)
class LowerEstimate:
    """What a search found: the worst case is at least ``value``.

    Attributes:
        value: the plain ECE of ``confidence``, as ``ece`` rounds it: never above ``certified_ece``.
            A lower estimate of the worst case, no certificate.
        confidence: (N,) confidences inside the intervals; read-only.
        steps: steps taken, over all starts.
        seconds: wall time.
    """

    value: float
    confidence: NDArray[np.float64]
    steps: int
    seconds: float


class _Task:
    """Checked arguments, and the best point so far."""

    def __init__(
        self, correct: Any, lower: Any, upper: Any, bins: Any, edges: Any, closed: Any
    ) -> None:
        self.started = time.perf_counter()
        self.right, self.low, self.high = _check.some_intervals(correct, lower, upper)
        _check.require_ordered(self.low, self.high)
        self.edges = _check.bin_edges(bins, edges)
        self.left = _check.closed_left(closed)
        self.truth = self.right.astype(np.float64)
        self.best = -1.0
        self.confidence = self.low
        self.steps = 0

    @property
    def bins(self) -> int:
        return self.edges.size - 1

    def start(self, name: str) -> Floats:
        """The confidences of one of ``STARTS``."""
        if name == "brier-worst":
            return np.where(self.right == 1, self.low, self.high)
        share = {"lower": 0.0, "middle": 0.5, "upper": 1.0}[name]
        return np.clip(self.low + share * (self.high - self.low), self.low, self.high)

    def bin_of(self, confidence: Floats) -> NDArray[np.int64]:
        return Bins(self.edges, "left" if self.left else "right").index(confidence)

    def offer(self, confidence: Floats) -> None:
        """Keeps the confidences if their plain ECE is the largest yet."""
        inside = np.clip(confidence, self.low, self.high)
        closed = "left" if self.left else "right"
        value = ece(self.right, inside, edges=self.edges, closed=closed)
        if value > self.best:
            self.best, self.confidence = value, inside

    def offer_pushed(self, at: NDArray[np.int64], confidence: Floats) -> None:
        """Offers the confidences moved into bins ``at``, and all pushed to the better side there."""
        below = self.edges[at] if self.left else np.nextafter(self.edges[at], 2.0)
        above = np.nextafter(self.edges[at + 1], -1.0) if self.left else self.edges[at + 1]
        if self.left:
            above = np.where(at == self.bins - 1, 1.0, above)
        else:
            below = np.where(at == 0, 0.0, below)
        low, high = np.maximum(self.low, below), np.minimum(self.high, above)
        self.offer(np.clip(confidence, low, high))
        largest = np.bincount(at, self.truth - low, self.bins)
        smallest = np.bincount(at, self.truth - high, self.bins)
        self.offer(np.where((largest >= -smallest)[at], low, high))

    def result(self) -> LowerEstimate:
        confidence = self.confidence.copy()
        confidence.flags.writeable = False
        return LowerEstimate(self.best, confidence, self.steps, time.perf_counter() - self.started)


def lower_estimate_brier_worst(
    correct: Any,
    lower: Any,
    upper: Any,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
) -> LowerEstimate:
    """The plain ECE at the confidences that are worst for the Brier score.

    These are the lower end where the prediction is right and the upper end where it is wrong.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Returns:
        ``LowerEstimate``.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0,
            1], or bad bins.

    Source:
        A baseline of Emde et al. (ICLR 2025).

    Example:
        >>> lower_estimate_brier_worst([1, 0], [0.5, 0.25], [1.0, 0.5], bins=2).value
        0.0
    """
    task = _Task(correct, lower, upper, bins, edges, closed)
    task.offer(task.start("brier-worst"))
    return task.result()


class DeceOptions(TypedDict, total=False):
    """Options of ``lower_estimate_dece``.

    Attributes:
        steps: steps from each start; default 1,000.
        learning_rate: how far Adam moves a confidence at most in a step, about; default 0.01.
        temperature: t, how soft the bins are; default 0.01.
        starts: some of ``"lower"``, ``"middle"``, ``"upper"``, ``"brier-worst"``; default the second
            and the last.
    """

    steps: int
    learning_rate: float
    temperature: float
    starts: Iterable[str]


class AdmmOptions(TypedDict, total=False):
    """Options of ``lower_estimate_admm``.

    Attributes:
        steps: steps from each start at most; fewer where nothing moves any more. Default 3,000, as
            the paper has it.
        penalty: weight of the quadratic terms at first; default 0.03.
        growth: factor of it at each step; default 1.005.
        starts: some of ``"lower"``, ``"middle"``, ``"upper"``, ``"brier-worst"``; default all.
    """

    steps: int
    penalty: float
    growth: float
    starts: Iterable[str]


def lower_estimate_dece(
    correct: Any,
    lower: Any,
    upper: Any,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
    **options: Unpack[DeceOptions],
) -> LowerEstimate:
    """Gradient ascent on the differentiable ECE, reported by the plain ECE of the best point.

    A confidence z belongs to bin j by softmax_j((j z + b_j) / t) with b_j = -(e_0 + ... + e_{j-1}),
    so that neighbouring bins are even at their edge; correctness is fixed, so nothing else has to
    be smoothed. Adam ascends sum_j |sum_n w_nj (c_n - z_n)| over the confidences, which are clipped
    to their intervals after each step.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.
        options: of the ascent, by name, see ``DeceOptions``.

    Returns:
        ``LowerEstimate``.

    Raises:
        TypeError: an argument is no array of numbers, or of the wrong kind.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0,
            1], bad bins, or options outside their range.

    Source:
        Bohdal et al. (2023), DECE; as a baseline of the worst case: Emde et al. (ICLR 2025).

    Example:
        >>> lower_estimate_dece([1, 0], [0.5, 0.25], [1.0, 0.5], bins=2, steps=100).value <= 0.5
        True
    """
    task = _Task(correct, lower, upper, bins, edges, closed)
    _check.options("lower_estimate_dece", options, DeceOptions)
    count = _check.whole_number("steps", options.get("steps", 1000), 1, 10**7)
    rate = _check.positive_number("learning_rate", options.get("learning_rate", 0.01))
    soft = _check.positive_number("temperature", options.get("temperature", 0.01))
    for name in _checked_starts(options.get("starts", ("middle", "brier-worst"))):
        z = task.start(name)
        task.offer(z)
        mean, square = np.zeros_like(z), np.zeros_like(z)
        for step in range(1, count + 1):
            gradient = _dece_gradient(task, z, soft)
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            scale = np.sqrt(square / (1 - 0.999**step)) + 1e-8
            z = np.clip(z + rate * mean / (1 - 0.9**step) / scale, task.low, task.high)
            if step % _LOOK_EVERY == 0 or step == count:
                task.offer(z)
        task.steps += count
    return task.result()


def _dece_gradient(task: _Task, z: Floats, temperature: float) -> Floats:
    """(N,) derivatives of N times the differentiable ECE."""
    place = np.arange(1, task.bins + 1, dtype=np.float64)
    logits = (np.outer(z, place) - np.cumsum(task.edges[:-1])) / temperature
    logits -= logits.max(axis=1, keepdims=True)
    member = np.exp(logits, out=logits)
    member /= member.sum(axis=1, keepdims=True)
    error = task.truth - z
    signs = np.sign(error @ member)
    pushed = member @ signs
    # dw_nj/dz = w_nj (j - sum_i i w_ni) / t
    moved = member @ (signs * place) - pushed * (member @ place)
    result: Floats = error * moved / temperature - pushed
    return result


def lower_estimate_admm(
    correct: Any,
    lower: Any,
    upper: Any,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
    **options: Unpack[AdmmOptions],
) -> LowerEstimate:
    """ADMM on the mixed-integer program, reported by the plain ECE of the best rounded point.

    The approximate solver of the paper (ACCE), reconstructed from its description; the paper's code
    was not at hand. Maximise sum_m |sum_n a_nm (c_n - z_n)| over binary a with sum_m a_nm = 1 and
    sum_m low_nm a_nm <= z_n <= sum_m high_nm a_nm, where [low_nm, high_nm] is what sample n reaches
    of bin m. A binary a is one in a box and on a sphere (Wu and Ghanem 2018): each has a copy of
    its own, and so have the two slacks of the bin. A step updates the copies by projection, a by
    the exact minimum of its augmented Lagrangian with |.| replaced by its tangent, z likewise, and
    the multipliers; then the penalty grows. Every tenth step a is rounded to its largest entry and
    z to that bin: as it is, and pushed to the side of the bin that is worse. The best point over
    all these and all starts is kept, which is generous to the method.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.
        options: of the iteration, by name, see ``AdmmOptions``.

    Returns:
        ``LowerEstimate``.

    Raises:
        TypeError: an argument is no array of numbers, or of the wrong kind.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0,
            1], bad bins, or options outside their range.

    Source:
        Emde et al. (ICLR 2025), ACCE; Wu and Ghanem (2018) for the splitting.

    Example:
        >>> lower_estimate_admm([1, 0], [0.5, 0.25], [1.0, 0.5], bins=2, steps=100).value <= 0.5
        True
    """
    task = _Task(correct, lower, upper, bins, edges, closed)
    _check.options("lower_estimate_admm", options, AdmmOptions)
    count = _check.whole_number("steps", options.get("steps", 3000), 1, 10**7)
    weight = _check.positive_number("penalty", options.get("penalty", 0.03))
    factor = _check.real_number("growth", options.get("growth", 1.005))
    if factor < 1:
        raise ValueError(f"growth: expected a factor of at least 1, got {factor}")
    splitting = _Splitting(task)
    for name in _checked_starts(options.get("starts", STARTS)):
        task.offer(task.start(name))
        task.steps += splitting.run(task.start(name), count, weight, factor)
    return task.result()


class _Splitting:
    """The iteration of ``lower_estimate_admm``. Arrays are (M, N), so that sums over bins are quick."""

    def __init__(self, task: _Task) -> None:
        self.task = task
        first, last = task.bin_of(task.low), task.bin_of(task.high)
        place = np.arange(task.bins)[:, None]
        self.reached = (first <= place) & (place <= last)
        self.low = np.where(self.reached, np.maximum(task.low, task.edges[:-1, None]), 0.0)
        self.high = np.where(self.reached, np.minimum(task.high, task.edges[1:, None]), 0.0)
        self.one = self.reached.astype(np.float64)
        # The quadratic form of a sample's a is 2 I + U U' over its reached bins: box and sphere,
        # then sum to one and the two slacks (U = [1, low, high]). Its inverse is (I - W U') / 2.
        factors = np.stack([self.one, self.low, self.high])
        small = np.einsum("imn,jmn->nij", factors, factors) + 2.0 * np.eye(3)
        self.factors = factors
        self.shrink = np.einsum("imn,nij->jmn", factors, np.linalg.inv(small))

    def run(self, z: Floats, steps: int, penalty: float, growth: float) -> int:
        """Iterates from ``z`` and its own bins; returns the number of steps taken."""
        task, one, low, high = self.task, self.one, self.low, self.high
        a = np.zeros_like(one)
        a[task.bin_of(z), np.arange(z.size)] = 1.0
        least, most, mass = (low * a).sum(0), (high * a).sum(0), np.ones_like(z)
        # Multipliers, divided by the penalty.
        box, sphere = np.zeros_like(a), np.zeros_like(a)
        total, under, over = np.zeros_like(z), np.zeros_like(z), np.zeros_like(z)
        radius = 0.5 * np.sqrt(one.sum())
        for step in range(1, steps + 1):
            in_box = np.clip(a + box, 0.0, 1.0)
            centred = (a + sphere - 0.5) * one
            norm = np.sqrt((centred * centred).sum())
            on_sphere = (0.5 + centred * (radius / norm if norm > 0 else 1.0)) * one
            above = np.maximum(z - least + under, 0.0)
            below = np.maximum(most - z + over, 0.0)

            error = task.truth - z
            signs = np.where(np.einsum("mn,n->m", a, error) >= 0, 1.0, -1.0)
            target = in_box - box + on_sphere - sphere
            target += one * (1.0 - total) + low * (z - above + under) + high * (z + below - over)
            target += one * (signs[:, None] * (error / penalty))
            before = a
            a = target
            for factor, shrink in zip(self.factors, self.shrink, strict=True):
                a = a - shrink * (factor * target).sum(0)
            a *= 0.5 * one
            least, most, mass = (low * a).sum(0), (high * a).sum(0), a.sum(0)
            pull = (
                least
                + above
                - under
                + most
                - below
                + over
                - np.einsum("m,mn->n", signs, a) / penalty
            )
            z = np.clip(0.5 * pull, task.low, task.high)

            box += a - in_box
            sphere += a - on_sphere
            total += mass - 1.0
            under += z - least - above
            over += most - z - below
            if step % _LOOK_EVERY == 0 or step == steps:
                task.offer_pushed(np.where(self.reached, a, -np.inf).argmax(0), z)
                still = np.abs(a - before).max() < 1e-7 and np.abs(a - in_box).max() < 1e-5
                if still:
                    return step
            penalty *= growth
            for multiplier in (box, sphere, total, under, over):
                multiplier /= growth
        return steps


def _checked_starts(starts: Any) -> tuple[str, ...]:
    names = tuple(_check.choice("starts", name, STARTS) for name in _check.items("starts", starts))
    if not names:
        raise ValueError(f"starts: expected some of {', '.join(STARTS)}, got none")
    return names
