# SPDX-License-Identifier: MIT
"""Table and provenance of certificates from votes, a certification log, another verifier."""

from __future__ import annotations

import dataclasses
import os
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.certificates.evidence import (
    SHARED_DRAWS,
    SHARED_MEANING,
    TOLD_LABELS,
    Ends,
    runner_up_votes,
    score_ends,
    vote_ends,
)
from certcal_ext.certificates.logs import CohenLog, settings_note, votes_of_radius
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.readers import read_cohen_log
from certcal_ext.certificates.selection import split_counts
from certcal_ext.certificates.stored_votes import VoteCounts, counts_matrix
from certcal_ext.certificates.table import build
from certcal_ext.intervals.clopper_pearson import MAX_DRAWS

#: The failure probability of an interval where nobody says another.
DEFAULT_ALPHA = 1e-3

_LOG_POINT = "confidence: the middle of the counts that the printed radius can stand for"

if TYPE_CHECKING:
    from certcal_ext.stopping.adaptive import AdaptiveResult


def of_counts(
    counts: Any,
    labels: Any,
    sigma: float,
    alpha: float,
    selection: Any,
    index: Any,
    runner_up: bool,
    keep_counts: bool,
    split: int | None,
    seed: int,
    own_sums: bool = False,
) -> tuple[pa.Table, Provenance]:
    """The rows of ``Certificates.from_counts``, which documents arguments and errors."""
    matrix = counts_matrix("counts", counts, own_sums=own_sums)
    notes: tuple[str, ...] = (SHARED_DRAWS, SHARED_MEANING) if selection is None else ()
    if split is not None:
        if selection is not None:
            raise ValueError("split: expected None where selection is given, as it selects too")
        selection, matrix = split_counts(matrix, split, seed)
        notes = (
            f"the class was selected by {split} of each row's given draws, taken at random (seed {seed}), and estimated by "
            "the others",
        )
    rows, classes = matrix.shape
    scale = _check.positive_number("sigma", sigma)
    risk = _check.failure_probability("alpha", alpha)
    _check.flag("runner_up", runner_up)
    _check.flag("keep_counts", keep_counts)
    chosen = matrix.argmax(axis=1) if selection is None else selection
    predicted = _classes("selection", chosen, rows, classes)
    won = matrix[np.arange(rows), predicted]
    every = matrix.sum(axis=1)
    ends = vote_ends(
        won,
        every,
        risk,
        runner_up=runner_up_votes(matrix, predicted) if runner_up else None,
        others=classes - 1,
        classes=classes if selection is None else 1,
    )
    columns = {
        **_columns(labels, predicted, classes, index, ends),
        "votes": won,
        "n": every,
        "confidence": won / every,
        "counts": matrix if keep_counts or runner_up else None,
    }
    provenance = Provenance(
        kind="votes",
        sigma=scale,
        alpha=risk,
        n0=split,
        n=int(every.max()),
        num_classes=classes,
        interval="clopper-pearson",
        notes=notes,
    )
    return build(columns, rows), provenance


def of_votes(
    votes: Any,
    draws: Any,
    predicted: Any,
    labels: Any,
    sigma: float,
    alpha: float,
    index: Any,
) -> tuple[pa.Table, Provenance]:
    """The rows of ``Certificates.from_votes``, which documents arguments and errors."""
    won = _check.int_vector("votes", votes)
    rows = won.size
    each = _draws(draws, rows)
    _require_votes(won, each)
    scale = _check.positive_number("sigma", sigma)
    risk = _check.failure_probability("alpha", alpha)
    chosen = _classes("predicted", predicted, rows, None)
    columns = {
        **_columns(labels, chosen, None, index, vote_ends(won, each, risk)),
        "votes": won,
        "n": each,
        "confidence": won / each,
    }
    provenance = Provenance(
        kind="votes", sigma=scale, alpha=risk, n=int(each.max()), interval="clopper-pearson"
    )
    return build(columns, rows), provenance


def of_adaptive(
    result: AdaptiveResult, predicted: Any, labels: Any, index: Any
) -> tuple[pa.Table, Provenance]:
    """The rows of ``Certificates.from_adaptive``, which documents arguments and errors."""
    _check.like("result", result, "AdaptiveResult", "votes", "stopping")
    rows = result.votes.size
    chosen = _classes("predicted", predicted, rows, None)
    ends = Ends(result.lower, result.upper)
    columns = _columns(labels, chosen, None, index, ends)
    if labels is not None:
        told = result.correct
        if told is None or not np.array_equal(told != 0, columns["correct"]):
            raise ValueError(
                "labels: expected the ones that the run was told of, as its intervals depend on them"
            )
    elif result.correct is not None:
        raise ValueError("labels: expected the ones that the run was told of, got None")
    drawn = np.maximum(result.n, 1)
    columns |= {
        "votes": result.votes,
        "n": drawn,
        "confidence": result.votes / drawn,
        "look": result.look,
        "planning_votes": result.planning_votes,
        "planning_draws": result.draws_seen - result.n,
    }
    rules = result.stopping
    staged = rules.method == "staged"
    provenance = Provenance(
        kind="votes",
        sigma=result.sigma,
        alpha=result.alpha,
        n=int(drawn.max()),
        interval="clopper-pearson" if staged else "sequence",
        stopping=rules.to_json(),
        notes=_planning_notes(result),
    )
    return build(columns, rows), provenance


