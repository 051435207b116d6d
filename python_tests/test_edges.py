# SPDX-License-Identifier: MIT
"""Edges of bins of equal width and of equal mass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import random_problem

import certcal_ext as cc
from certcal_ext.metrics.edges import equal_mass_edges, equal_width_edges

points = st.lists(
    st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=40
)


@given(confidence=points, bins=st.integers(1, 12), closed=st.sampled_from(["left", "right"]))
def test_edges_are_accepted_by_the_metrics(confidence: Any, bins: int, closed: str) -> None:
    edges = equal_mass_edges(confidence, bins)
    assert edges[0] == 0
    assert edges[-1] == 1
    assert (np.diff(edges) > 0).all()
    assert 2 <= edges.size <= min(bins, len(confidence)) + 1
    correct = np.arange(len(confidence)) % 2
    low = np.array(confidence)
    value = cc.certified_ece(correct, low, low, edges=edges, closed=closed).value
    assert value == cc.ece(correct, low, edges=edges, closed=closed)


@given(size=st.integers(1, 200), bins=st.integers(1, 20), closed=st.sampled_from(["left", "right"]))
def test_without_ties_the_counts_differ_by_at_most_one(size: int, bins: int, closed: str) -> None:
    confidence = np.random.default_rng(size).permutation(size) / size
    confidence = confidence * 0.5 + 0.25
    edges = equal_mass_edges(confidence, bins)
    side: Any = "left" if closed == "right" else "right"
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence, side), minlength=edges.size - 1)
    assert counts.size == min(bins, size)
    assert counts.max() - counts.min() <= 1


def test_ties_merge() -> None:
    assert equal_mass_edges([0.5] * 10, bins=5).tolist() == [0.0, 0.5, 1.0]
    assert equal_mass_edges([1.0] * 10, bins=5).tolist() == [0.0, 1.0]
    assert equal_mass_edges([0.0] * 10, bins=5).tolist() == [0.0, 1.0]
    ends = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert equal_mass_edges(ends, bins=2).tolist() == [0.0, 0.5, 1.0]
    assert equal_mass_edges(ends, bins=3).tolist() == [0.0, 1.0]  # cut inside both ties


def test_one_confidence_and_neighbouring_doubles() -> None:
    assert equal_mass_edges([0.3], bins=15).tolist() == [0.0, 1.0]
    edges = equal_mass_edges([0.5, np.nextafter(0.5, 1)], bins=2)
    assert edges.size == 3
    assert 0.5 <= edges[1] <= np.nextafter(0.5, 1)


def test_the_order_does_not_matter_and_nothing_is_changed() -> None:
    confidence = np.random.default_rng(0).random(100)
    before = confidence.copy()
    edges = equal_mass_edges(confidence, 7)
    assert np.array_equal(edges, equal_mass_edges(confidence[::-1], 7))
    assert np.array_equal(confidence, before)


def test_equal_width_is_the_default_of_the_metrics() -> None:
    correct, lower, upper, _, _ = random_problem(257, seed=1)
    given_edges = cc.certified_ece(correct, lower, upper, edges=equal_width_edges(15))
    assert given_edges.value == cc.certified_ece(correct, lower, upper).value


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (([],), ValueError, "confidence: expected at least one"),
        (([0.5, float("nan")],), ValueError, "expected values in \\[0, 1\\], got nan"),
        (([0.5, 1.5],), ValueError, "expected values in \\[0, 1\\], got 1.5"),
        (([0.5, -0.5],), ValueError, "expected values in \\[0, 1\\], got -0.5"),
        (([[0.5]],), ValueError, "confidence: expected shape"),
        ((["a"],), TypeError, "confidence: expected real numbers"),
        (([0.5], 0), ValueError, "bins: expected a whole number"),
        (([0.5], 2.5), TypeError, "bins: expected a whole number"),
    ],
)
def test_bad_input(arguments: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        equal_mass_edges(*arguments)


def test_bad_bins() -> None:
    with pytest.raises(ValueError, match="bins: expected a whole number"):
        equal_width_edges(0)
