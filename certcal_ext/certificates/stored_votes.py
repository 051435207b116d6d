# SPDX-License-Identifier: MIT
"""Votes of all classes as others store them: which array is what, and whole numbers of any type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.certificates.columns import NAMES, plain_name, role_of
from certcal_ext.intervals.clopper_pearson import MAX_DRAWS

#: Arrays that say something about the votes.
ROLES = ("counts", "label", "index", "sigma", "n", "alpha")


@dataclass(frozen=True, eq=False)
class VoteCounts:
    """Votes read from a file.

    Attributes:
        counts: (N, K) int64 votes; rows may have sums of their own.
        labels: (N,) int64, or None where the file holds none.
        sigma: standard deviation of the noise, or None where the file does not say.
        alpha: failure probability, or None likewise.
        index: (N,) int64 sample ids, or None likewise.
    """

    counts: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    sigma: float | None
    alpha: float | None = None
    index: NDArray[np.int64] | None = None


def votes_of_arrays(arrays: Mapping[str, NDArray[Any]], labels_key: str | None) -> VoteCounts:
    """Votes, labels and settings from the arrays of a file.

    Args:
        arrays: all of the file, by name.
        labels_key: name of the labels; None looks for the usual ones.

    Returns:
        ``VoteCounts``.

    Raises:
        TypeError: an array of the wrong kind.
        ValueError: no votes, or votes, labels or settings that contradict each other, naming array and row.
    """
    names = {
        role: None if role == "label" and labels_key is not None else _only(arrays, role)
        for role in ROLES
    }
    if labels_key is not None:
        if labels_key not in arrays:
            raise ValueError(
                f"labels: there is no array {labels_key!r}; the file holds {', '.join(arrays)}"
            )
        names["label"] = labels_key
    name = names["counts"]
    if name is None:
        raise ValueError(f"expected an array counts (N, K), got {', '.join(arrays) or 'none'}")
    counts = counts_matrix(name, whole_values(name, arrays[name]), own_sums=True)
    rows, classes = counts.shape
    sums = counts.sum(axis=1)
    labels = None
    if (key := names["label"]) is not None:
        labels = _column(key, arrays[key], rows, classes)
    else:
        _require_no_labels(arrays, rows)
    draws = None if names["n"] is None else whole_values("n", arrays[names["n"]]).reshape(-1)
    if draws is not None:
        if draws.size not in (1, rows):
            raise ValueError(f"array n: expected one number, or one a row, got {draws.size}")
        differs = draws != sums
        if differs.any():
            row = int(np.argmax(differs))
            raise ValueError(
                f"array n: expected the sum of a row of counts, {sums[row]} in row {row}, got "
                f"{np.broadcast_to(draws, rows)[row]:g}"
            )
    sigma, alpha = (_scalar(names[role], arrays) for role in ("sigma", "alpha"))
    if sigma is not None:
        _check.positive_number("array sigma", sigma)
    index = (
        None
        if names["index"] is None
        else _column(names["index"], arrays[names["index"]], rows, None)
    )
    return VoteCounts(counts, labels, sigma, alpha, index)


def _only(arrays: Mapping[str, Any], role: str) -> str | None:
    """The array of a role; the usual name is taken where there are several."""
    names = [name for name in arrays if role_of(name) == role]
    exact = [name for name in names if plain_name(name) == NAMES[role][0]]
    if len(names) > 1 and len(exact) != 1:
        raise ValueError(f"arrays {' and '.join(names)}: expected one for {role}" + (
            "; name it with labels_key" if role == "label" else ""))  # fmt: skip
    return next(iter(exact or names), None)


def _require_no_labels(arrays: Mapping[str, NDArray[Any]], rows: int) -> None:
    """Raises where an array of unknown name may be the labels: without them metrics are not available."""
    likely = [
        name
        for name, value in arrays.items()
        if role_of(name) is None
        and value.shape in ((rows,), (rows, 1))
        and value.dtype.kind in "iuf"
    ]
    if likely:
        raise ValueError(
            f"labels: none of the arrays {', '.join(arrays)} has a usual name ({', '.join(NAMES['label'][:7])}); if it is "
            f"{' or '.join(likely)}, name it with labels_key (--labels-key {likely[0]})"
        )


def _column(name: str, value: NDArray[Any], rows: int, classes: int | None) -> NDArray[np.int64]:
    """(N,) whole numbers from (N,), (N, 1), or, with ``classes``, one-hot rows (N, K)."""
    whole = whole_values(name, value)
    if classes is not None and whole.shape == (rows, classes) and classes > 1:
        if not ((whole == 0) | (whole == 1)).all() or (whole.sum(axis=1) != 1).any():
            raise ValueError(f"{name}: expected a class a row, or one 1 among {classes} zeros")
        whole = whole.argmax(axis=1)
    if whole.ndim == 2 and 1 in whole.shape:
        whole = whole.reshape(-1)
    return _check.int_vector(name, whole, rows)


def _scalar(name: str | None, arrays: Mapping[str, NDArray[Any]]) -> float | None:
    if name is None:
        return None
    if arrays[name].size != 1:
        raise ValueError(f"{name}: expected one number, got shape {arrays[name].shape}")
    return _check.real_number(name, arrays[name].reshape(-1)[0])


def whole_values(name: str, value: Any) -> NDArray[Any]:
    """The same numbers as whole ones, where a tool stored them as floats.

    Args:
        name: of the array, for errors.
        value: array of numbers.

    Returns:
        The array itself where it holds whole numbers, else an int64 array of its shape.

    Raises:
        TypeError: no numbers.
        ValueError: a number that is not whole, or so large that its type rounds whole numbers.

    Example:
        >>> whole_values("counts", np.array([[9.0, 1.0]]))
        array([[9, 1]])
    """
    array = _check.array(name, value)
    if array.dtype.kind != "f":
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name}: expected whole numbers, got dtype {array.dtype}")
        return array
    good = np.isfinite(array) & (np.floor(array) == array)
    if not good.all():
        at = np.unravel_index(int(np.argmin(good)), array.shape)
        hint = "; shares have to be multiplied by the number of draws" if 0 < array[at] < 1 else ""
        raise ValueError(
            f"{name}: expected whole numbers, got {array[at]} in row {at[0] if at else 0}{hint}"
        )
    limit = 2.0 ** (np.finfo(array.dtype).nmant + 1)
    if array.size and float(np.abs(array).max()) >= limit:
        raise ValueError(
            f"{name}: expected whole numbers, got {array.dtype} of {limit:g} or more, which are rounded"
        )
    return array.astype(np.int64)


def counts_matrix(name: str, value: Any, *, own_sums: bool = False) -> NDArray[np.int64]:
    """(N, K) int64 votes, checked.

    Args:
        name: of the argument, for errors.
        value: the votes.
        own_sums: whether rows may have sums of their own.

    Returns:
        (N, K) int64.

    Raises:
        TypeError: no array of whole numbers.
        ValueError: no rows, fewer than two classes, negative votes, or row sums that differ or are 0, naming the first such
            row.
    """
    array = _check.array(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected whole numbers, got dtype {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"{name}: expected shape (N, K), got {array.shape}")
    if not array.shape[0]:
        raise ValueError(f"{name}: expected at least one sample, got none")
    if array.shape[1] < 2:
        raise ValueError(f"{name}: expected at least two classes, got {array.shape[1]}")
    bad = (array < 0) | (array > MAX_DRAWS)
    if bad.any():
        row = int(np.argmax(bad.any(axis=1)))
        raise ValueError(
            f"{name}: expected votes from 0 to {MAX_DRAWS}, got {array[row].tolist()} in row {row}"
        )
    counts = np.ascontiguousarray(array, dtype=np.int64)
    sums = counts.sum(axis=1)
    unequal = sums != sums[0]
    if unequal.any() and not own_sums:
        row = int(np.argmax(unequal))
        raise ValueError(
            f"{name}: expected rows of equal sum, got {sums[row]} in row {row} and {sums[0]} in "
            "row 0"
        )
    if sums.max() > MAX_DRAWS:
        raise ValueError(f"{name}: expected at most {MAX_DRAWS} votes a row, got {sums.max()}")
    if not sums.min():
        raise ValueError(
            f"{name}: expected at least one vote a row, got none in row {int(np.argmin(sums))}"
        )
    return counts
