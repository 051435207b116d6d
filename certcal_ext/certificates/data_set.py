# SPDX-License-Identifier: MIT
"""Joint bounds on a metric of the data set as a whole, by one e-value: what certificates give to ``aggregate``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from certcal_ext.aggregate.bounds import (
    AggregateBound,
    aggregate_accuracy,
    aggregate_brier,
    aggregate_classwise,
    aggregate_ece,
    aggregate_ks,
    aggregate_log_loss,
    aggregate_selective_risk,
)
from certcal_ext.aggregate.setting import Setting
from certcal_ext.aggregate.votes import VoteHistogram
from certcal_ext.certificates.evidence import selected_by_estimation, vote_ends
from certcal_ext.certificates.samples import AllClasses, SampleSource, correct_rows
from certcal_ext.certificates.table import numbers
from certcal_ext.intervals.clopper_pearson import probit
from certcal_ext.metrics.base import Metric, Options

#: The bound of each metric of the top label.
_BOUNDS: dict[str, Callable[[Setting, Options], AggregateBound]] = {
    "brier": lambda setting, options: aggregate_brier(setting),
    "ece": lambda setting, options: aggregate_ece(
        setting, edges=options.bins.edges, closed=options.bins.closed
    ),
    "ks": lambda setting, options: aggregate_ks(setting),
    "log_loss": lambda setting, options: aggregate_log_loss(setting, options.clip),
    "selective_risk": lambda setting, options: aggregate_selective_risk(setting, options.threshold),
    "certified_accuracy": lambda setting, options: aggregate_accuracy(setting),
}


def has_bound(name: str) -> bool:
    """Whether there is such a bound on a metric of the top label."""
    return name in _BOUNDS


def aggregate_values(
    source: SampleSource,
    metric: Metric,
    radii: NDArray[np.float64],
    options: Options,
    delta: float,
) -> list[float]:
    """One bound a radius, which hold together: delta is shared equally over the radii.

    Theorem (docs/aggregate.md): the product of the rows' e-values has a mean of at most 1, so the sum
    of what the rows add is at most the sum of their tables and ln(1 / delta) / lambda, but with probability delta.

    Args:
        source: the samples, in a scope.
        metric: one that has such a bound.
        radii: (R,) l2 radii.
        options: how the metric is defined.
        delta: failure probability of all of them together.

    Returns:
        The bounds, rounded outward; nan where no sample is counted.

    Raises:
        ValueError: the metric has none, or the certificates do not hold what it needs.
    """
    _require_votes(source)
    share = delta / radii.size
    if isinstance(source, AllClasses):
        return [_of_classes(source, float(radius), options, share) for radius in radii]
    if not has_bound(metric.name):
        raise ValueError(
            f'joint: expected "binomial" or "union" for {metric.name}; "aggregate" has bounds on '
            f"{', '.join(_BOUNDS)} and classwise_ece"
        )
    if "clip" in metric.uses and options.clip.clip is None:
        raise ValueError(
            "clip: expected a number for the log loss of the data set as a whole, which is unbounded without"
        )
    votes = _histograms(source)
    return [
        _BOUNDS[metric.name](_setting(source, votes, float(radius), share), options).value
        for radius in radii
    ]


def _require_votes(source: SampleSource) -> None:
    """Raises unless each row holds votes of a class that other draws selected, of a number of draws fixed beforehand."""
    made = source.provenance
    reason = None
    if made.kind != "votes":
        reason = f"certificates of {made.kind} hold no votes of the class; take scores as votes, or certify by votes"
    elif made.stopping is not None:
        reason = "these samples stopped early, so that numbers of draws depend on votes"
    elif not isinstance(source, AllClasses) and selected_by_estimation(made):
        reason = (
            "the draws that would bound the votes selected the class too; split the counts with split= (--split), or "
            "certify with separate draws"
        )
    elif made.recalibration is not None:
        reason = "confidences go through a map here, which no draw of these may have fixed; take recalibrated(None)"
    elif source.among is not None:
        reason = "the samples compared were chosen by the draws of several models"
    elif (
        source.scope == "certified"
        and not isinstance(source, AllClasses)
        and source.guarantee.groups.margin is not None
    ):
        reason = (
            'the runner-up decides who is certified here, and not the votes alone; ask for all samples (scope="all"), or '
            "certify without runner_up"
        )
    if reason is not None:
        raise ValueError(f'joint: expected another method than "aggregate": {reason}')


def _histograms(source: SampleSource) -> list[VoteHistogram]:
    """The votes of the rows, one histogram for each number of draws."""
    votes, draws, index = (numbers(source.table, name) for name in ("votes", "n", "index"))
    correct = correct_rows(source.table)
    assert votes is not None  # the kind is "votes"
    assert draws is not None
    assert index is not None
    return [
        VoteHistogram.of(votes[rows], correct[rows], int(n), index[rows])
        for n in np.unique(draws)
        for rows in [draws == n]
    ]


def _setting(
    source: SampleSource, votes: list[VoteHistogram], radius: float, delta: float
) -> Setting:
    shift = source.guarantee.shift(radius)
    least = None
    if source.scope == "certified":
        alpha = source.provenance.alpha
        assert alpha is not None  # votes have one
        least = [fewest_votes(one.n, alpha, shift) for one in votes]
    return Setting(votes, shift, delta, source.scope, least)


def fewest_votes(n: int, alpha: float, shift: float) -> int:
    """The fewest of n votes with which a row is certified at radius / sigma = ``shift``; n + 1 where none is enough.

    It depends on n, alpha and the radius only, and not on what was drawn.
    """
    low, high = 0, n + 1
    while low < high:
        middle = (low + high) // 2
        ends = vote_ends(np.array([middle]), np.array([n]), alpha)
        if probit(ends.lower, ends.upper).lower[0] > shift:
            high = middle
        else:
            low = middle + 1
    return high


def _of_classes(source: AllClasses, radius: float, options: Options, delta: float) -> float:
    if source.scope != "all":
        raise ValueError(
            'scope: expected "all" for the class-wise error of the data set as a whole, got "certified"'
        )
    counts, labels, index = source.counts, source.labels, numbers(source.table, "index")
    n = int(counts[0].sum())
    votes = [VoteHistogram.of(counts[:, k], labels == k, n, index) for k in range(counts.shape[1])]
    shift, bins = source.guarantee.shift(radius), options.bins
    return aggregate_classwise(votes, shift, delta, edges=bins.edges, closed=bins.closed).value
