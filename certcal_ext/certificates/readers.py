# SPDX-License-Identifier: MIT
"""Readers of what others have stored: vote counts (``.npz``) and certification logs (text)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, ndtr

from certcal_ext import _check
from certcal_ext._npz import read_npz
from certcal_ext.intervals.clopper_pearson import MAX_DRAWS

_LOG_COLUMNS = ("idx", "label", "predict", "radius", "correct")
_COUNT_ARRAYS = ("counts", "label", "labels", "sigma", "n")
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")  # of 64 bits
_TIME = re.compile(r"(-?\d+ days?, )?\d+:\d\d:\d\d(\.\d+)?")


@dataclass(frozen=True, eq=False)
class VoteCounts:
    """Votes read from a file.

    Attributes:
        counts: (N, K) int64 votes.
        labels: (N,) int64, or None where the file holds none.
        sigma: standard deviation of the noise, or None where the file does not say.
    """

    counts: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    sigma: float | None


@dataclass(frozen=True, eq=False)
class CohenLog:
    """A certification log, one entry a row.

    Attributes:
        index: (N,) int64 sample ids.
        label: (N,) int64.
        predicted: (N,) int64, -1 where the log abstained.
        radius: (N,) float64 as printed.
        half_width: (N,) float64, how far the printed radius can lie from the one that was computed.
        notes: what the column ``note`` says, each remark once.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    radius: NDArray[np.float64]
    half_width: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def read_counts(path: str | PathLike[str]) -> VoteCounts:
    """Reads vote counts from an ``.npz`` file.

    Args:
        path: file with the array ``counts`` (N, K) and, where they are known, ``label`` or
            ``labels`` (N,), ``sigma`` and ``n``.

    Returns:
        ``VoteCounts``.

    Raises:
        ValueError: the file is missing, truncated, no ``.npz`` file or without ``counts``; ``n`` is
            not the sum of a row.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "votes.npz"
        >>> np.savez(path, counts=[[90, 10], [20, 80]], label=[0, 1], sigma=0.25)
        >>> read_counts(path).sigma
        0.25
    """
    expected = "expected an .npz file with the array counts (N, K)"
    try:
        arrays, _ = read_npz(path, _COUNT_ARRAYS)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {expected}, but it cannot be read: {error}") from error
    if "counts" not in arrays:
        raise ValueError(
            f"{path}: {expected}, got {', '.join(arrays) or 'none of the known arrays'}"
        )
    try:
        counts = counts_matrix("counts", arrays["counts"])
        given = arrays.get("label", arrays.get("labels"))
        labels = None if given is None else _check.int_vector("label", given, counts.shape[0])
        sigma = _scalar("sigma", arrays)
        if sigma is not None:
            _check.positive_number("sigma", sigma)
        draws = _scalar("n", arrays)
        if draws is not None and draws != counts[0].sum():
            raise ValueError(
                f"n: expected the sum of a row of counts, {counts[0].sum()}, got {draws:g}"
            )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return VoteCounts(counts, labels, sigma)


def _scalar(name: str, arrays: dict[str, NDArray[Any]]) -> float | None:
    if name not in arrays:
        return None
    if arrays[name].size != 1:
        raise ValueError(f"{name}: expected one number, got shape {arrays[name].shape}")
    return _check.real_number(name, arrays[name].reshape(-1)[0])


def counts_matrix(name: str, value: Any) -> NDArray[np.int64]:
    """(N, K) int64 votes with equal row sums, checked.

    Raises:
        TypeError: no array of whole numbers.
        ValueError: no rows, fewer than two classes, negative votes, or row sums that differ, naming
            the first such row.
    """
    given = _check.array(name, value)
    if given.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected whole numbers, got dtype {given.dtype}")
    if given.ndim != 2:
        raise ValueError(f"{name}: expected shape (N, K), got {given.shape}")
    if not given.shape[0]:
        raise ValueError(f"{name}: expected at least one sample, got none")
    if given.shape[1] < 2:
        raise ValueError(f"{name}: expected at least two classes, got {given.shape[1]}")
    bad = (given < 0) | (given > MAX_DRAWS)
    if bad.any():
        row = int(np.argmax(bad.any(axis=1)))
        raise ValueError(
            f"{name}: expected votes from 0 to {MAX_DRAWS}, got {given[row].tolist()} in row {row}"
        )
    counts = np.ascontiguousarray(given, dtype=np.int64)
    sums = counts.sum(axis=1)
    unequal = sums != sums[0]
    if unequal.any():
        row = int(np.argmax(unequal))
        raise ValueError(
            f"{name}: expected rows of equal sum, got {sums[row]} in row {row} and {sums[0]} in "
            "row 0"
        )
    if not sums[0]:
        raise ValueError(f"{name}: expected at least one vote a row, got none")
    return counts


