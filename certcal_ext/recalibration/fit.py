# SPDX-License-Identifier: MIT
"""Recalibration maps fitted on certified intervals: isotonic exactly, logistic ones numerically.

All fits look at a sample only through its worst-case point: the end of its interval away from the truth, (l, 1)
for a right and (u, 0) for a wrong sample. For a monotone map the squared error there is the worst
one that an attack can cause. Intervals that are points give the ordinary, unattacked fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from certcal_ext import _check
from certcal_ext.recalibration.maps import (
    EDGE,
    MAX_COEFFICIENT,
    IdentityMap,
    LogisticMap,
    RecalibrationMap,
    StepMap,
)

#: What ``fit_recalibration`` can fit.
KINDS = ("isotonic", "temperature", "platt", "beta", "constant", "identity")

_MAX_SLOPE = 100.0
_UNITS = 1000  # parts of a mixed objective are whole thousandths
_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
_Descent = tuple[float, _Floats, _Floats]  # value, gradient and second derivatives

_MAX_STEPS = 1000
_MAX_DAMPING = 1e12
_LEAST_PROGRESS = 1e-15

# (a, b, c) of a logistic map as a linear function of what is free.
_FREE = {
    "temperature": np.array([[1.0], [1.0], [0.0]]),
    "platt": np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
    "beta": np.eye(3),
}


@dataclass(frozen=True, eq=False)
class IsotonicBlocks:
    """The pools of an isotonic regression of right and wrong, in exact counts.

    ``right / total`` increases strictly from block to block. Arrays have one entry a block.

    Attributes:
        first: (B,) lowest position in the block.
        last: (B,) highest position in the block; below the next block's first.
        right: (B,) int64 weight of its right samples.
        total: (B,) int64 weight of its samples.
    """

    first: NDArray[np.float64]
    last: NDArray[np.float64]
    right: NDArray[np.int64]
    total: NDArray[np.int64]


def isotonic_blocks(correct: Any, lower: Any, upper: Any, weights: Any = None) -> IsotonicBlocks:
    """Pools adjacent violators among the worst-case points, in whole numbers.

    Means of right and wrong samples are ratios of counts and are compared by cross-multiplication, so
    no rounding decides which samples share a level. Equal positions are one point from the start. One
    sort and one pass: O(N log N).

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of certified intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        weights: (N,) whole numbers from 0 to 2^31 - 1, how often a sample counts; once where None.

    Returns:
        ``IsotonicBlocks``.

    Raises:
        TypeError: an argument is no array of numbers, or ``weights`` are not whole.
        ValueError: no samples (or none of weight above 0), shapes that differ, bounds that are NaN,
            unordered or outside [0, 1], or weights out of range.

    Source:
        Pool adjacent violators: Ayer et al., Annals of Mathematical Statistics 1955.

    Example:
        >>> blocks = isotonic_blocks([0, 1, 0, 1], [0.1, 0.3, 0.2, 0.8], [0.2, 0.6, 0.5, 0.9])
        >>> blocks.first, blocks.right, blocks.total
        (array([0.2, 0.3, 0.8]), array([0, 1, 1]), array([1, 2, 1]))
    """
    places, good, total = _places(*_worst_points(correct, lower, upper, weights))
    starts: list[int] = []
    sums: list[
        tuple[int, int]
    ] = []  # (right, total) in Python's whole numbers: products cannot wrap
    for place, (k, m) in enumerate(zip(good.tolist(), total.tolist(), strict=True)):
        start = place
        while sums and sums[-1][0] * m >= k * sums[-1][1]:
            above = sums.pop()
            k, m, start = k + above[0], m + above[1], starts.pop()
        sums.append((k, m))
        starts.append(start)
    ends = [*starts[1:], places.size]
    counts = np.array(sums, np.int64)
    return IsotonicBlocks(
        first=places[starts],
        last=places[np.array(ends) - 1],
        right=counts[:, 0].copy(),
        total=counts[:, 1].copy(),
    )


def fit_isotonic(
    correct: Any, lower: Any, upper: Any, weights: Any = None, clip: float = 0.0
) -> StepMap:
    """The monotone map with the lowest certified Brier score of all monotone maps.

    Theorem (this project, ``docs/recalibration.md``): for a non-decreasing g the worst squared error of
    a right sample is (1 - g(l))^2 and that of a wrong one g(u)^2, so the certified Brier score of
    [g(l), g(u)] is the mean squared error of g on the points (l, 1) and (u, 0), and isotonic
    regression of these points minimises it. As with every isotonic regression of 0 and 1, the same
    map minimises the worst case of every other proper score, the log loss among them. Each level
    is the double nearest to right / total, which makes the map optimal among all monotone maps with
    float64 values too.

    Between the fitted positions the map is free. It jumps halfway between the last position of a block
    and the first one of the next, rounded towards the next.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of certified intervals, in [0, 1]. For a fit at several radii concatenate
            their samples: the sum of their scores, over all of them, is minimised.
        upper: (N,) upper ends, each at least its lower end.
        weights: (N,) whole numbers from 0 to 2^31 - 1, how often a sample counts; once where None.
        clip: levels are moved into [clip, 1 - clip], which is optimal among the maps into that range.
            Levels of 0 and 1 can make the log loss of other samples infinite.

    Returns:
        ``StepMap``, of kind ``constant`` where all samples share a level.

    Raises:
        TypeError: an argument is no array of numbers, or ``weights`` are not whole.
        ValueError: no samples (or none of weight above 0), shapes that differ, bounds that are NaN,
            unordered or outside [0, 1], weights out of range, or ``clip`` outside [0, 0.5].

    Example:
        >>> fit_isotonic([0, 1, 0, 1], [0.1, 0.3, 0.2, 0.8], [0.2, 0.6, 0.5, 0.9])
        StepMap(jumps=(0.25, 0.65), levels=(0.0, 0.5, 1.0))
    """
    least = _check.real_number("clip", clip)
    if not 0 <= least <= 0.5:
        raise ValueError(f"clip: expected a number from 0 to 0.5, got {clip}")
    blocks = isotonic_blocks(correct, lower, upper, weights)
    # Python divides whole numbers to the nearest double, which NumPy does below 2^53 only.
    levels = [k / m for k, m in zip(blocks.right.tolist(), blocks.total.tolist(), strict=True)]
    middle = (blocks.last[:-1] + blocks.first[1:]) / 2
    jumps = np.maximum(middle, np.nextafter(blocks.last[:-1], 1.0))
    return StepMap(tuple(jumps.tolist()), tuple(np.clip(levels, least, 1.0 - least).tolist()))


def fit_tradeoff(
    correct: Any, lower: Any, upper: Any, confidence: Any, share: float, weights: Any = None
) -> StepMap:
    """The monotone map that is best for a mix of the score without an attack and the certified one.

    (1 - share) times the Brier score of the confidences as they are, plus share times the certified Brier
    score, is minimised over all monotone maps: ``fit_isotonic`` of both kinds of points, weighted. Both
    scores are convex in the values of the map, so a share strictly between 0 and 1 gives a map of the
    frontier: no monotone map has one score lower and the other not higher, on these samples. At large
    radii the certified optimum is a constant; a share of 0.2 then takes much of the gain and still tells
    samples apart (``docs/recalibration.md``).

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of certified intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        confidence: (N,) confidences without an attack, in [0, 1].
        share: weight of the certified score, in [0, 1], taken to the nearest thousandth. 0 is ordinary
            isotonic regression, 1 is ``fit_isotonic``.
        weights: (N,) whole numbers from 0 to 2 million, how often a sample counts; once where None.

    Returns:
        ``StepMap``.

    Raises:
        TypeError: an argument is no array of numbers, or ``share`` no number.
        ValueError: no samples, shapes that differ, values that are NaN, unordered or outside [0, 1],
            or ``share`` outside [0, 1].

    Example:
        >>> sample = dict(correct=[1, 0], lower=[0.2, 0.1], upper=[0.9, 0.8], confidence=[0.7, 0.2])
        >>> fit_tradeoff(**sample, share=0.0).levels, fit_tradeoff(**sample, share=1.0).levels
        ((0.0, 1.0), (0.5,))
    """
    right, low, high = _check.some_intervals(correct, lower, upper)
    points = _check.float_vector("confidence", confidence, right.size)
    _check.require_ordered(points, points)
    wanted = _check.real_number("share", share)
    if not 0 <= wanted <= 1:
        raise ValueError(f"share: expected a number from 0 to 1, got {share}")
    unit = round(wanted * _UNITS)
    both = np.repeat([_UNITS - unit, unit], right.size)
    if weights is not None:
        both *= np.tile(_check.int_vector("weights", weights, right.size), 2)
    return fit_isotonic(np.tile(right, 2), np.append(points, low), np.append(points, high), both)


def fit_constant(correct: Any, lower: Any, upper: Any, weights: Any = None) -> StepMap:
    """The best constant confidence: the accuracy. The floor that another map has to beat.

    Arguments and errors as ``fit_isotonic``.

    Example:
        >>> fit_constant([1, 1, 0, 1], [0.5] * 4, [0.75] * 4)
        StepMap(jumps=(), levels=(0.75,))
    """
    right, _, weight = _worst_points(correct, lower, upper, weights)
    return StepMap((), (int((weight * right).sum()) / int(weight.sum()),))


def fit_temperature(
    correct: Any, lower: Any, upper: Any, weights: Any = None, loss: str = "brier"
) -> LogisticMap:
    """Temperature scaling of the logit of the confidence on the worst-case points.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of certified intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        weights: (N,) whole numbers from 0 to 2^31 - 1, how often a sample counts; once where None.
        loss: ``"brier"``: the certified Brier score is minimised, from several starts, the identity
            among them, so it does not rise on these samples (but for the map's rounding, 2^-40).
            ``"log"``: maximum likelihood, a convex problem.

    Returns:
        ``LogisticMap`` with a slope from 0 to 100.

    Raises:
        TypeError: an argument is no array of numbers, or ``weights`` are not whole.
        ValueError: no samples (or none of weight above 0), shapes that differ, bounds that are NaN,
            unordered or outside [0, 1], weights out of range, or another loss.

    Example:
        >>> fit = fit_temperature([1, 1, 1, 0], lower=[0.9] * 4, upper=[0.9] * 4)
        >>> fit([0.9]).round(3)
        array([0.75])
    """
    return _fit_logistic("temperature", correct, lower, upper, weights, loss)


def fit_platt(
    correct: Any, lower: Any, upper: Any, weights: Any = None, loss: str = "brier"
) -> LogisticMap:
    """Platt scaling, slope and offset, of the logit of the confidence on the worst-case points.

    Arguments and errors as ``fit_temperature``.

    Example:
        >>> fit = fit_platt([1, 1, 1, 0], lower=[0.5] * 4, upper=[0.5] * 4)
        >>> fit([0.5]).round(3)
        array([0.75])
    """
    return _fit_logistic("platt", correct, lower, upper, weights, loss)


def fit_beta(
    correct: Any, lower: Any, upper: Any, weights: Any = None, loss: str = "brier"
) -> LogisticMap:
    """Beta calibration (Kull, Silva Filho and Flach, AISTATS 2017) on the worst-case points.

    Arguments and errors as ``fit_temperature``.

    Example:
        >>> fit = fit_beta([1, 1, 1, 0], lower=[0.5] * 4, upper=[0.5] * 4)
        >>> fit([0.5]).round(3)
        array([0.75])
    """
    return _fit_logistic("beta", correct, lower, upper, weights, loss)


def fit_recalibration(
    kind: str, correct: Any, lower: Any, upper: Any, weights: Any = None
) -> RecalibrationMap:
    """A map of the kind asked for, fitted to minimise the certified Brier score.

    Args:
        kind: ``"isotonic"``, ``"temperature"``, ``"platt"``, ``"beta"``, ``"constant"`` or
            ``"identity"``.
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of certified intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        weights: (N,) whole numbers from 0 to 2^31 - 1, how often a sample counts; once where None.

    Returns:
        ``RecalibrationMap``.

    Raises:
        TypeError: an argument is no array of numbers, or ``weights`` are not whole.
        ValueError: another kind, or arguments that ``fit_isotonic`` refuses.

    Example:
        >>> fit_recalibration("isotonic", [0, 1], lower=[0.1, 0.6], upper=[0.3, 0.9])
        StepMap(jumps=(0.44999999999999996,), levels=(0.0, 1.0))
    """
    fits: dict[str, Callable[..., RecalibrationMap]] = {
        "isotonic": fit_isotonic,
        "temperature": fit_temperature,
        "platt": fit_platt,
        "beta": fit_beta,
        "constant": fit_constant,
        "identity": _fit_identity,
    }
    return fits[_check.choice("kind", kind, KINDS)](correct, lower, upper, weights)


def _fit_identity(correct: Any, lower: Any, upper: Any, weights: Any) -> IdentityMap:
    _worst_points(correct, lower, upper, weights)  # refuses what the others refuse
    return IdentityMap()


def _worst_points(
    correct: Any, lower: Any, upper: Any, weights: Any
) -> tuple[NDArray[np.uint8], _Floats, _Ints]:
    """Right or wrong, worst-case position and weight of the samples of weight above 0."""
    right, low, high = _check.some_intervals(correct, lower, upper)
    _check.require_ordered(low, high)
    position = np.where(right == 1, low, high)
    if weights is None:
        return right, position, np.ones(right.size, np.int64)
    weight = _check.int_vector("weights", weights, right.size)
    good = (weight >= 0) & (weight < 2**31)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"weights: expected 0 to 2^31 - 1, got {weight[row]} in row {row}")
    counted = weight > 0
    if not counted.any():
        raise ValueError("weights: expected at least one above 0, got none")
    return right[counted], position[counted], weight[counted]


def _places(
    right: NDArray[np.uint8], position: _Floats, weight: _Ints
) -> tuple[_Floats, _Ints, _Ints]:
    """Distinct positions in order, and the weight of right and of all samples at each."""
    places, at = np.unique(position, return_inverse=True)
    good, total = np.zeros(places.size, np.int64), np.zeros(places.size, np.int64)
    np.add.at(good, at, weight * right)
    np.add.at(total, at, weight)
    return places, good, total


def _fit_logistic(
    family: str, correct: Any, lower: Any, upper: Any, weights: Any, loss: str
) -> LogisticMap:
    _check.choice("loss", loss, ("brier", "log"))
    places, good, total = _places(*_worst_points(correct, lower, upper, weights))
    free = _FREE[family]
    inside = np.clip(places, EDGE, 1.0 - EDGE)
    features = np.stack((np.log(inside), -np.log1p(-inside), np.ones(inside.size)), axis=1) @ free
    right, wrong = good / total.sum(), (total - good) / total.sum()
    slopes = free.shape[1] - (family != "temperature")  # what is free: slopes, then the offset
    most = np.where(np.arange(free.shape[1]) < slopes, _MAX_SLOPE, MAX_COEFFICIENT)
    bounds = np.where(most == _MAX_SLOPE, 0.0, -most), most

    def brier(theta: _Floats) -> _Descent:
        t = features @ theta
        value, rest = expit(t), expit(-t)
        miss = wrong * value - right * rest  # the derivative by the value, halved
        pull = 2.0 * value * rest * miss
        bend = 2.0 * value * rest * ((right + wrong) * value * rest + (rest - value) * miss)
        error = right @ rest**2 + wrong @ value**2
        return float(error), pull @ features, (features.T * bend) @ features

    def log_loss(theta: _Floats) -> _Descent:
        t = features @ theta
        value, rest = expit(t), expit(-t)
        loss = right @ np.logaddexp(0.0, -t) + wrong @ np.logaddexp(0.0, t)
        bend = (right + wrong) * value * rest
        pull = wrong * value - right * rest
        return float(loss), pull @ features, (features.T * bend) @ features

    steady = float(np.clip(logit(min(1.0, right.sum())), -MAX_COEFFICIENT, MAX_COEFFICIENT))
    starts = [_start(family, slope, 0.0) for slope in (1.0, 0.0, 0.1, 0.3, 3.0)]
    starts += [_start(family, slope, steady) for slope in (0.0, 0.1, 1.0)]
    theta = _descend(log_loss, starts[0], *bounds)
    if loss == "brier":
        # The score is not convex in the coefficients: descend from the best starts, keep the best of all.
        tried = sorted([*starts, theta], key=lambda candidate: brier(candidate)[0])
        tried += [_descend(brier, start, *bounds) for start in tried[:3]]
        theta = min(tried, key=lambda candidate: brier(candidate)[0])
    a, b, c = (free @ theta).tolist()
    return LogisticMap(family, a, b, c)


def _descend(
    objective: Callable[[_Floats], _Descent], start: _Floats, least: _Floats, most: _Floats
) -> _Floats:
    """Where Newton's steps inside a box end: at a point from which no step, however it is damped, leads lower.

    The progress asked for is relative to the value: a loss near 0, of separable samples, falls to the box's side just
    as well as a large one. A coefficient at its limit that pulls outward is left out of a step. Negative curvature
    counts as positive, so that each step is one downhill; damping shortens those that the limits or the shape spoil.
    """
    theta, damping = np.clip(start, least, most), 0.0
    value, slope, bend = objective(theta)
    for _ in range(_MAX_STEPS):
        free = ~((theta <= least) & (slope >= 0.0) | (theta >= most) & (slope <= 0.0))
        if value == 0.0 or not slope[free].any():
            break
        scale = np.sqrt(np.abs(np.diag(bend)[free]))
        scale = np.maximum(scale, max(1e-10 * scale.max(), np.finfo(float).tiny))
        curvature, axes = np.linalg.eigh(bend[np.ix_(free, free)] / scale / scale[:, None])
        size = np.abs(curvature)
        along = axes.T @ (slope[free] / scale)
        candidate = theta.copy()
        damped = size + damping + 1e-12 * max(size.max(), 1e-300)
        candidate[free] -= axes @ (along / damped) / scale
        candidate = np.clip(candidate, least, most)
        step = objective(candidate)
        if step[0] < value:
            done = value - step[0] <= _LEAST_PROGRESS * value
            theta, (value, slope, bend), damping = candidate, step, damping / 8.0
            if done and damping < 1e-3:
                break
        elif damping > _MAX_DAMPING:
            break
        else:
            damping = max(4.0 * damping, 1e-6)
    return theta


def _start(family: str, slope: float, offset: float) -> _Floats:
    """Where a descent begins; a temperature has no offset."""
    return np.array(
        {"temperature": [slope], "platt": [slope, offset]}.get(family, [slope, slope, offset])
    )
