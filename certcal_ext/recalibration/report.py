# SPDX-License-Identifier: MIT
"""What a recalibration map gains and costs on samples it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._rounding import constant_and_skill
from certcal_ext.bins import Bins
from certcal_ext.intervals.clopper_pearson import Interval
from certcal_ext.metrics.auroc import auroc, certified_auroc
from certcal_ext.metrics.brier import brier, certified_brier
from certcal_ext.metrics.ece import certified_ece, ece
from certcal_ext.metrics.resolution import resolution
from certcal_ext.recalibration.fit import fit_constant, fit_isotonic, fit_tradeoff
from certcal_ext.recalibration.maps import IdentityMap, MixtureMap, RecalibrationMap

#: Certified ends of samples, and their confidences without an attack.
Stage = tuple[Interval, NDArray[np.float64]]


def split_halves(index: Any, seed: int = 0) -> NDArray[np.bool_]:
    """Which samples belong to the fitting half; the others are certified on.

    The side of a sample depends on its id and the seed only (SplitMix64), not on which other samples
    there are: the halves are disjoint at every radius, whatever is certified there. Sides are as if a
    coin were thrown for each id, so the halves differ in size by about the square root of N.

    Args:
        index: (N,) sample ids, whole numbers of at least 0, or their number, for ids 0 to N - 1.
        seed: a whole number from 0 to 2^63 - 1; another seed is another split.

    Returns:
        (N,) True for the fitting half.

    Raises:
        TypeError: ids or seed that are not whole numbers.
        ValueError: ids or seed out of range.

    Source:
        SplitMix64: Steele, Lea and Flood, OOPSLA 2014.

    Example:
        >>> split_halves(8)
        array([ True, False,  True,  True, False, False,  True, False])
    """
    key = _check.whole_number("seed", seed, 0, 2**63 - 1)
    values = _check.array("index", index)
    if values.ndim == 0:
        ids = np.arange(_check.whole_number("index", index, 0, 2**36), dtype=np.int64)
    else:
        ids = _check.int_vector("index", values)
    if ids.size and int(ids.min()) < 0:
        raise ValueError(f"index: expected ids of at least 0, got {ids.min()}")
    start = _mixed_bits(np.array([key], np.uint64))
    fitting: NDArray[np.bool_] = _mixed_bits(ids.view(np.uint64) + start) >= np.uint64(2**63)
    return fitting


def _mixed_bits(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64, modulo 2^64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


@dataclass(frozen=True)
class RecalibrationScores:
    """Certified and plain scores of one set of samples.

    Attributes:
        certified_brier: exact worst-case Brier score.
        certified_ece: exact worst-case ECE.
        skill: 1 - certified_brier / acc(1 - acc); nan where all or none are right.
        certified_auroc: exact lowest AUROC under attack; nan where all or none are right.
        brier: Brier score without an attack.
        ece: ECE without an attack.
        auroc: of right against wrong, by confidence without an attack; nan where all or none are right.
        resolution: of the confidences without an attack, over the bins of the ECE.
    """

    certified_brier: float
    certified_ece: float
    skill: float
    certified_auroc: float
    brier: float
    ece: float
    auroc: float
    resolution: float


@dataclass(frozen=True)
class RecalibrationReport:
    """Scores before and after a map, and the floor that it has to beat.

    Attributes:
        kind: kind of the map.
        n: number of samples.
        accuracy: share of right samples.
        constant_brier: what a constant confidence equal to ``accuracy`` scores, acc(1 - acc).
        before: scores of the confidences and intervals as given.
        after: scores of the recalibrated ones.
    """

    kind: str
    n: int
    accuracy: float
    constant_brier: float
    before: RecalibrationScores
    after: RecalibrationScores

    def to_dict(self) -> dict[str, Any]:
        """All fields, nested, as JSON takes them."""
        return asdict(self)


def recalibration_report(
    recalibration: RecalibrationMap,
    correct: Any,
    lower: Any,
    upper: Any,
    confidence: Any,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
) -> RecalibrationReport:
    """Certified scores before and after a map, with the resolution that it costs beside them.

    The samples must not be those that the map was fitted on (``split_halves``): given the map, the scores are
    then certificates as any others are.

    Args:
        recalibration: the map.
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of certified intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        confidence: (N,) confidences without an attack, in [0, 1].
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Returns:
        ``RecalibrationReport``.

    Raises:
        TypeError: ``recalibration`` is no map, or an argument no array of numbers.
        ValueError: no samples, shapes that differ, values that are NaN, unordered or outside [0, 1],
            or bad bins.

    Example:
        >>> sample = dict(correct=[1, 0], lower=[0.5, 0.1], upper=[0.9, 0.4], confidence=[0.7, 0.2])
        >>> report = recalibration_report(fit_isotonic([1, 0], [0.5, 0.1], [0.9, 0.4]), **sample)
        >>> report.before.certified_brier.__round__(3), report.after.certified_brier
        (0.205, 0.0)
    """
    if not isinstance(recalibration, RecalibrationMap):
        raise TypeError(
            f"recalibration: expected a RecalibrationMap, got {type(recalibration).__name__}"
        )
    right, low, high = _check.some_intervals(correct, lower, upper)
    points = _check.float_vector("confidence", confidence, right.size)
    before = Interval(low, high), points
    after = recalibration.image(low, high), recalibration(points)
    return report_of(recalibration.kind, right, before, after, Bins.of(bins, edges, closed))


def report_of(
    kind: str, right: NDArray[np.uint8], before: Stage, after: Stage, cells: Bins
) -> RecalibrationReport:
    """The report of samples before and after a map of some kind: their certified ends, and confidences without an attack."""
    scores = [_scores(right, *stage, cells) for stage in (before, after)]
    hits = int(np.count_nonzero(right))
    constant = constant_and_skill(hits, right.size, scores[0].certified_brier)[0]
    return RecalibrationReport(kind, right.size, hits / right.size, constant, *scores)


def _scores(
    right: NDArray[np.uint8], ends: Interval, points: NDArray[np.float64], cells: Bins
) -> RecalibrationScores:
    worst = certified_brier(right, *ends)
    return RecalibrationScores(
        certified_brier=worst.value,
        certified_ece=certified_ece(right, *ends, bins=cells).value,
        skill=worst.skill,
        certified_auroc=certified_auroc(right, *ends).value,
        brier=brier(right, points),
        ece=ece(right, points, bins=cells),
        auroc=auroc(right, points),
        resolution=resolution(right, points, bins=cells),
    )


def tradeoff_maps(
    correct: Any, lower: Any, upper: Any, confidence: Any, shares: Any, family: str = "objective"
) -> list[RecalibrationMap]:
    """A family of monotone maps from the best without an attack to the best under one.

    ``"objective"``: ``fit_tradeoff`` for each share s, the frontier of the two Brier scores.
    ``"identity"``: (1 - s) z + s g(z), with g the certified isotonic map; strictly increasing for s < 1, so
    the AUROC stays until s = 1. ``"constant"``: (1 - s) z + s accuracy, the naive way down.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right; the fitting half only.
        lower: (N,) lower ends of certified intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        confidence: (N,) confidences without an attack, in [0, 1].
        shares: (K,) numbers in [0, 1].
        family: ``"objective"``, ``"identity"`` or ``"constant"``.

    Returns:
        K maps, in the order of ``shares``.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, values that are NaN, unordered or outside [0, 1],
            or another family.

    Example:
        >>> sample = dict(correct=[1, 0], lower=[0.2, 0.1], upper=[0.9, 0.8], confidence=[0.7, 0.2])
        >>> [g.kind for g in tradeoff_maps(**sample, shares=[0.0, 1.0])]
        ['isotonic', 'constant']
    """
    _check.choice("family", family, ("objective", "identity", "constant"))
    values = _check.float_vector("shares", shares)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"shares: expected numbers from 0 to 1, got {_check.shown(shares)}")
    wanted = values.tolist()
    if family == "objective":
        return [fit_tradeoff(correct, lower, upper, confidence, share) for share in wanted]
    fit = fit_isotonic if family == "identity" else fit_constant
    end = fit(correct, lower, upper)
    return [MixtureMap(IdentityMap(), end, share) for share in wanted]


@dataclass(frozen=True, eq=False)
class ResolutionCurve:
    """Certified scores against what the confidences still tell, one entry a map.

    Arrays are (K,) float64 and read-only.

    Attributes:
        resolution: of the recalibrated confidences without an attack, over the bins of the ECE.
        auroc: of right against wrong, by recalibrated confidence.
        certified_brier: exact worst-case Brier score after recalibration.
        certified_ece: exact worst-case ECE after recalibration.
        brier: Brier score without an attack after recalibration.
        ece: ECE without an attack after recalibration.
        constant_brier: acc(1 - acc), the score of the constant confidence: the floor to beat.
    """

    resolution: NDArray[np.float64]
    auroc: NDArray[np.float64]
    certified_brier: NDArray[np.float64]
    certified_ece: NDArray[np.float64]
    brier: NDArray[np.float64]
    ece: NDArray[np.float64]
    constant_brier: float


def resolution_curve(
    maps: Sequence[RecalibrationMap],
    correct: Any,
    lower: Any,
    upper: Any,
    confidence: Any,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
) -> ResolutionCurve:
    """Certified Brier score and ECE against resolution, for a family of maps on held-out samples.

    Args:
        maps: K maps, as from ``tradeoff_maps`` on the fitting half.
        correct: (N,) booleans or 0/1, whether the prediction is right; the other half.
        lower: (N,) lower ends of certified intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        confidence: (N,) confidences without an attack, in [0, 1].
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Returns:
        ``ResolutionCurve``, in the order of ``maps``.

    Raises:
        TypeError: a map is none, or an argument is no array of numbers.
        ValueError: no maps, or what ``recalibration_report`` refuses.

    Example:
        >>> sample = dict(correct=[1, 0], lower=[0.2, 0.1], upper=[0.9, 0.8], confidence=[0.7, 0.2])
        >>> maps = tradeoff_maps(**sample, shares=[0.0, 1.0])
        >>> curve = resolution_curve(maps, **sample)
        >>> curve.resolution, curve.certified_brier
        (array([0.25, 0.  ]), array([1.  , 0.25]))
    """
    values = _check.items("maps", maps)
    if not values:
        raise ValueError("maps: expected at least one, got none")
    for each in values:
        if not isinstance(each, RecalibrationMap):
            raise TypeError(f"maps: expected RecalibrationMaps, got {type(each).__name__}")
    reports = [
        recalibration_report(each, correct, lower, upper, confidence, bins, edges, closed)
        for each in values
    ]
    names = ("resolution", "auroc", "certified_brier", "certified_ece", "brier", "ece")
    arrays = {name: np.array([getattr(r.after, name) for r in reports]) for name in names}
    for array in arrays.values():
        array.flags.writeable = False
    return ResolutionCurve(**arrays, constant_brier=reports[0].constant_brier)
