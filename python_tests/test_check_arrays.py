# SPDX-License-Identifier: MIT
"""What arrays may not hide: masked entries, digits that float64 loses, missing values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import certcal_ext as cc
from certcal_ext import _check

MASKED: list[Callable[[], Any]] = [
    lambda: np.ma.array([0.5, 0.5], mask=[False, True]),
    lambda: np.ma.masked_invalid([0.5, np.nan]),
    lambda: [0.5, np.ma.masked],
    lambda: (np.ma.array(0.5, mask=True), 0.5),
    lambda: np.ma.array([1, 0], mask=[True, False]),
]
TAKE_ARRAYS: list[tuple[str, Callable[[Any], Any]]] = [
    ("lower", lambda a: cc.certified_ece([1, 0], a, [1.0, 1.0])),
    ("upper", lambda a: cc.certified_brier([1, 0], [0.0, 0.0], a)),
    ("confidence", lambda a: cc.brier([1, 0], a)),
    ("confidence", lambda a: cc.IdentityMap()(a)),
    ("lower", lambda a: cc.StepMap((0.5,), (0, 1)).image(a, [1.0, 1.0])),
    ("lower", lambda a: cc.EceTable().update([1, 0], a, [1.0, 1.0])),
    ("edges", lambda a: cc.EceTable(edges=a)),
    ("radii", lambda a: _check.radii("radii", a)),
    ("thresholds", lambda a: cc.RiskCoverageState(a)),
    ("upper", lambda a: cc.Certificates.from_intervals([1, 0], [0.0, 0.0], a)),
]


@pytest.mark.parametrize("make", MASKED)
@pytest.mark.parametrize(("name", "take"), TAKE_ARRAYS)
def test_masked_entries_are_refused(
    name: str, take: Callable[[Any], Any], make: Callable[[], Any]
) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
        take(make())


def test_masked_correctness_and_images_are_refused() -> None:
    hidden = np.ma.array([True, False], mask=[True, False])
    with pytest.raises(ValueError, match="correct: expected an array without a mask, got 1 masked"):
        cc.certified_ece(hidden, [0.5, 0.5], [0.5, 0.5])
    with pytest.raises(ValueError, match="x: expected an array without a mask"):
        cc.add_noise(np.ma.array(np.zeros((1, 2), np.float32), mask=True), 0.5)
    with pytest.raises(ValueError, match="sample_ids: expected an array without a mask"):
        cc.add_noise(np.zeros((1, 2), np.float32), 0.5, sample_ids=np.ma.array([1], mask=True))


def test_a_mask_that_hides_nothing_is_fine() -> None:
    plain = np.array([0.25, 0.5])
    assert cc.certified_ece([1, 0], np.ma.array(plain), np.ma.array(plain, mask=False)).n == 2


@given(st.floats(0, 1), st.integers(-3, 3))
def test_no_end_is_rounded_the_wrong_way(value: float, steps: int) -> None:
    exact = np.longdouble(value)
    for _ in range(abs(steps)):
        exact = np.nextafter(exact, np.longdouble(np.sign(steps)))
    ends = np.array([exact])
    held = np.longdouble(float(exact)) == exact
    for name, take in TAKE_ARRAYS[:2]:
        both = np.array([exact, np.longdouble(0.0 if name == "lower" else 1.0)])
        if held and 0 <= exact <= 1:
            take(both)
        else:
            with pytest.raises(ValueError, match=f"{name}"):
                take(both)
    if held:
        assert _check.float_vector("a", ends)[0] == exact
    else:
        with pytest.raises(ValueError, match="a: expected numbers that float64 holds"):
            _check.float_vector("a", ends)
        with pytest.raises(ValueError, match="a: expected a number that float64 holds"):
            _check.real_number("a", exact)


def test_a_right_sample_at_the_edge_in_long_double() -> None:
    # Just below 1/2 lies the other bin. Rounded to nearest it would be 1/2, and the certified error 0 and not 1/2.
    below = np.nextafter(np.longdouble(0.5), np.longdouble(0))
    with pytest.raises(ValueError, match="lower: expected numbers that float64 holds"):
        cc.certified_ece([1, 0], np.array([below] * 2), np.array([0.5] * 2), bins=2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pd.Series([0.5, None], dtype="Float64"),
        lambda: pd.Series([0.5, None]),
        lambda: pd.Series([0.5, None], dtype=object),
        lambda: pd.array([0.5, None], dtype="Float64"),
        lambda: pd.Series([0.5, None], dtype="double[pyarrow]"),
        lambda: pa.array([0.5, None]),
        lambda: pa.chunked_array([[0.5], [None]]),
        lambda: [0.5, None],
    ],
)
def test_missing_values_are_refused(make: Callable[[], Any]) -> None:
    for correct, lower, upper in (
        (make(), [0.5, 0.5], [0.5, 0.5]),
        ([1, 0], make(), [1.0, 1.0]),
        ([1, 0], [0.0, 0.0], make()),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^(correct|lower|upper)\b"):
            cc.certified_ece(correct, lower, upper)
    with pytest.raises(TypeError, match=r"^lower: expected real numbers, got missing values$"):
        cc.certified_ece([1, 0], [0.5, None], [1.0, 1.0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: pd.Series([0.25, 0.5], dtype="Float64"),
        lambda: pd.Series([0.25, 0.5], dtype="double[pyarrow]"),
        lambda: pa.array([0.25, 0.5]),
        lambda: pa.chunked_array([[0.25], [0.5]]),
    ],
)
def test_nullable_columns_without_nulls_are_arrays(make: Callable[[], Any]) -> None:
    assert cc.certified_ece([1, 0], make(), make()).n == 2


@pytest.mark.parametrize("correct", [[], [1], [1, 0, 1]])
def test_the_array_of_another_length_is_named(correct: Any) -> None:
    with pytest.raises(ValueError, match=r"^correct: expected 2 entries"):
        cc.certified_ece(correct, [0.5, 0.5], [0.5, 0.5])
