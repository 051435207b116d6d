# SPDX-License-Identifier: MIT
"""The class-wise calibration error: class by class the exact one, and never below any confidences."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from problems import problems
from reference import plain_ece, worst_ece_by_assignments

import certcal_ext as cc
from certcal_ext.metrics import classwise
from certcal_ext.metrics.classwise import certified_classwise_ece, classwise_ece


class ClassProblem(NamedTuple):
    labels: NDArray[np.int64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    edges: NDArray[np.float64]
    closed: str


@st.composite
def class_problems(draw: st.DrawFn) -> ClassProblem:
    """A few classes of the intervals that the other metrics are tried on."""
    first = draw(problems(most_samples=4, most_bins=3))
    size = first.correct.size
    classes = draw(st.integers(1, 3))
    end = st.one_of(st.sampled_from(first.edges.tolist()), st.floats(0, 1))
    ends = np.array(
        draw(st.lists(end, min_size=2 * size * classes, max_size=2 * size * classes))
    ).reshape(2, size, classes)
    ends[:, :, 0] = first.lower, first.upper
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=size, max_size=size))
    return ClassProblem(
        np.array(labels), ends.min(axis=0), ends.max(axis=0), first.edges, first.closed
    )


def random_classes(size: int, classes: int, seed: int) -> ClassProblem:
    random = np.random.default_rng(seed)
    middle = random.dirichlet(np.full(classes, 0.3), size)
    width = random.random((size, classes)) * 0.2
    labels = (random.random(size)[:, None] > middle.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return ClassProblem(
        labels,
        np.maximum(middle - width, 0),
        np.minimum(middle + width, 1),
        np.linspace(0, 1, 16),
        "right",
    )


@given(class_problems())
def test_brute_force_class_by_class(problem: ClassProblem) -> None:
    labels, lower, upper, edges, closed = problem
    result = certified_classwise_ece(labels, lower, upper, edges=edges, closed=closed)
    expected = [
        worst_ece_by_assignments((labels == k).astype(float), low, up, edges, closed)
        for k, (low, up) in enumerate(zip(lower.T, upper.T, strict=True))
    ]
    assert result.per_class == pytest.approx(expected, abs=1e-12)
    assert result.value == pytest.approx(np.mean(expected), abs=1e-12)
    assert result.value >= np.mean(expected) - 1e-15
    assert (result.n, result.classes) == lower.shape
    assert result.per_class[result.worst_class] == result.per_class.max()


@pytest.mark.parametrize(("size", "classes"), [(1, 1), (31, 3), (256, 10), (4097, 2)])
def test_equal_to_the_ece_of_each_class(size: int, classes: int) -> None:
    labels, lower, upper, _, _ = random_classes(size, classes, seed=size)
    result = certified_classwise_ece(labels, lower, upper, bins=10, closed="left")
    for k in range(classes):
        alone = cc.certified_ece(labels == k, lower[:, k], upper[:, k], bins=10, closed="left")
        assert result.per_class[k] == alone.value


def test_highs_agrees() -> None:
    pytest.importorskip("highspy")
    labels, lower, upper, _, _ = random_classes(20, 3, seed=5)
    result = certified_classwise_ece(labels, lower, upper, bins=5)
    for k in range(3):
        program = cc.certified_ece_milp(labels == k, lower[:, k], upper[:, k], bins=5)
        assert program.optimal
        assert result.per_class[k] == pytest.approx(program.bound, abs=1e-7)


@pytest.mark.parametrize("size", [1, 33, 257])
def test_no_sampled_confidences_are_worse(size: int) -> None:
    labels, lower, upper, _, _ = random_classes(size, 4, seed=size)
    worst = certified_classwise_ece(labels, lower, upper).value
    random = np.random.default_rng(size)
    for attempt in range(20):
        share = random.random(lower.shape)
        z = np.clip(lower + (share if attempt else np.round(share)) * (upper - lower), lower, upper)
        assert classwise_ece(labels, z) <= worst
    # Also those that sum to 1 in each row, as the real ones do.
    middle = (lower + upper) / 2
    rows = middle / middle.sum(axis=1, keepdims=True)
    inside = ((rows >= lower) & (rows <= upper)).all(axis=1)
    z = np.where(inside[:, None], rows, lower)
    assert classwise_ece(labels, z) <= worst


def test_points_give_the_plain_error() -> None:
    labels, lower, _, edges, closed = random_classes(50, 3, seed=2)
    expected = [
        plain_ece((labels == k).astype(float), lower[:, k], edges, closed) for k in range(3)
    ]
    assert classwise_ece(labels, lower) == pytest.approx(np.mean(expected), abs=1e-12)
    assert certified_classwise_ece(labels, lower, lower).value == classwise_ece(labels, lower)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, lower, upper, _, _ = random_classes(100, 7, seed=3)
    whole = certified_classwise_ece(labels, lower, upper)
    for block in (1, 200, 399):
        monkeypatch.setattr(classwise, "_BLOCK", block)
        parts = certified_classwise_ece(labels, lower, upper)
        assert parts.value == whole.value
        assert np.array_equal(parts.per_class, whole.per_class)


def test_layout_and_precision_of_the_arrays() -> None:
    labels, lower, upper, _, _ = random_classes(64, 5, seed=4)
    lower, upper = lower.astype(np.float32), upper.astype(np.float32)
    expected = certified_classwise_ece(labels, lower.astype(float), upper.astype(float))
    for change in (np.asfortranarray, np.ascontiguousarray, lambda a: a[::-1][::-1]):
        result = certified_classwise_ece(labels.astype(np.int16), change(lower), change(upper))
        assert result.value == expected.value


def test_vacuous_intervals_and_a_class_without_samples() -> None:
    labels = np.zeros(10, int)
    result = certified_classwise_ece(labels, np.zeros((10, 2)), np.ones((10, 2)))
    assert result.per_class.tolist() == [1.0, 1.0]
    assert result.value == 1.0


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((np.zeros(0, int), np.zeros((0, 2)), np.zeros((0, 2))), ValueError, "at least one sample"),
        (([0], [[0.5]], [[0.4]]), ValueError, "class 0: lower, upper: expected 0 <= lower"),
        (([0], [[0.1, 0.5]], [[0.2, float("nan")]]), ValueError, "class 1: lower, upper"),
        (([0], [[0.5, 0.5]], [[0.6]]), ValueError, "lower, upper: expected one shape"),
        (([0], [0.5], [0.6]), ValueError, "lower: expected shape"),
        (([0], np.zeros((1, 0)), np.zeros((1, 0))), ValueError, "at least one class"),
        (([0, 0], [[0.5]], [[0.6]]), ValueError, "lower: expected shape \\(2, K\\)"),
        (([1], [[0.5]], [[0.6]]), ValueError, "labels: expected whole numbers from 0 to 0, got 1"),
        (([-1], [[0.5]], [[0.6]]), ValueError, "labels"),
        (([0.0], [[0.5]], [[0.6]]), TypeError, "labels: expected whole numbers"),
        (([0], [["a"]], [[0.6]]), TypeError, "lower: expected real numbers"),
        (([0], [[0.5]], [[0.6]], 0), ValueError, "bins"),
    ],
)
def test_bad_input(arguments: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        certified_classwise_ece(*arguments)
