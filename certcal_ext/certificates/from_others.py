# SPDX-License-Identifier: MIT
"""Certificates from what others made: a certification log, stored votes, another verifier's intervals.

Each public function without a leading "of" is the class method ``Certificates.from_...`` of its name.
"""

from __future__ import annotations

import dataclasses
import os
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.certificates.evidence import vote_ends
from certcal_ext.certificates.from_draws import (
    DEFAULT_ALPHA,
    CountOptions,
    Parts,
    class_vector,
    of_matrix,
    row_ids,
)
from certcal_ext.certificates.logs import CohenLog, settings_note, votes_of_radius
from certcal_ext.certificates.provenance import Provenance
from certcal_ext.certificates.readers import read_cohen_log, read_counts
from certcal_ext.certificates.stored_votes import VoteCounts
from certcal_ext.certificates.table import build
from certcal_ext.intervals.clopper_pearson import MAX_DRAWS

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: The note of every log.
LOG_POINT = "confidence: the middle of the counts that the printed radius can stand for"


class StoredOptions(TypedDict, total=False):
    """What may be said of stored votes by name; see ``npz``."""

    runner_up: bool
    keep_counts: bool
    split: int | None
    seed: int


class IntervalOptions(TypedDict, total=False):
    """What may be said of intervals by name; see ``intervals``."""

    norm: Any
    index: Any


def npz(
    path: str | PathLike[str],
    sigma: float | None = None,
    alpha: float | None = None,
    *,
    labels_key: str | None = None,
    **options: Unpack[StoredOptions],
) -> Parts:
    """``from_counts`` on a file of votes (see ``readers.read_counts``).

    A file has one set of draws, which selects the class too, unless ``split`` keeps some of them for that. Rows whose
    votes have another sum are certified with their own number of draws.

    Args:
        path: ``.npz`` file with ``counts`` and, where they are known, labels and ``sigma``.
        sigma: standard deviation of the noise; None takes the file's.
        alpha: failure probability of one interval, both sides together; None takes the file's, or 0.001.
        labels_key: name of the labels, where it is none of ``label``, ``labels``, ``y``, ``targets``.
        **options: ``runner_up``, ``keep_counts``, ``split`` and ``seed``, as in ``from_counts``.

    Returns:
        ``Certificates``.

    Raises:
        TypeError: an argument of the wrong kind, or an option that there is not.
        ValueError: the file cannot be read, or neither it nor the caller says sigma, or they differ; or labels of another
            name, which is then asked for.

    Warns:
        UserWarning: more samples abstain than are certified.
    """
    _check.options("from_npz", options, StoredOptions)
    return of_stored_votes(read_counts(path, labels_key), path, sigma, alpha, options)


def of_stored_votes(
    stored: VoteCounts,
    path: str | PathLike[str],
    sigma: float | None,
    alpha: float | None,
    options: StoredOptions,
) -> Parts:
    """Certificates of stored votes, which may say sigma and alpha and have rows of any sum."""
    scale = stored.sigma if sigma is None else sigma
    if scale is None:
        raise ValueError(
            f"sigma: expected a number, as {path} does not hold it; give it with --sigma (sigma= in Python)"
        )
    if stored.sigma not in (None, scale):
        raise ValueError(f"sigma: expected {stored.sigma}, as {path} says, got {sigma}")
    if stored.alpha is not None and alpha not in (None, stored.alpha):
        raise ValueError(f"alpha: expected {stored.alpha}, as {path} says, got {alpha}")
    level = next((one for one in (alpha, stored.alpha) if one is not None), DEFAULT_ALPHA)
    named: CountOptions = {**options, "index": stored.index}
    table, provenance = of_matrix(stored.counts, stored.labels, scale, level, None, named)
    return table, dataclasses.replace(provenance, source=os.fspath(path))


def cohen_log(
    path: str | PathLike[str],
    sigma: float | None = None,
    n: int | None = None,
    alpha: float | None = None,
) -> Parts:
    """Certificates from a certification log (see ``readers.read_cohen_log``).

    A printed radius stands for a range of vote counts, as it is rounded. The interval of a row runs from the
    Clopper-Pearson lower end of the least count to the upper end of the largest one, two-sided at ``alpha``, so it holds
    the interval that the true count would have given. The point estimate is the middle of the range.

    The largest radius of a log shows sigma, n and alpha together, where rows won all votes: they are checked against it,
    and a note of the provenance says where that is not possible.

    Args:
        path: table with label, predict and radius, in any dialect of the field.
        sigma: standard deviation of the noise that the log was made with, in pixel units; None takes the log's column.
        n: number of estimation draws that it was made with; a column of the log (``samplesize``) goes before it, row by
            row.
        alpha: failure probability of the log's one-sided bounds, and of one interval here; None takes the log's column, or
            0.001.

    Returns:
        ``Certificates``; rows in which the log abstained abstain here.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range, or that neither the log nor the caller gives; a file that is no such log,
            naming the row; columns that say how rows were made in a way that is not supported; a radius that no count
            gives with this sigma, n and alpha, or a largest radius that contradicts them.

    Warns:
        UserWarning: more samples abstain than are certified.
    """
    return of_log(read_cohen_log(path), path, sigma, n, alpha)