def _planning_notes(result: AdaptiveResult) -> tuple[str, ...]:
    notes: tuple[str, ...] = () if result.correct is None else (TOLD_LABELS,)
    stretched = result.plans[-1].tolerance_factor if result.plans else 1.0
    if stretched > 1.01:  # the program solves to less than that
        notes += (
            f"max_draws was too few for the tolerance of {result.stopping.tolerance!r}: the plan allowed {stretched:.3g} "
            "times as much",
        )
    return notes


def of_scores(
    histogram: Any,
    mean: Any,
    votes: Any,
    predicted: Any,
    labels: Any,
    sigma: float,
    alpha: float,
    interval: str,
    index: Any,
    num_classes: int | None = None,
) -> tuple[pa.Table, Provenance]:
    """The rows of ``Certificates.from_scores``, which documents arguments and errors."""
    scores = counts_matrix("histogram", histogram)
    rows, draws = scores.shape[0], int(scores[0].sum())
    won = _check.int_vector("votes", votes, rows)
    every = np.full(rows, draws)
    _require_votes(won, every)
    scale = _check.positive_number("sigma", sigma)
    risk = _check.failure_probability("alpha", alpha)
    if num_classes is not None:
        _check.whole_number("num_classes", num_classes, 2)
    chosen = _classes("predicted", predicted, rows, num_classes)
    point = _means(mean, scores)
    _check.choice("interval", interval, ("hoeffding", "bernstein", "betting", "cdf"))
    ends = score_ends(scores, point, won, every, risk, interval, num_classes)
    columns = {
        **_columns(labels, chosen, None, index, ends),
        "votes": won,
        "n": every,
        "confidence": point,
        "scores": scores,
    }
    provenance = Provenance(
        kind="scores",
        sigma=scale,
        alpha=risk,
        n=draws,
        interval=interval,
        num_classes=num_classes,
    )
    return build(columns, rows), provenance


def _columns(
    labels: Any, predicted: NDArray[np.int64], classes: int | None, index: Any, ends: Ends
) -> dict[str, Any]:
    """The columns that do not depend on what was drawn."""
    rows = predicted.size
    known = None if labels is None else _classes("labels", labels, rows, classes)
    return {
        "index": np.arange(rows) if index is None else _check.int_vector("index", index, rows),
        "label": known,
        "predicted": predicted,
        "correct": None if known is None else known == predicted,
        "p_lower": ends.lower,
        "p_upper": ends.upper,
        "prediction_lower": ends.prediction_lower,
        "runner_up_upper": ends.runner_up_upper,
    }


def _draws(value: Any, rows: int) -> NDArray[np.int64]:
    given = _check.array("n", value)
    each = _check.int_vector("n", np.full(rows, given) if given.ndim == 0 else given, rows)
    if rows and not bool(((each >= 1) & (each <= MAX_DRAWS)).all()):
        raise ValueError(
            f"n: expected draws from 1 to {MAX_DRAWS}, got {each.min()} to {each.max()}"
        )
    return each


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


def of_cohen_log(
    path: str | PathLike[str], sigma: float | None, n: int | None, alpha: float | None
) -> tuple[pa.Table, Provenance]:
    """The rows of ``Certificates.from_cohen_log``, which documents arguments and errors."""
    return of_log(read_cohen_log(path), path, sigma, n, alpha)


def of_log(
    log: CohenLog,
    path: str | PathLike[str],
    sigma: float | None,
    n: int | None,
    alpha: float | None,
) -> tuple[pa.Table, Provenance]:
    """The rows of a log that was read."""
    scale = _check.positive_number("sigma", _setting("sigma", log.sigma, sigma, path))
    said = (
        None if alpha is None and log.alpha is None else _setting("alpha", log.alpha, alpha, path)
    )
    risk = _check.failure_probability("alpha", DEFAULT_ALPHA if said is None else said)
    if n is not None:
        _check.whole_number("n", n, 1, MAX_DRAWS)
    each = log.n if log.n is not None else np.full(len(log.index), _setting("n", None, n, path))
    notes: tuple[str, ...] = log.notes
    if log.n is not None:
        ours = f"n: each row's own, {each.min()} to {each.max()}, as the log says"
        notes += (ours if n is None else f"{ours}, in place of {n}",)
    try:
        low, high = _possible_votes(log, scale, each, risk)
        if each.min() == each.max():
            unchecked = settings_note(log, scale, int(each[0]), risk)
            notes += () if unchecked is None else (unchecked,)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    decided = log.predicted != -1
    columns = {
        "index": log.index,
        "label": log.label,
        "predicted": log.predicted,
        "correct": log.predicted == log.label,
        "votes": None,
        "n": each,
        "confidence": np.ma.array((low + high) / 2 / each, mask=~decided),
        "p_lower": np.where(decided, vote_ends(low, each, risk).lower, 0.0),
        "p_upper": np.where(decided, vote_ends(high, each, risk).upper, 1.0),
    }
    provenance = Provenance(
        kind="log",
        sigma=scale,
        alpha=risk,
        n=int(each.max()),
        source=os.fspath(path),
        notes=(_LOG_POINT, *notes),
    )
    return build(columns, len(decided)), provenance


