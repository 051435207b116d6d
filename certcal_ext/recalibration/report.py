# SPDX-License-Identifier: MIT
"""What a recalibration map gains and costs on samples it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from certcal_ext import _check
from certcal_ext._rounding import constant_and_skill
from certcal_ext.bins import Bins
from certcal_ext.metrics.brier import brier, certified_brier
from certcal_ext.metrics.ece import certified_ece, ece
from certcal_ext.recalibration.fit import fit_constant, fit_isotonic, fit_tradeoff
from certcal_ext.recalibration.maps import IdentityMap, MixtureMap, RecalibrationMap


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
    if np.ndim(index) == 0:
        ids = np.arange(_check.whole_number("index", index, 0), dtype=np.int64)
    else:
        ids = _check.int_vector("index", index)
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


def auroc(correct: Any, confidence: Any) -> float:
    """The chance that a right sample has a higher confidence than a wrong one; ties count half.

    A strictly increasing map does not change it; pooling does.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences, in [0, 1].

    Returns:
        The area under the ROC curve, 0.5 for a constant; nan where all or none are right.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, or confidences outside [0, 1].

    Source:
        Mann and Whitney, Annals of Mathematical Statistics 1947.

    Example:
        >>> auroc([1, 0, 1], [0.9, 0.5, 0.5])
        0.75
    """
    right, points, _ = _check.some_intervals(correct, confidence, confidence)
    _check.require_ordered(points, points)
    good = int(np.count_nonzero(right))
    if good in (0, right.size):
        return float("nan")
    ranks = float(rankdata(points)[right == 1].sum())
    return (ranks - good * (good + 1) / 2) / (good * (right.size - good))


def certified_auroc(correct: Any, lower: Any, upper: Any) -> float:
    """The exact lowest AUROC that confidences inside the intervals can have.

    Theorem (this project): every pair of a right and a wrong sample is ordered worst with the right one at
    its lower and the wrong one at its upper end, and these ends are the worst for all pairs at once.
    Below 0.5 an attack can turn the order around. Strictly increasing maps do not change it.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of certified intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.

    Returns:
        The AUROC of the worst-case points; nan where all or none are right.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, or bounds that are NaN, unordered or outside [0,
            1].

    Example:
        >>> certified_auroc([1, 0, 0], lower=[0.5, 0.1, 0.2], upper=[0.9, 0.4, 0.6])
        0.5
    """
    right, low, high = _check.some_intervals(correct, lower, upper)
    _check.require_ordered(low, high)
    return auroc(right, np.where(right == 1, low, high))


def resolution(
    correct: Any, confidence: Any, bins: int = 15, edges: Any = None, closed: str = "right"
) -> float:
    """The resolution of the Brier score: sum_m (n_m / N) (acc_m - acc)^2 over the bins of the ECE.

    It says how far the confidences tell right from wrong: 0 for a constant, at most acc(1 - acc). With the
    reliability, sum_m (n_m / N) (acc_m - conf_m)^2, the Brier score is reliability - resolution + acc(1 -
    acc), up to how confidences vary inside a bin.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences, in [0, 1].
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Returns:
        The resolution.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, confidences outside [0, 1], or bad bins.

    Source:
        Murphy, Journal of Applied Meteorology 1973.

    Example:
        >>> resolution([1, 0], [1.0, 0.25]), resolution([1, 0], [0.5, 0.5])
        (0.25, 0.0)
    """
    right, points, _ = _check.some_intervals(correct, confidence, confidence)
    _check.require_ordered(points, points)
    cells = Bins.of(bins, edges, closed)
    at = cells.index(points)
    count = np.bincount(at, minlength=len(cells))
    good = np.bincount(at[right == 1], minlength=len(cells))
    held = count > 0
    gap = good[held] / count[held] - good.sum() / right.size
    return float((count[held] * gap**2).sum() / right.size)


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
    binning = {"bins": bins, "edges": edges, "closed": closed}
    before = _scores(right, low, high, points, binning)
    after = _scores(right, *recalibration.image(low, high), recalibration(points), binning)
    hits = int(np.count_nonzero(right))
    constant = constant_and_skill(hits, right.size, before.certified_brier)[0]
    return RecalibrationReport(
        recalibration.kind, right.size, hits / right.size, constant, before, after
    )


def _scores(
    right: NDArray[np.uint8],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    points: NDArray[np.float64],
    binning: dict[str, Any],
) -> RecalibrationScores:
    worst = certified_brier(right, low, high)
    return RecalibrationScores(
        certified_brier=worst.value,
        certified_ece=certified_ece(right, low, high, **binning).value,
        skill=worst.skill,
        certified_auroc=certified_auroc(right, low, high),
        brier=brier(right, points),
        ece=ece(right, points, **binning),
        auroc=auroc(right, points),
        resolution=resolution(right, points, **binning),
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
    wanted = _check.float_vector("shares", shares).tolist()
    if family == "objective":
        return [fit_tradeoff(correct, lower, upper, confidence, share) for share in wanted]
    fits = {"identity": fit_isotonic, "constant": fit_constant}
    if family not in fits:
        raise ValueError(f'family: expected "objective", "identity" or "constant", got {family!r}')
    end = fits[family](correct, lower, upper)
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
    if not len(maps):
        raise ValueError("maps: expected at least one, got none")
    reports = [
        recalibration_report(each, correct, lower, upper, confidence, bins, edges, closed)
        for each in maps
    ]
    names = ("resolution", "auroc", "certified_brier", "certified_ece", "brier", "ece")
    arrays = {name: np.array([getattr(r.after, name) for r in reports]) for name in names}
    for values in arrays.values():
        values.flags.writeable = False
    return ResolutionCurve(**arrays, constant_brier=reports[0].constant_brier)