def of_log(
    log: CohenLog,
    path: str | PathLike[str],
    sigma: float | None,
    n: int | None,
    alpha: float | None,
) -> Parts:
    """Certificates of a log that was read."""
    scale = _check.positive_number("sigma", _setting("sigma", log.sigma, sigma, path))
    said = (
        None if alpha is None and log.alpha is None else _setting("alpha", log.alpha, alpha, path)
    )
    level = _check.failure_probability("alpha", DEFAULT_ALPHA if said is None else said)
    if n is not None:
        _check.whole_number("n", n, 1, MAX_DRAWS)
    draws = log.n if log.n is not None else np.full(len(log.index), _setting("n", None, n, path))
    notes: tuple[str, ...] = log.notes
    if log.n is not None:
        ours = f"n: each row's own, {draws.min()} to {draws.max()}, as the log says"
        notes += (ours if n is None else f"{ours}, in place of {n}",)
    try:
        low, high = _possible_votes(log, scale, draws, level)
        if draws.min() == draws.max():
            unchecked = settings_note(log, scale, int(draws[0]), level)
            notes += () if unchecked is None else (unchecked,)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    decided = log.predicted != -1
    columns = {
        "index": log.index,
        "label": log.label,
        "predicted": log.predicted,
        "correct": log.predicted == log.label,
        "n": draws,
        "confidence": np.ma.array((low + high) / 2 / draws, mask=~decided),
        "p_lower": np.where(decided, vote_ends(low, draws, level).lower, 0.0),
        "p_upper": np.where(decided, vote_ends(high, draws, level).upper, 1.0),
    }
    provenance = Provenance(
        kind="log",
        sigma=scale,
        alpha=level,
        n=int(draws.max()),
        source=os.fspath(path),
        notes=(LOG_POINT, *notes),
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


def intervals(
    correct: Any,
    lower: Any,
    upper: Any,
    radius: float | None = None,
    confidence: Any = None,
    labels: Any = None,
    predicted: Any = None,
    **options: Unpack[IntervalOptions],
) -> Parts:
    """Certificates of another verifier: intervals and predictions that hold under attack.

    Args:
        correct: (N,) booleans or 0/1, whether the certified prediction is right.
        lower: (N,) lower ends of the confidence under attack.
        upper: (N,) upper ends.
        radius: size of the attacks that they hold against; a larger one is then an error, and at a smaller one the same
            intervals are returned, which hold there too. None: they are returned at whatever radius is asked for,
            unchecked.
        confidence: (N,) confidences without an attack, or None.
        labels: (N,) classes, or None.
        predicted: (N,) predicted classes, or None.
        **options: ``norm``: the norm that ``radius`` is in: "l2", "linf", ..., as text or as a number (2, ``math.inf``);
            without, it is not known here, and no sentence about these certificates names a norm. ``index``: (N,) sample
            ids; without, the rows are numbered.

    Returns:
        ``Certificates``; every sample counts as certified.

    Raises:
        TypeError: an argument of the wrong kind, or an option that there is not.
        ValueError: no samples, shapes that differ, a value out of range, ``correct`` that contradicts the classes, or a
            norm without a radius.

    Example:
        >>> from certcal_ext import Certificates
        >>> certificates = Certificates.from_intervals(
        ...     [1, 0], [0.8, 0.5], [0.9, 0.6], radius=8 / 255, norm="linf"
        ... )
        >>> certificates.brier(8 / 255).round(3), certificates.provenance.norm
        (array([0.2]), 'linf')
    """
    _check.options("from_intervals", options, IntervalOptions)
    right, low, high = _check.intervals(correct, lower, upper)
    rows = right.size
    columns = {
        "index": row_ids(options.get("index"), rows),
        "label": None if labels is None else _check.int_vector("labels", labels, rows),
        "predicted": None if predicted is None else class_vector("predicted", predicted, rows),
        "correct": right.astype(np.bool_),
        "confidence": None
        if confidence is None
        else _check.float_vector("confidence", confidence, rows),
        "p_lower": low,
        "p_upper": high,
    }
    return build(columns, rows), Provenance("intervals", radius=radius, norm=options.get("norm"))