def _possible_votes(
    log: CohenLog, sigma: float, n: NDArray[np.int64], alpha: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) least and largest votes behind each radius; all that there can be where the log abstained."""
    rows, where = np.unique(np.stack([log.radius, log.half_width, n]), axis=1, return_inverse=True)
    least, largest = votes_of_radius(rows[0], rows[1], sigma, rows[2].astype(np.int64), alpha)
    least, largest = least[where.reshape(-1)], largest[where.reshape(-1)]
    decided = log.predicted != -1
    impossible = decided & (least > largest)
    if impossible.any():
        row = int(np.argmax(impossible))
        raise ValueError(
            f"row {row} (idx {log.index[row]}): no count of n = {n[row]} votes gives the radius {log.radius[row]} "
            f"at sigma = {sigma} and alpha = {alpha}; are these the log's?"
        )
    return np.where(decided, least, 0), np.where(decided, largest, n)


def _setting(name: str, own: float | None, given: float | None, path: str | PathLike[str]) -> Any:
    """What a log or the caller says, which must not differ."""
    if own is None and given is None:
        raise ValueError(
            f"{path}: a certification log does not say its {name}; give it with --{name} ({name}= in Python)"
        )
    if own is not None and given is not None and own != given:
        raise ValueError(f"{name}: expected {own:g}, as {path} says, got {given}")
    return given if own is None else own


def of_intervals(
    correct: Any,
    lower: Any,
    upper: Any,
    radius: float | None,
    confidence: Any,
    labels: Any,
    predicted: Any,
    norm: Any,
    index: Any,
) -> tuple[pa.Table, Provenance]:
    """The rows of ``Certificates.from_intervals``, which documents arguments and errors."""
    right, low, high = _check.intervals(correct, lower, upper)
    rows = right.size
    columns = {
        "index": np.arange(rows) if index is None else _check.int_vector("index", index, rows),
        "label": None if labels is None else _check.int_vector("labels", labels, rows),
        "predicted": None if predicted is None else _classes("predicted", predicted, rows, None),
        "correct": right.astype(np.bool_),
        "votes": None,
        "n": None,
        "confidence": None
        if confidence is None
        else _check.float_vector("confidence", confidence, rows),
        "p_lower": low,
        "p_upper": high,
    }
    return build(columns, rows), Provenance(kind="intervals", radius=radius, norm=norm)


def of_stored_votes(
    stored: VoteCounts,
    path: str | PathLike[str],
    sigma: float | None,
    alpha: float | None,
    **options: Any,
) -> tuple[pa.Table, Provenance]:
    """The rows of ``Certificates.from_npz``; a file may say sigma and alpha, and has rows of any sum."""
    scale = stored.sigma if sigma is None else sigma
    if scale is None:
        raise ValueError(
            f"sigma: expected a number, as {path} does not hold it; give it with --sigma (sigma= in Python)"
        )
    if stored.sigma not in (None, scale):
        raise ValueError(f"sigma: expected {stored.sigma}, as {path} says, got {sigma}")
    if stored.alpha is not None and alpha not in (None, stored.alpha):
        raise ValueError(f"alpha: expected {stored.alpha}, as {path} says, got {alpha}")
    risk = next((one for one in (alpha, stored.alpha) if one is not None), DEFAULT_ALPHA)
    table, made = of_counts(
        stored.counts, stored.labels, scale, risk, None, stored.index, own_sums=True, **options
    )
    return table, dataclasses.replace(made, source=os.fspath(path))


def _classes(name: str, value: Any, rows: int, classes: int | None) -> NDArray[np.int64]:
    result = _check.int_vector(name, value, rows)
    good = (result >= 0) & (result < (np.iinfo(np.int64).max if classes is None else classes))
    if not good.all():
        row = int(np.argmin(good))
        limit = "of at least 0" if classes is None else f"from 0 to {classes - 1}"
        raise ValueError(f"{name}: expected classes {limit}, got {result[row]} in row {row}")
    return result
