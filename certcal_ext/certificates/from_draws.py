# SPDX-License-Identifier: MIT
"""Certificates from draws: votes of all classes or of one, softmax scores, a run that stopped early.

Each function is the class method ``Certificates.from_...`` of its name, and returns the two ``Parts`` that the class
method puts together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.certificates.evidence import (
    LABELS_CHOSE,
    SHARED_DRAWS,
    SHARED_MEANING,
    Ends,
    runner_up_votes,
    score_ends,
    vote_ends,
)
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.selection import split_counts
from certcal_ext.certificates.stored_votes import counts_matrix
from certcal_ext.certificates.table import build
from certcal_ext.intervals.clopper_pearson import MAX_DRAWS

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from certcal_ext.stopping.adaptive import AdaptiveResult

#: The table of certificates, and where its numbers come from.
Parts = tuple[pa.Table, Provenance]

#: The failure probability of an interval where nobody says another.
DEFAULT_ALPHA = 1e-3

#: How scores are bounded.
SCORE_INTERVALS = ("hoeffding", "bernstein", "betting", "cdf")


class CountOptions(TypedDict, total=False):
    """What may be said of counts by name; see ``counts``."""

    index: Any
    runner_up: bool
    keep_counts: bool
    split: int | None
    seed: int


class ScoreOptions(TypedDict, total=False):
    """What may be said of scores by name; see ``scores``."""

    interval: str
    index: Any
    num_classes: int | None


def counts(
    counts: Any,
    labels: Any,
    sigma: float,
    alpha: float = DEFAULT_ALPHA,
    selection: Any = None,
    **options: Unpack[CountOptions],
) -> Parts:
    """Certificates from votes of a classifier under Gaussian noise.

    With ``selection`` or ``split``, each row's interval holds with probability at least 1 - alpha. With neither, a row is
    certified and wrong with probability at most 3/2 alpha, and the intervals of rows that are not certified may miss more
    often (docs/theory.md, section 7); joint bounds account for both.

    Args:
        counts: (N, K) whole numbers, votes of the estimation draws; rows of equal sum. With ``split``, of all draws.
        labels: (N,) classes, or None: intervals and predictions are certified, and metrics are not available.
        sigma: standard deviation of the noise, in pixel units.
        alpha: failure probability of one interval, both sides together.
        selection: (N,) classes chosen by separate draws. None chooses the class with most votes (the lowest of equals) in
            ``counts`` themselves, which the provenance then notes, or in the draws of ``split``.
        **options: ``index``: (N,) sample ids; without, the rows are numbered. ``runner_up``: True also bounds the most
            probable other class from above, and certifies the prediction by pA against pB where that is better than pA
            against 1 - pA; it takes a tenth of alpha, and where ``selection`` is None also a union over the classes.
            ``keep_counts``: True keeps the votes of all classes, for class-wise metrics. ``split``: so many of each row's
            draws, taken at random, select the class, and only the others estimate it (see ``split_counts``): the way to
            intervals that all hold, where one set of draws is all there is; 100 is a usual number. ``seed``: of that
            choice (0); fix it before you look at the result.

    Returns:
        ``Certificates``.

    Raises:
        TypeError: an argument of the wrong kind, or an option that there is not.
        ValueError: unequal row sums, fewer than two classes, no samples, both ``selection`` and ``split``, or a value out
            of range.

    Warns:
        UserWarning: more samples abstain than are certified; the best radius for this n and alpha is named.
    """
    _check.options("from_counts", options, CountOptions)
    return of_matrix(counts_matrix("counts", counts), labels, sigma, alpha, selection, options)


def of_matrix(
    matrix: NDArray[np.int64],
    labels: Any,
    sigma: float,
    alpha: float,
    selection: Any,
    options: CountOptions,
) -> Parts:
    """``counts`` of a checked matrix, whose rows may have sums of their own."""
    split = options.get("split")
    notes: tuple[str, ...] = (SHARED_DRAWS, SHARED_MEANING) if selection is None else ()
    if split is not None:
        if selection is not None:
            raise ValueError("split: expected None where selection is given, as it selects too")
        seed = options.get("seed", 0)
        selection, matrix = split_counts(matrix, split, seed)
        notes = (
            f"the class was selected by {split} of each row's given draws, taken at random (seed {seed}), and estimated by "
            "the others",
        )
    rows, classes = matrix.shape
    scale = _check.positive_number("sigma", sigma)
    level = _check.failure_probability("alpha", alpha)
    runner_up = _check.flag("runner_up", options.get("runner_up", False))
    keep = _check.flag("keep_counts", options.get("keep_counts", False)) or runner_up
    most = matrix.argmax(axis=1) if selection is None else selection
    predicted = class_vector("selection", most, rows, classes)
    votes, draws = matrix[np.arange(rows), predicted], matrix.sum(axis=1)
    ends = vote_ends(
        votes,
        draws,
        level,
        runner_up=runner_up_votes(matrix, predicted) if runner_up else None,
        others=classes - 1,
        classes=classes if selection is None else 1,
    )
    columns = {
        **row_columns(labels, predicted, ends, options.get("index"), classes),
        "votes": votes,
        "n": draws,
        "confidence": votes / draws,
        "counts": matrix if keep else None,
    }
    provenance = Provenance(
        kind="votes",
        sigma=scale,
        alpha=level,
        n0=split,
        n=int(draws.max()),
        num_classes=classes,
        interval="clopper-pearson",
        notes=notes,
    )
    return build(columns, rows), provenance


def votes(
    votes: Any,
    n: Any,
    predicted: Any,
    labels: Any,
    sigma: float,
    alpha: float = DEFAULT_ALPHA,
    *,
    index: Any = None,
) -> Parts:
    """Certificates from votes of each sample's own class, selected by separate draws.

    Args:
        votes: (N,) whole numbers, votes of the predicted class among the estimation draws.
        n: (N,) draws of each sample, or one number for all.
        predicted: (N,) classes chosen by separate draws.
        labels: (N,) classes, or None.
        sigma: standard deviation of the noise, in pixel units.
        alpha: failure probability of one interval, both sides together.
        index: (N,) sample ids; None numbers the rows.

    Returns:
        ``Certificates``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no samples, more votes than draws, or a value out of range.

    Warns:
        UserWarning: more samples abstain than are certified.

    Example:
        >>> from certcal_ext import Certificates
        >>> made = Certificates.from_votes([990, 4000], [1000, 4001], [0, 1], [0, 0], 0.25)
        >>> made.at(0.25).index
        array([0, 1])
    """
    won = _check.int_vector("votes", votes)
    rows = won.size
    draws = _draws(n, rows)
    _require_votes(won, draws)
    scale = _check.positive_number("sigma", sigma)
    level = _check.failure_probability("alpha", alpha)
    classes = class_vector("predicted", predicted, rows)
    columns = {
        **row_columns(labels, classes, vote_ends(won, draws, level), index),
        "votes": won,
        "n": draws,
        "confidence": won / draws,
    }
    most = int(draws.max())
    provenance = Provenance("votes", sigma=scale, alpha=level, n=most, interval="clopper-pearson")
    return build(columns, rows), provenance


def adaptive(
    result: AdaptiveResult, predicted: Any, labels: Any = None, *, index: Any = None
) -> Parts:
    """Certificates of a run that stopped samples early (see ``run_adaptive``).

    Args:
        result: the run.
        predicted: (N,) classes selected by draws that the run did not use.
        labels: (N,) classes, those that the run's ``correct`` came from; None where it had none.
        index: (N,) sample ids; None numbers the rows.

    Returns:
        ``Certificates``, which keep the rules of stopping. Where the run knew the labels, metrics over certified samples
        are to be had at the radii that it was planned for, and over all samples at any.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that differ, or labels that are not the run's.

    Warns:
        UserWarning: more samples abstain than are certified.
    """
    _check.like("result", result, "AdaptiveResult", "votes", "stopping")
    rows = result.votes.size
    ends = Ends(result.lower, result.upper)
    columns = row_columns(labels, class_vector("predicted", predicted, rows), ends, index)
    expected = "labels: expected the ones that the run knew"
    if labels is None and result.correct is not None:
        raise ValueError(f"{expected}, got None")
    if labels is not None and (
        result.correct is None or not np.array_equal(result.correct != 0, columns["correct"])
    ):
        raise ValueError(f"{expected}, as its intervals depend on them")
    draws = np.maximum(result.n, 1)
    columns |= {
        "votes": result.votes,
        "n": draws,
        "confidence": result.votes / draws,
        "look": result.look,
        "planning_votes": result.planning_votes,
        "planning_draws": result.draws_seen - result.n,
    }
    rules = result.stopping
    provenance = Provenance(
        kind="votes",
        sigma=result.sigma,
        alpha=result.alpha,
        n=int(draws.max()),
        interval="clopper-pearson" if rules.method == "staged" else "sequence",
        stopping=rules.to_json(),
        notes=_planning_notes(result),
    )
    return build(columns, rows), provenance


def _planning_notes(result: AdaptiveResult) -> tuple[str, ...]:
    notes: tuple[str, ...] = () if result.correct is None else (LABELS_CHOSE,)
    stretched = result.plans[-1].tolerance_factor if result.plans else 1.0
    if stretched > 1.01:  # the program solves to less than that
        notes += (
            f"max_draws was too few for the tolerance of {result.stopping.tolerance!r}: the plan allowed {stretched:.3g} "
            "times as much",
        )
    return notes


def scores(
    histogram: Any,
    mean: Any,
    votes: Any,
    predicted: Any,
    labels: Any,
    sigma: float,
    alpha: float = DEFAULT_ALPHA,
    **options: Unpack[ScoreOptions],
) -> Parts:
    """Certificates whose confidence is the mean softmax score of the predicted class.

    The prediction is certified by the votes of the same draws. Half of alpha goes to the one-sided bound on the votes,
    half to the scores.

    Args:
        histogram: (N, J) whole numbers, scores in J equal bins of [0, 1]; rows of equal sum n.
        mean: (N,) means of the scores.
        votes: (N,) votes of the predicted class.
        predicted: (N,) classes chosen by separate draws.
        labels: (N,) classes, or None.
        sigma: standard deviation of the noise, in pixel units.
        alpha: failure probability of one sample's bounds together.
        **options: ``interval``: "cdf" (a band for the distribution of the scores, shifted threshold by threshold; where
            nothing is said), or an interval for the mean alone: "betting", "bernstein", "hoeffding". ``index``: (N,) sample
            ids; without, the rows are numbered. ``num_classes``: K where the scores are those of ``score_histogram``: bounds
            are then widened by what its softmax is off by, 2^-20 + K 2^-33; without, the scores are taken as they are.

    Returns:
        ``Certificates``.

    Raises:
        TypeError: an argument of the wrong kind, or an option that there is not.
        ValueError: no samples, shapes or sums that differ, or a value out of range.

    Warns:
        UserWarning: more samples abstain than are certified.
    """
    _check.options("from_scores", options, ScoreOptions)
    bins = counts_matrix("histogram", histogram)
    rows, n = bins.shape[0], int(bins[0].sum())
    won = _check.int_vector("votes", votes, rows)
    draws = np.full(rows, n)
    _require_votes(won, draws)
    scale = _check.positive_number("sigma", sigma)
    level = _check.failure_probability("alpha", alpha)
    num_classes = options.get("num_classes")
    if num_classes is not None:
        _check.whole_number("num_classes", num_classes, 2)
    classes = class_vector("predicted", predicted, rows, num_classes)
    point = _means(mean, bins)
    interval = _check.choice("interval", options.get("interval", "cdf"), SCORE_INTERVALS)
    ends = score_ends(bins, point, won, draws, level, interval, num_classes)
    columns = {
        **row_columns(labels, classes, ends, options.get("index")),
        "votes": won,
        "n": draws,
        "confidence": point,
        "scores": bins,
    }
    provenance = Provenance(
        kind="scores",
        sigma=scale,
        alpha=level,
        n=n,
        interval=interval,
        num_classes=num_classes,
    )
    return build(columns, rows), provenance


def row_columns(
    labels: Any,
    predicted: NDArray[np.int64],
    ends: Ends,
    index: Any,
    classes: int | None = None,
) -> dict[str, Any]:
    """The columns that do not depend on what was drawn; there are ``classes`` classes, where that is known."""
    rows = predicted.size
    truth = None if labels is None else class_vector("labels", labels, rows, classes)
    return {
        "index": row_ids(index, rows),
        "label": truth,
        "predicted": predicted,
        "correct": None if truth is None else truth == predicted,
        "p_lower": ends.lower,
        "p_upper": ends.upper,
        "prediction_lower": ends.prediction_lower,
        "runner_up_upper": ends.runner_up_upper,
    }


def row_ids(index: Any, rows: int) -> NDArray[np.int64]:
    """(N,) sample ids; None numbers the rows."""
    return np.arange(rows) if index is None else _check.int_vector("index", index, rows)


def class_vector(name: str, value: Any, rows: int, classes: int | None = None) -> NDArray[np.int64]:
    """(N,) classes of at least 0, and below ``classes`` where that is known."""
    result = _check.int_vector(name, value, rows)
    good = (result >= 0) & (result < (np.iinfo(np.int64).max if classes is None else classes))
    if not good.all():
        row = int(np.argmin(good))
        limit = "of at least 0" if classes is None else f"from 0 to {classes - 1}"
        raise ValueError(f"{name}: expected classes {limit}, got {result[row]} in row {row}")
    return result


def _draws(value: Any, rows: int) -> NDArray[np.int64]:
    given = _check.array("n", value)
    draws = _check.int_vector("n", np.full(rows, given) if given.ndim == 0 else given, rows)
    if rows and not bool(((draws >= 1) & (draws <= MAX_DRAWS)).all()):
        raise ValueError(
            f"n: expected draws from 1 to {MAX_DRAWS}, got {draws.min()} to {draws.max()}"
        )
    return draws


def _require_votes(votes: NDArray[np.int64], draws: NDArray[np.int64]) -> None:
    if not votes.size:
        raise ValueError("votes: expected at least one sample, got none")
    bad = (votes < 0) | (votes > draws)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"votes: expected 0 to n = {draws[row]} votes, got {votes[row]} in row {row}"
        )


def _means(mean: Any, scores: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) means that the histograms allow."""
    point = _check.float_vector("mean", mean, scores.shape[0])
    bins, draws = scores.shape[1], int(scores[0].sum())
    least = scores @ (np.arange(bins) / bins) / draws
    good = (point >= least - 1e-9) & (point <= least + 1.0 / bins + 1e-9)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"mean: expected {least[row]:.6g} to {least[row] + 1 / bins:.6g} in row {row}, as the "
            f"histogram says, got {point[row]}"
        )
    return np.clip(point, 0.0, 1.0)
