# SPDX-License-Identifier: MIT
"""Argument checks shared by the public functions.

Each function returns its argument in the form the compiled module takes and raises a TypeError
(wrong kind) or a ValueError (wrong value) that names the argument, what was expected and what came.
None of them changes its argument, and none copies an array that already has the right form.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

#: Smallest failure probability: smaller binomial tails cannot be evaluated accurately enough.
LEAST_ALPHA = 1e-15
#: Tables have M x M cells; at this many bins one table takes 335 MB.
MAX_BINS = 2048
#: Whole numbers are 64-bit ones.
MAX_WHOLE = 2**63 - 1

_T = TypeVar("_T")


def shown(value: Any) -> str:
    """``repr`` on one line of at most 80 characters, for messages; the kind of what has none."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # Python refuses to write whole numbers of over 4300 digits, for one
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def array(name: str, value: Any) -> NDArray[Any]:
    """Views ``value`` as a NumPy array; tensors on another device are copied to the host.

    Masked entries are refused: the view would show the numbers that they hide.
    """
    refuse_masked(name, value)
    if hasattr(value, "detach") and hasattr(
        value, "cpu"
    ):  # a torch tensor, without importing torch
        try:
            tensor = value.detach().cpu()
            if (
                str(tensor.dtype) == "torch.bfloat16"
            ):  # NumPy has no bfloat16; float32 holds it exactly
                tensor = tensor.float()
            return np.asarray(tensor.numpy())
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise TypeError(
                f"{name}: expected a tensor with data that NumPy can view, got {value.dtype} on "
                f"{value.device}: {error}"
            ) from error
    try:
        return np.asarray(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected an array, got {type(value).__name__}: {error}"
        ) from error


def refuse_masked(name: str, value: Any) -> None:
    """Raises where NumPy's mask hides entries, at any depth of lists."""
    if isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, (list, tuple, np.ma.MaskedArray)):
                refuse_masked(name, item)
    elif isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"{name}: expected an array without a mask, got {int(np.ma.getmaskarray(value).sum())} masked "
            "entries; leave these samples out"
        )


def vector(name: str, value: Any, size: int | None = None) -> NDArray[Any]:
    """A one-dimensional array, of ``size`` entries where that is given."""
    result = array(name, value)
    if result.ndim != 1:
        raise ValueError(f"{name}: expected shape (N,), got {result.shape}")
    if size is not None and result.size != size:
        raise ValueError(
            f"{name}: expected {size} entries, as the other arrays have, got {result.size}"
        )
    return result


def float_vector(name: str, value: Any, size: int | None = None) -> NDArray[np.float64]:
    """A contiguous float64 vector. The values are not looked at."""
    return float_array(name, vector(name, value, size))


