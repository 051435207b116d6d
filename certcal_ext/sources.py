# SPDX-License-Identifier: MIT
"""Table and provenance of certificates from votes, a certification log, another verifier."""

from __future__ import annotations

import os
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.certificate_table import build
from certcal_ext.intervals import clopper_pearson
from certcal_ext.provenance import Provenance
from certcal_ext.readers import VoteCounts, counts_matrix, read_cohen_log, votes_of_radius

_SHARED_DRAWS = "the class was selected by the draws that estimate it"
_LOG_POINT = "confidence: the middle of the counts that the printed radius can stand for"


def of_counts(
    counts: Any, labels: Any, sigma: float, alpha: float, selection: Any, index: Any
) -> tuple[pa.Table, Provenance]:
    """The rows of ``Certificates.from_counts``, which documents arguments and errors."""
    votes = counts_matrix("counts", counts)
    rows, classes = votes.shape
    scale = _check.positive_number("sigma", sigma)
    risk = _check.failure_probability("alpha", alpha)
    draws = int(votes[0].sum())
    chosen = votes.argmax(axis=1) if selection is None else selection
    predicted = _classes("selection", chosen, rows, classes)
    known = None if labels is None else _classes("labels", labels, rows, classes)
    won = votes[np.arange(rows), predicted]
    lower, upper = clopper_pearson(won, draws, risk)
    columns = {
        "index": np.arange(rows) if index is None else _check.int_vector("index", index, rows),
        "label": known,
        "predicted": predicted,
        "correct": None if known is None else known == predicted,
        "votes": won,
        "n": np.full(rows, draws),
        "confidence": won / draws,
        "p_lower": lower,
        "p_upper": upper,
    }
    provenance = Provenance(
        kind="votes",
        sigma=scale,
        alpha=risk,
        n=draws,
        num_classes=classes,
        notes=(_SHARED_DRAWS,) if selection is None else (),
    )
    return build(columns, rows), provenance


def of_cohen_log(
    path: str | PathLike[str], sigma: float, n: int, alpha: float
) -> tuple[pa.Table, Provenance]:
    """The rows of ``Certificates.from_cohen_log``, which documents arguments and errors."""
    scale = _check.positive_number("sigma", sigma)
    risk = _check.failure_probability("alpha", alpha)
    provenance = Provenance(
        kind="log", sigma=scale, alpha=risk, n=n, source=os.fspath(path), notes=(_LOG_POINT,)
    )
    log = read_cohen_log(path)
    unique, where = np.unique(log.radius, return_inverse=True)
    width = np.empty_like(unique)
    width[where] = log.half_width
    least, largest = votes_of_radius(unique, width, scale, n, risk)
    decided = log.predicted != -1
    impossible = decided & (least > largest)[where]
    if impossible.any():
        row = int(np.argmax(impossible))
        raise ValueError(
            f"{path}: row {row} (idx {log.index[row]}): no count of n = {n} votes gives the radius "
            f"{log.radius[row]} "
            f"at sigma = {scale} and alpha = {risk}; are these the log's?"
        )
    possible = least <= largest
    low, high = np.where(possible, least, 0), np.where(possible, largest, n)
    lower = np.where(decided, clopper_pearson(low, n, risk).lower[where], 0.0)
    upper = np.where(decided, clopper_pearson(high, n, risk).upper[where], 1.0)
    columns = {
        "index": log.index,
        "label": log.label,
        "predicted": log.predicted,
        "correct": log.predicted == log.label,
        "votes": None,
        "n": np.full(len(decided), n),
        "confidence": np.ma.array(((low + high) / 2 / n)[where], mask=~decided),
        "p_lower": lower,
        "p_upper": upper,
    }
    return build(columns, len(decided)), provenance


def of_intervals(
    correct: Any,
    lower: Any,
    upper: Any,
    radius: float | None,
    confidence: Any,
    labels: Any,
    predicted: Any,
) -> tuple[pa.Table, Provenance]:
    """The rows of ``Certificates.from_intervals``, which documents arguments and errors."""
    right, low, high = _check.intervals(correct, lower, upper)
    rows = right.size
    columns = {
        "index": np.arange(rows),
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
    return build(columns, rows), Provenance(kind="intervals", radius=radius)


def sigma_of(stored: VoteCounts, sigma: float | None, path: str | PathLike[str]) -> float:
    """The noise of stored counts: what the file or the caller says, which must not differ."""
    scale = stored.sigma if sigma is None else sigma
    if scale is None:
        raise ValueError(f"sigma: expected a number, as {path} does not hold it")
    if stored.sigma not in (None, scale):
        raise ValueError(f"sigma: expected {stored.sigma}, as {path} says, got {sigma}")
    return scale


def _classes(name: str, value: Any, rows: int, classes: int | None) -> NDArray[np.int64]:
    result = _check.int_vector(name, value, rows)
    good = (result >= 0) & (result < (np.iinfo(np.int64).max if classes is None else classes))
    if not good.all():
        row = int(np.argmin(good))
        limit = "of at least 0" if classes is None else f"from 0 to {classes - 1}"
        raise ValueError(f"{name}: expected classes {limit}, got {result[row]} in row {row}")
    return result
