# SPDX-License-Identifier: MIT
"""What is asked of certificates: the set at a radius, and metrics over radii by the fused bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _threads
from certcal_ext._load import core
from certcal_ext._rounding import constant_and_skill
from certcal_ext.bins import Bins
from certcal_ext.intervals.clopper_pearson import Interval, probit
from certcal_ext.metrics.brier import brier as plain_brier_score
from certcal_ext.metrics.brier import certified_brier
from certcal_ext.metrics.ece import certified_ece, ece

#: Radii whose tables are in memory at the same time take at most about this many bytes.
_TABLE_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class CertifiedSet:
    """The samples whose prediction is certified at a radius.

    Arrays have one entry a certified sample and are read-only.

    Attributes:
        radius: l2 radius, in pixel units.
        index: (n,) int64 sample ids.
        correct: (n,) bool, or None where there are no labels.
        lower: (n,) float64, the confidence stays at or above it under every attack of that radius.
        upper: (n,) float64, and at or below it.
        confidence: (n,) float64 point estimates without an attack, or None where there are none.
        predicted: (n,) int64 predicted classes, or None where they are not known.
    """

    radius: float
    index: NDArray[np.int64]
    correct: NDArray[np.bool_] | None
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    confidence: NDArray[np.float64] | None
    predicted: NDArray[np.int64] | None

    def __len__(self) -> int:
        """Number of certified samples."""
        return int(self.index.size)


@dataclass(frozen=True, eq=False)
class Curve:
    """Metrics over the samples certified at each radius.

    All arrays are (R,) and read-only; ``certified`` and ``total`` are int64, the others float64.

    At a radius at which nothing is certified all metrics but ``certified_accuracy`` are nan.

    Attributes:
        radius: l2 radii, in pixel units.
        certified: number of samples certified at the radius.
        total: number of samples that were drawn for, abstained ones too.
        certified_accuracy: share of all samples that are right and certified.
        accuracy: share of the certified samples that are right.
        ece: plain ECE of the point estimates of the certified samples; nan where there are no
            estimates.
        certified_ece: exact worst-case ECE.
        brier: plain Brier score of the point estimates; nan where there are no estimates.
        certified_brier: exact worst-case Brier score.
        constant_brier: what a constant confidence equal to ``accuracy`` scores, acc(1 - acc); rounded down.
        skill: 1 - certified_brier / constant_brier, rounded down; the certificate says nothing unless it is
            above 0. nan where ``constant_brier`` is 0.
    """

    radius: NDArray[np.float64]
    certified: NDArray[np.int64]
    total: NDArray[np.int64]
    certified_accuracy: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    ece: NDArray[np.float64]
    certified_ece: NDArray[np.float64]
    brier: NDArray[np.float64]
    certified_brier: NDArray[np.float64]
    constant_brier: NDArray[np.float64]
    skill: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of radii."""
        return int(self.radius.size)


@dataclass(frozen=True, eq=False)
class Groups:
    """Samples that share interval and point estimate: the bound is evaluated once a group.

    Attributes:
        group: (N,) int64, the group of a sample.
        confidence: (G,) point estimates.
        probit_lower: (G,) lower ends in probit space, rounded down.
        probit_upper: (G,) upper ends in probit space, rounded up.
        margin: (N,) the radius in units of sigma below which a sample's prediction is certified; None where it is the
            lower end in probit space.
    """

    group: NDArray[np.int64]
    confidence: NDArray[np.float64]
    probit_lower: NDArray[np.float64]
    probit_upper: NDArray[np.float64]
    margin: NDArray[np.float64] | None = None

    def certified(self, shift: float) -> NDArray[np.bool_]:
        """(N,) bool: the samples whose prediction is certified at radius / sigma = ``shift``."""
        if self.margin is not None:
            return np.asarray(self.margin > shift)
        return np.asarray((self.probit_lower > shift)[self.group])


