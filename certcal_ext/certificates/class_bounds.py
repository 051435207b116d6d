# SPDX-License-Identifier: MIT
"""The class-wise calibration error of a smoothed classifier: intervals for every class from the votes of all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check, _threads
from certcal_ext._load import core
from certcal_ext.certificates.bounds import MetricCurve, RowBounds, read_only
from certcal_ext.certificates.validity import failing_intervals
from certcal_ext.intervals.clopper_pearson import Interval, clopper_pearson, probit
from certcal_ext.metrics.classwise import certified_classwise_ece
from certcal_ext.metrics.plain import classwise_ece

Floats = NDArray[np.float64]


class ClassVotes:
    """Bounds on every class's probability, all of a row's together at alpha: each class's interval at alpha / K.

    Args:
        counts: (N, K) votes, rows of equal sum.
        alpha: failure probability of a row.
    """

    def __init__(self, counts: NDArray[np.int64], alpha: float) -> None:
        n = int(counts[0].sum())
        votes, which = np.unique(counts, return_inverse=True)
        self._which = which.reshape(counts.shape)
        self._probits = probit(*clopper_pearson(votes, n, alpha / counts.shape[1]))

    def at(self, shift: float, rows: NDArray[np.bool_]) -> Interval:
        """(n, K) ends under attacks of radius / sigma = ``shift``, of the chosen rows."""
        low, high = np.empty(self._probits.lower.size), np.empty(self._probits.upper.size)
        core.shift_interval(*self._probits, shift, low, high, threads=_threads.num_threads())
        chosen = self._which[rows]
        return Interval(low[chosen], high[chosen])


def classwise_curve(
    counts: NDArray[np.int64],
    labels: NDArray[np.int64],
    rows: list[RowBounds],
    shifts: Floats,
    alpha: float,
    scope: str,
    delta: float | None,
    joint: str,
    edges: Floats,
    closed: str,
) -> MetricCurve:
    """The curve; arguments are checked by ``Certificates.classwise``, which documents them.

    Which class a sample is of does not depend on its prediction, so uncertified samples need no special care.
    """
    total = len(counts)
    share = counts / int(counts[0].sum())
    risk = delta if delta is None or joint != "best" else delta / 2
    failures = union = None
    if risk is not None and joint != "union":
        failures = failing_intervals(total, alpha, risk)
    if risk is not None and joint != "binomial" and risk / counts.size >= _check.LEAST_ALPHA:
        union = ClassVotes(counts, risk / total)
    if risk is not None and failures is None and union is None:
        raise ValueError(
            f"delta: expected one that leaves each interval at least {_check.LEAST_ALPHA:g}"
        )
    votes = ClassVotes(counts, alpha)
    table = np.full((len(rows), 3), np.nan)
    samples, methods = [], []
    for at, known in enumerate(rows):
        chosen = known.certified if scope == "certified" else np.ones(total, np.bool_)
        truth = labels[chosen]
        samples.append(truth.size)
        methods.append("union" if failures is None else "binomial")
        if not truth.size:
            continue

        def worst(bounds: ClassVotes, at: int = at, chosen: NDArray[np.bool_] = chosen) -> float:
            low, high = bounds.at(float(shifts[at]), chosen)
            return certified_classwise_ece(
                labels[chosen], low, high, edges=edges, closed=closed
            ).value

        plain = classwise_ece(truth, share[chosen], edges=edges, closed=closed)
        table[at, :2] = plain, worst(votes)
        options = {}
        if failures is not None:  # a failed sample moves each class's error by at most 2 / n
            moved = table[at, 1] + 2.0 * failures / truth.size
            options["binomial"] = min(1.0, moved * (1.0 + 1e-15))
        if union is not None:
            options["union"] = worst(union)
        if options:
            methods[-1] = min(options, key=lambda name: options[name])
            table[at, 2] = options[methods[-1]]
    return MetricCurve(
        metric="classwise_ece",
        scope=scope,
        radius=read_only(np.array([known.radius for known in rows])),
        samples=read_only(np.array(samples, np.int64)),
        plain=read_only(table[:, 0].copy()),
        worst=read_only(table[:, 1].copy()),
        joint=None if delta is None else read_only(table[:, 2].copy()),
        delta=delta,
        failures=failures,
        method=None if delta is None else read_only(np.array(methods, np.str_)),
    )