def read_cohen_log(path: str | PathLike[str]) -> CohenLog:
    """Reads a certification log in the form of Cohen et al.'s ``certify.py`` (ICML 2019).

    Tab-separated with a header that names at least ``idx``, ``label``, ``predict``, ``radius`` and
    ``correct``. The radius is printed with ``"{:.3}"``, three significant digits; others print
    three decimals. The half-width covers both: the larger of 0.0005 and half a unit of the third
    significant digit.

    Args:
        path: the log.

    Returns:
        ``CohenLog``.

    Raises:
        ValueError: the file is missing, empty, no such log, or broken off; the row (from 0) and
            line (from 1) are named.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: expected a certification log, but it cannot be read: {error}"
        ) from error
    lines = text.splitlines()
    names = lines[0].split("\t") if lines else []
    missing = [name for name in _LOG_COLUMNS if name not in names]
    if missing:
        raise ValueError(
            f"{path}: expected a tab-separated certification log with the header "
            f"{', '.join(_LOG_COLUMNS)}; "
            f"{', '.join(missing)} missing"
        )
    rows = [(number, line) for number, line in enumerate(lines[1:], 2) if line.strip()]
    if not rows:
        raise ValueError(f"{path}: expected at least one row under the header, got none")
    parsed, notes = [], dict.fromkeys([""])
    for row, (number, line) in enumerate(rows):
        try:
            cells = dict(_zip_row(names, line.split("\t")))
            parsed.append(_log_row(cells))
            notes[cells.get("note", "").strip()] = None
        except ValueError as error:
            raise ValueError(f"{path}: row {row} (line {number}): {error}") from error
    index, label, predicted, radius = (np.array(column) for column in zip(*parsed, strict=True))
    unique, first = np.unique(index, return_index=True)
    if unique.size != index.size:
        row = int(np.setdiff1d(np.arange(index.size), first)[0])
        raise ValueError(f"{path}: row {row} (line {rows[row][0]}): idx {index[row]} came before")
    return CohenLog(
        index, label, predicted, radius, _half_width(radius), tuple(filter(None, notes))
    )


def _zip_row(names: list[str], cells: list[str]) -> list[tuple[str, str]]:
    if len(cells) != len(names):
        raise ValueError(f"expected {len(names)} columns, got {len(cells)}; is the file cut off?")
    return list(zip(names, cells, strict=True))


def _log_row(cells: dict[str, str]) -> tuple[int, int, int, float]:
    numbers = {}
    for name in ("idx", "label", "predict", "correct"):
        # As they are printed: int() would also take underscores and the digits of other scripts.
        if not _WHOLE.fullmatch(cells[name].strip()):
            raise ValueError(f"{name}: expected a whole number, got {cells[name][:40]!r}")
        numbers[name] = int(cells[name])
    try:
        radius = float(cells["radius"])
    except ValueError as error:
        raise ValueError(f"radius: expected a number, got {cells['radius']!r}") from error
    if not (math.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius: expected a finite number of at least 0, got {cells['radius']!r}")
    if "time" in cells and not _TIME.fullmatch(cells["time"].strip()):
        raise ValueError(f"time: expected h:mm:ss, got {cells['time']!r}; is the file cut off?")
    idx, label, predicted = numbers["idx"], numbers["label"], numbers["predict"]
    if min(idx, label) < 0 or predicted < -1:
        raise ValueError(
            f"expected idx and label of at least 0 and predict of at least -1, got {idx}, {label} "
            f"and {predicted}"
        )
    if numbers["correct"] != int(label == predicted):
        raise ValueError(
            f"correct: expected {int(label == predicted)}, as label and predict say, got "
            f"{numbers['correct']}"
        )
    if predicted == -1 and radius != 0:
        raise ValueError(f"radius: expected 0 where predict is -1 (abstained), got {radius}")
    return idx, label, predicted, radius


def _half_width(radius: NDArray[np.float64]) -> NDArray[np.float64]:
    digits = np.floor(np.log10(np.maximum(radius, 1e-300)))
    # The slack covers the rounding of log10 at a power of ten and of the radius that the log's
    # author computed.
    return np.maximum(5e-4, 0.5 * 10.0 ** (digits - 2)) * (1 + 1e-6)


def votes_of_radius(
    radius: NDArray[np.float64],
    half_width: NDArray[np.float64],
    sigma: float,
    n: int,
    alpha: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The range of vote counts that a printed radius can stand for.

    The log's radius is ``sigma * Phi^-1(p)`` with p the one-sided Clopper-Pearson lower bound of k
    of n votes at ``alpha``, at least 1/2. That bound lies at or above some q exactly when
    P(Binomial(n, q) >= k) <= alpha, so both ends of the range are found by bisection over k, for
    all radii at once.

    Args:
        radius: (N,) printed radii.
        half_width: (N,) how far each can lie from the computed one.
        sigma: standard deviation of the noise.
        n: number of draws.
        alpha: failure probability of the log's one-sided bound.

    Returns:
        (N,) least and (N,) largest count. Where no count gives such a radius, the least is above
        the largest.
    """
    below = ndtr(np.maximum(radius - half_width, 0.0) / sigma)
    above = ndtr((radius + half_width) / sigma)
    # Counts whose bound reaches `below` start right after the last one with a tail above alpha.
    least = _last_count(below, n, lambda tail: tail > alpha) + 1
    return least, _last_count(above, n, lambda tail: tail >= alpha)


def _last_count(q: NDArray[np.float64], n: int, keeps: Any) -> NDArray[np.int64]:
    """The last k in [0, n] whose P(Binomial(n, q) >= k) is kept; once one is not, none is."""
    low, high = np.zeros(q.size, np.int64), np.full(q.size, n + 1, np.int64)
    while (high - low > 1).any():
        middle = np.clip((low + high) // 2, 1, n)
        tail = betainc(middle.astype(np.float64), n - middle + 1.0, q)
        good = keeps(tail) & (high - low > 1)
        bad = ~keeps(tail) & (high - low > 1)
        low, high = np.where(good, middle, low), np.where(bad, middle, high)
    return low