def _equal_keys(keys: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(G,) a row of each key, and (N,) the group of each row."""
    if keys.dtype.kind == "i" and keys.size and keys.min() >= 0 and keys.max() < 64 * keys.size:
        row_of = np.full(int(keys.max()) + 1, -1, np.int64)
        row_of[keys] = np.arange(keys.size)
        present = np.flatnonzero(row_of >= 0)
        first = row_of[present]
        row_of[present] = np.arange(present.size)  # now: the group of a key
        return first, row_of[keys]
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return first, group


def group_rows(
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    confidence: NDArray[np.float64],
    votes: NDArray[np.int64] | None = None,
    margin: NDArray[np.float64] | None = None,
) -> Groups:
    """Groups the rows that are equal in all three columns.

    Args:
        lower: (N,) lower ends of the unperturbed confidence.
        upper: (N,) upper ends.
        confidence: (N,) point estimates.
        votes: (N,) counts of which the columns are functions, if they are; rows are then grouped without a sort.
        margin: as in ``Groups``.

    Returns:
        ``Groups``.
    """
    first, group = _equal_keys(lower if votes is None else votes)
    if not all(
        np.array_equal(column[first][group], column) for column in (lower, upper, confidence)
    ):
        columns = np.stack((lower, upper, confidence), axis=1)
        _, first, group = np.unique(columns, axis=0, return_index=True, return_inverse=True)
    ends = probit(lower[first], upper[first])
    rows = np.ascontiguousarray(group.reshape(-1), dtype=np.int64)
    return Groups(rows, confidence[first], ends.lower, ends.upper, margin)


def prediction_margin(
    lower: NDArray[np.float64], runner_up: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """(N,) how far, in units of sigma, a prediction is certified; rounded down.

    Theorem (Cohen et al., ICML 2019): with pA at least ``lower`` and every other class at most pB, the prediction stays
    while the radius is below sigma / 2 (Phi^-1(lower) - Phi^-1(pB)). pB is at most 1 - lower, and at most ``runner_up``.

    Args:
        lower: (N,) lower ends of the class's probability.
        runner_up: (N,) upper ends of the next class's, or None.
    """
    own = probit(lower, np.ones_like(lower)).lower
    if runner_up is None:
        return own
    other = probit(np.zeros_like(runner_up), runner_up).upper
    with np.errstate(invalid="ignore"):  # inf - inf: neither says anything
        half = np.nextafter((own - other) / 2.0, -np.inf)
    return np.fmax(own, half)


def shifted_intervals(groups: Groups, chosen: NDArray[np.bool_], shift: float) -> Interval:
    """The intervals of the chosen samples under attack.

    Args:
        groups: the unperturbed intervals.
        chosen: (N,) which samples, n of them.
        shift: radius / sigma, rounded up.

    Returns:
        (n,) lower ends, rounded down, and (n,) upper ends, rounded up.
    """
    rows = groups.group[chosen]
    ends = Interval(np.empty(rows.size), np.empty(rows.size))
    core.shift_interval(
        groups.probit_lower[rows],
        groups.probit_upper[rows],
        shift,
        *ends,
        threads=_threads.num_threads(),
    )
    return ends


def smoothing_curve(
    groups: Groups,
    correct: NDArray[np.uint8],
    radii: NDArray[np.float64],
    shifts: NDArray[np.float64],
    cells: Bins,
) -> Curve:
    """The curve of a smoothed classifier: one fused pass over the samples for all radii.

    Args:
        groups: the intervals.
        correct: (N,) uint8, 1 where the prediction is right.
        radii: (R,) l2 radii.
        shifts: (R,) radius / sigma, rounded up.
        cells: the bins.

    Returns:
        ``Curve``.
    """
    bins, count, threads = len(cells), radii.size, _threads.num_threads()
    summary = np.zeros((count, 6))
    step = max(1, _TABLE_BYTES // (2 * bins * bins * 5 * 8))
    for begin in range(0, count, step):
        part = np.ascontiguousarray(shifts[begin : begin + step])
        tables = np.zeros((part.size, 2, bins, bins, 5), np.int64)
        clean = np.zeros((part.size, bins, 4), np.int64)
        brier = np.zeros((part.size, 4), np.int64)
        core.certify(
            groups.group,
            correct,
            groups.confidence,
            groups.probit_lower,
            groups.probit_upper,
            part,
            cells.edges,
            cells.closed_left,
            tables,
            clean,
            brier,
            threads=threads,
        )
        core.summarize(
            tables, clean, brier, cells.edges, summary[begin : begin + step], threads=threads
        )
    return _curve(radii, correct.size, summary)


def curve_of_sets(sets: list[CertifiedSet], total: int, cells: Bins) -> Curve:
    """The curve of any certificates, from the certified set of each radius.

    Args:
        sets: one a radius, with labels.
        total: number of samples that were drawn for.
        cells: the bins.

    Returns:
        ``Curve``.
    """
    summary = np.full((len(sets), 6), np.nan)
    for row, chosen in zip(summary, sets, strict=True):
        row[:2] = len(chosen), 0
        if not len(chosen):
            continue
        right, point = chosen.correct, chosen.confidence
        assert right is not None  # labels were asked for before
        row[1] = np.count_nonzero(right)
        if point is not None:
            row[2], row[4] = ece(right, point, cells), plain_brier_score(right, point)
        row[3] = certified_ece(right, chosen.lower, chosen.upper, cells).value
        row[5] = certified_brier(right, chosen.lower, chosen.upper).value
    return _curve(np.array([chosen.radius for chosen in sets]), total, summary)


def _curve(radii: NDArray[np.float64], total: int, summary: NDArray[np.float64]) -> Curve:
    """From (R, 6) columns: certified, right ones of these, plain and worst ECE, plain and worst Brier score."""
    certified, right = summary[:, 0].astype(np.int64), summary[:, 1]
    plain_ece, worst_ece, plain_brier, worst_brier = np.where(
        certified[:, None] > 0, summary[:, 2:], np.nan
    ).T.copy()
    accuracy = np.divide(right, certified, out=np.full(radii.size, np.nan), where=certified > 0)
    counts = zip(right.tolist(), certified.tolist(), worst_brier.tolist(), strict=True)
    yardstick = [constant_and_skill(int(hits), n, bound) for hits, n, bound in counts]
    constant, skill = np.array(yardstick, np.float64).reshape(-1, 2).T.copy()
    arrays: dict[str, NDArray[Any]] = {
        "radius": radii.copy(),
        "certified": certified,
        "total": np.full(radii.size, total, np.int64),
        "certified_accuracy": right / total,
        "accuracy": accuracy,
        "ece": plain_ece,
        "certified_ece": worst_ece,
        "brier": plain_brier,
        "certified_brier": worst_brier,
        "constant_brier": constant,
        "skill": skill,
    }
    for values in arrays.values():
        values.flags.writeable = False
    return Curve(**arrays)