def float_array(name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """A contiguous float64 array of the same numbers.

    Wider ones that float64 does not hold are refused: a lower end rounded to nearest may lie above the true one.
    """
    require_kind(name, values, "fiu", "real numbers")
    with np.errstate(over="ignore"):
        result = np.asarray(values, dtype=np.float64, order="C")
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        lost = (result != values) & ~np.isnan(values)
        if lost.any():
            raise ValueError(
                f"{name}: expected numbers that float64 holds, got {values[lost][0]!r}; round lower "
                "ends down and upper ends up"
            )
    return result


def require_kind(name: str, values: NDArray[Any], kinds: str, expected: str) -> None:
    """Raises unless the array's dtype is of one of the kinds; says so where entries are missing."""
    if values.dtype.kind in kinds:
        return
    missing = values.dtype.kind == "O" and any(
        entry is None or type(entry).__name__ == "NAType" for entry in values.flat
    )
    what = "missing values" if missing else f"dtype {values.dtype}"
    raise TypeError(f"{name}: expected {expected}, got {what}")


def int_vector(name: str, value: Any, size: int | None = None) -> NDArray[np.int64]:
    """A contiguous int64 vector of whole numbers."""
    result = vector(name, value, size)
    require_kind(name, result, "iu", "whole numbers")
    if result.dtype == np.uint64 and result.size and int(result.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: expected values below 2^63, got {result.max()}")
    return np.ascontiguousarray(result, dtype=np.int64)


def correct_vector(name: str, value: Any, size: int | None = None) -> NDArray[np.uint8]:
    """A contiguous uint8 vector of 0 and 1 from booleans or numbers that are 0 or 1."""
    result = vector(name, value, size)
    if result.dtype == np.bool_:
        return np.ascontiguousarray(result).view(np.uint8)
    require_kind(name, result, "fiu", "booleans or 0 and 1")
    if result.dtype == np.uint8:
        good = not result.size or int(result.max()) <= 1
    else:
        good = bool(np.all((result == 0) | (result == 1)))
    if not good:
        row = int(np.argmin((result == 0) | (result == 1)))
        raise ValueError(f"{name}: expected booleans or 0 and 1, got {result[row]} in row {row}")
    return np.ascontiguousarray(result, dtype=np.uint8)


def intervals(
    correct: Any, lower: Any, upper: Any
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """The three arrays of a metric, of one length.

    Whether 0 <= lower <= upper <= 1 is left to the pass over the data.
    """
    right = correct_vector("correct", correct)
    low, high = array("lower", lower), array("upper", upper)
    if low.ndim == high.ndim == 1 and right.size != low.size == high.size:
        raise ValueError(
            f"correct: expected {low.size} entries, as lower and upper have, got {right.size}"
        )
    return right, float_vector("lower", low, right.size), float_vector("upper", high, right.size)


def points(correct: Any, confidence: Any) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Right or wrong, and confidences in [0, 1], of one length; there may be none."""
    right = correct_vector("correct", correct)
    given = vector("confidence", confidence)
    if given.size and not right.size:
        raise ValueError(f"correct: expected {given.size} entries, as confidence has, got none")
    result = float_vector("confidence", given, right.size)
    good = (result >= 0) & (result <= 1)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"confidence: expected values in [0, 1], got {result[row]} in row {row}")
    return right, result


def some_intervals(
    correct: Any, lower: Any, upper: Any
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """``intervals`` of at least one sample."""
    result = intervals(correct, lower, upper)
    if not result[0].size:
        raise ValueError("correct, lower, upper: expected at least one sample, got none")
    return result


def bad_bounds(row: int, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> ValueError:
    """The error for the first row whose bounds are not ordered in [0, 1]."""
    return ValueError(
        f"lower, upper: expected 0 <= lower <= upper <= 1, got lower {lower[row]} and upper "
        f"{upper[row]} in row {row}"
    )


def require_ordered(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> None:
    """Raises unless 0 <= lower <= upper <= 1 in every row (NaN fails)."""
    good = (lower >= 0) & (lower <= upper) & (upper <= 1)
    if not good.all():
        raise bad_bounds(int(np.argmin(good)), lower, upper)


def bin_edges(bins: Any, edges: Any) -> NDArray[np.float64]:
    """The (M + 1,) edges: ``edges`` where given, else ``numpy.linspace`` with ``bins`` bins."""
    if edges is None:
        count = whole_number("bins", bins, 1, MAX_BINS)
        return np.linspace(0.0, 1.0, count + 1)
    result = float_vector("edges", edges)
    if not 2 <= result.size <= MAX_BINS + 1:
        raise ValueError(f"edges: expected 2 to {MAX_BINS + 1} edges, got {result.size}")
    if result[0] != 0.0 or result[-1] != 1.0:
        raise ValueError(f"edges: expected to run from 0 to 1, got {result[0]} to {result[-1]}")
    steps = np.diff(result)
    if not bool((steps > 0).all()):
        at = int(np.argmin(steps > 0))
        raise ValueError(
            f"edges: expected strictly increasing numbers, got {result[at]} before "
            f"{result[at + 1]} at position {at}"
        )
    return np.array(result)


def closed_left(closed: Any) -> bool:
    """Whether bins are [e, e') (``"left"``) and not (e, e'] (``"right"``)."""
    return choice("closed", closed, ("left", "right")) == "left"


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """One of a few words."""
    allowed = list(options)
    if not isinstance(value, str) or value not in allowed:
        pair = len(allowed) == 2
        wanted = f'"{allowed[0]}" or "{allowed[1]}"' if pair else f"one of {', '.join(allowed)}"
        raise ValueError(f"{name}: expected {wanted}, got {shown(value)}")
    return str(value)


def flag(name: str, value: Any) -> bool:
    """A bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {shown(value)}")
    return bool(value)


def items(name: str, value: Any) -> tuple[Any, ...]:
    """What a list, or another collection that is no text, holds."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        try:
            return tuple(value)
        except TypeError:  # of an array without axes
            pass
    raise TypeError(f"{name}: expected a list, got {type(value).__name__} {shown(value)}")


def instance(name: str, value: Any, kind: type[_T]) -> _T:
    """An object of one class."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def like(name: str, value: Any, kind: str, *parts: str) -> None:
    """Raises unless an object has the parts that an interface asks for."""
    if isinstance(value, type) or not all(hasattr(value, part) for part in parts):
        raise TypeError(f"{name}: expected a {kind}, got {type(value).__name__}")


def position(name: str, value: Any, size: int) -> int:
    """A position among ``size`` entries; negative ones count from the end."""
    return whole_number(name, value, -size, size - 1)


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """An int from ``least`` to ``most``, and below 2^63 where that is None."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"{name}: expected a whole number, got {type(value).__name__} {shown(value)}"
        )
    number = int(value)
    if not least <= number <= (MAX_WHOLE if most is None else most):
        limits = f"from {least} to {most}" if most is not None else f"at least {least}"
        if number > MAX_WHOLE:
            limits += " and below 2^63" if most is None else ""
        raise ValueError(f"{name}: expected a whole number {limits}, got {shown(number)}")
    return number


def real_number(name: str, value: Any) -> float:
    """A finite float."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__} {shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # of a whole number or a fraction
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {shown(value)}")
    if isinstance(value, np.longdouble) and number != value:
        raise ValueError(f"{name}: expected a number that float64 holds, got {shown(value)}")
    return number


def positive_number(name: str, value: Any) -> float:
    """A finite float above 0."""
    result = real_number(name, value)
    if result <= 0:
        raise ValueError(f"{name}: expected a number above 0, got {shown(value)}")
    return result


def confidence(name: str, value: Any) -> float:
    """A float in [0, 1]."""
    result = real_number(name, value)
    if not 0 <= result <= 1:
        raise ValueError(f"{name}: expected a confidence from 0 to 1, got {shown(value)}")
    return result


def failure_probability(name: str, value: Any) -> float:
    """A float in [LEAST_ALPHA, 1)."""
    result = real_number(name, value)
    if not LEAST_ALPHA <= result < 1:
        raise ValueError(
            f"{name}: expected a probability from 1e-15 to below 1, got {shown(value)}"
        )
    return result


def radius(name: str, value: Any) -> float:
    """A finite l2 radius, at least 0, in pixel units."""
    result = real_number(name, value)
    if result < 0:
        raise ValueError(f"{name}: expected a radius of at least 0, got {shown(value)}")
    return result


def radii(name: str, value: Any) -> NDArray[np.float64]:
    """A vector of finite l2 radii, at least 0; one number counts as one radius."""
    given = array(name, value)
    result = float_vector(name, given.reshape(1) if given.ndim == 0 else given)
    if not result.size:
        raise ValueError(f"{name}: expected at least one radius, got none")
    good = np.isfinite(result) & (result >= 0)
    if not good.all():
        at = int(np.argmin(good))
        raise ValueError(
            f"{name}: expected finite radii of at least 0, got {result[at]} at position {at}"
        )
    return result


def options(function: str, given: Mapping[str, Any], known: type) -> None:
    """Options that a function takes by name.

    Args:
        function: its name.
        given: what came.
        known: the ``TypedDict`` that names them.

    Raises:
        TypeError: one that it does not have.
    """
    for name in given:
        if name not in known.__annotations__:
            raise TypeError(
                f"{name}: {function} has no such option; expected some of {', '.join(known.__annotations__)}"
            )
