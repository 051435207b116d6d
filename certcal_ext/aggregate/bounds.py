# SPDX-License-Identifier: MIT
"""Metrics of a data set, bounded as a whole: by one e-value, not sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.aggregate.evidence import Evidence, Worst
from certcal_ext.aggregate.lattice import Cells
from certcal_ext.aggregate.search import Tree, largest_sum
from certcal_ext.aggregate.setting import Setting
from certcal_ext.aggregate.terms import BrierTerm, LogTerm, RightTerm, RiskTerm, Term
from certcal_ext.aggregate.trees import SignTree, ThresholdTree
from certcal_ext.aggregate.votes import VoteHistogram
from certcal_ext.bins import Bins
from certcal_ext.metrics.clip import Clip

Floats = NDArray[np.float64]

#: Steps of a search for the smallest rate that is proved: the answer is known to 2^-this.
_HALVINGS = 11
#: How close a search comes to the lowest bound that it could find, in the mean over all rows.
CLOSE = 1e-4
_CLASS_CLOSE = 3e-4


@dataclass(frozen=True)
class AggregateBound:
    """A bound on one metric of the data set at one radius.

    Attributes:
        value: the bound, rounded outward: an upper one, or for the accuracy a lower one; nan where no row is counted.
        rows: rows that the average is over; None where they are those certified in truth, whose number is not known.
        delta: its failure probability, over the draws of the whole data set.
        tables: bounds on sums that were made for it.
    """

    value: float
    rows: int | None
    delta: float
    tables: int


def aggregate_brier(setting: Setting) -> AggregateBound:
    """The Brier score, at most.

    Args:
        setting: votes, radius, scope and delta.

    Returns:
        ``AggregateBound``.

    Example:
        >>> votes = VoteHistogram.of(np.repeat([100, 97], 500), np.repeat([1, 0], 500), n=100)
        >>> bound = aggregate_brier(Setting([votes], shift=0.0, delta=1e-3, scope="all"))
        >>> 0.4 < bound.value < 0.5
        True
    """
    return _mean(setting, BrierTerm(), 1.0)


def aggregate_log_loss(setting: Setting, clip: float | Clip) -> AggregateBound:
    """The log loss of confidences reported in [clip, 1 - clip], at most.

    Args:
        setting: votes, radius, scope and delta.
        clip: above 0 and below 1/2; or a ``Clip``, which also names the format that a model reports in.

    Returns:
        ``AggregateBound``.
    """
    term = LogTerm(clip if isinstance(clip, Clip) and clip.clip is not None else Clip.of(clip))
    return _mean(setting, term, term.anything)


def aggregate_accuracy(setting: Setting) -> AggregateBound:
    """The share of all rows that stay right under every attack, at least.

    Args:
        setting: votes, radius and delta, in scope "all".

    Returns:
        ``AggregateBound``, whose value is a lower bound.
    """
    if setting.scope != "all":
        raise ValueError(f'scope: expected "all" for the accuracy, got {setting.scope!r}')
    term = RightTerm()

    def h(correct: bool, fine: Cells) -> Floats:
        return np.where(fine.certain, term.kept(correct, fine.lower, fine.upper), 0.0)

    evidence = setting.evidence
    total = _one_bound(evidence, h, setting.delta)
    rows = setting.rows or 1
    return AggregateBound(_down(max(0.0, -total), rows), rows, setting.delta, 1)


def aggregate_ece(
    setting: Setting,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
    close: float = CLOSE,
) -> AggregateBound:
    """The calibration error, at most.

    Every bin that a certified row can reach has a sign, and the ECE is the largest signed sum (theorem 1 of docs/theory.md).

    Args:
        setting: votes, radius, scope and delta.
        bins: number of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it.
        close: how much a bound may exceed, in the mean over all rows, the lowest one that a longer search could find.

    Returns:
        ``AggregateBound``.
    """
    asked = Bins.of(bins, edges, closed)
    return _largest(setting, lambda less: SignTree(setting, asked, less), close)


def aggregate_ks(setting: Setting) -> AggregateBound:
    """The Kolmogorov-Smirnov calibration error, at most.

    Args:
        setting: votes, radius, scope and delta.

    Returns:
        ``AggregateBound``.
    """
    return _largest(setting, lambda less: ThresholdTree(setting, less), CLOSE)


def aggregate_classwise(
    votes: Sequence[VoteHistogram],
    shift: float,
    delta: float,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
) -> AggregateBound:
    """The class-wise calibration error (1/K) sum_k ECE_k of all rows, at most.

    Args:
        votes: for each class k, of every row: its votes for k, and as correctness whether its label is k.
        shift: radius / sigma, rounded up.
        delta: failure probability; each class has the same share.
        bins: as ``aggregate_ece``.
        edges: as ``aggregate_ece``.
        closed: as ``aggregate_ece``.

    Returns:
        ``AggregateBound``.
    """
    risk = _check.failure_probability("delta", delta)
    found = [
        aggregate_ece(
            Setting([one], shift, risk / len(votes), "class"), bins, edges, closed, _CLASS_CLOSE
        )
        for one in votes
    ]
    if not found:
        raise ValueError("votes: expected a histogram for each class, got none")
    mean = math.fsum(one.value for one in found) / len(found) * (1.0 + 2.0**-50)
    return AggregateBound(min(1.0, mean), found[0].rows, risk, sum(one.tables for one in found))


def aggregate_selective_risk(setting: Setting, threshold: float) -> AggregateBound:
    """The share of wrong predictions among those accepted, at most; 0 where none is accepted.

    Args:
        setting: votes, radius, scope and delta.
        threshold: confidence from which a prediction is accepted.

    Returns:
        ``AggregateBound``.
    """
    accept = _check.real_number("threshold", threshold)
    if not 0 <= accept <= 1:
        raise ValueError(f"threshold: expected a confidence from 0 to 1, got {threshold}")
    return _one_sum(setting, lambda rate: setting.worst(RiskTerm(accept, rate)), 1.0)


def _mean(setting: Setting, term: Term, most: float) -> AggregateBound:
    """A mean of terms of at least 0."""
    if setting.scope == "robust":
        return _one_sum(setting, lambda rate: setting.worst(term, rate), most)
    rows = setting.rows
    if not rows:
        return AggregateBound(math.nan, 0, setting.delta, 0)
    h, evidence = setting.worst(term), setting.evidence
    total = _one_bound(evidence, h, setting.delta)
    return AggregateBound(_up(total, rows, most), rows, setting.delta, 1)


def _one_bound(evidence: Evidence, h: Worst, risk: float) -> float:
    """On the sum of one h."""
    return evidence.upper(h, risk, [evidence.weight(h, risk, leg) for leg in evidence.legs])


def _largest(setting: Setting, tree: Callable[[float], Tree], close: float) -> AggregateBound:
    """The largest sum over the leaves of a tree, as a mean over rows."""
    if setting.scope == "robust":
        evidence = setting.evidence

        def proved(rate: float, risk: float) -> tuple[bool, int]:
            found = largest_sum(tree(rate), evidence, risk, close * evidence.rows, enough=0.0)
            return found.total <= 0, found.made

        return _smallest_rate(setting, proved, 1.0)
    rows = setting.rows
    if not rows:
        return AggregateBound(math.nan, 0, setting.delta, 0)
    evidence = setting.evidence
    found = largest_sum(tree(0.0), evidence, setting.delta, close * evidence.rows)
    return AggregateBound(_up(found.total, rows, 1.0), rows, setting.delta, found.made)


def _one_sum(setting: Setting, worst_at: Callable[[float], Worst], most: float) -> AggregateBound:
    """The smallest rate whose sum of h is proved to be at most 0, where there is one sum for each rate."""
    evidence = setting.evidence

    def proved(rate: float, risk: float) -> tuple[bool, int]:
        h = worst_at(rate)
        return _one_bound(evidence, h, risk) <= 0, 1

    return _smallest_rate(setting, proved, most)


def _smallest_rate(
    setting: Setting, proved: Callable[[float, float], tuple[bool, int]], most: float
) -> AggregateBound:
    """The smallest rate that is proved, by halving an interval.

    Let t0 be the true rate, and let it not depend on the votes, as in the scopes "all" and "robust". Until the first
    proof at some t < t0, which is wrong, the interval holds t0 or has its lower end above t0; in the latter case no t <
    t0 is tried any more. In the former, each step is the one that t0 gives: down from t >= t0, up from t < t0. So a
    wrong answer needs a wrong proof at one of at most ``_HALVINGS`` rates that t0 fixes. Where the votes decide which
    rows are counted, t0 depends on them, and every rate that could be tried has its share.
    """
    if setting.rows == 0:
        return AggregateBound(math.nan, 0, setting.delta, 0)
    tried = 2**_HALVINGS - 1 if setting.scope == "certified" else _HALVINGS
    risk = setting.delta / tried
    low, high, made = 0.0, most, 0
    for _ in range(_HALVINGS):
        rate = (low + high) / 2
        holds, more = proved(rate, risk)
        made += more
        low, high = (low, rate) if holds else (rate, high)
    return AggregateBound(high, setting.rows, setting.delta, made)


def _up(total: float, rows: int, most: float) -> float:
    return min(most, max(0.0, math.nextafter(total / rows, math.inf)))


def _down(total: float, rows: int) -> float:
    return max(0.0, math.nextafter(total / rows, -math.inf))
