# SPDX-License-Identifier: MIT
"""Edges of equal mass, down to confidences a step of float64 apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import certcal_ext as cc


def masses(confidence: Any, edges: Any, closed: str) -> list[int]:
    """How many confidences lie in each bin, by the rule of the metrics."""
    side = "left" if closed == "right" else "right"
    cells = np.searchsorted(edges[1:-1], confidence, side)
    return np.bincount(cells, minlength=edges.size - 1).tolist()


def steps_above(start: float, steps: list[int]) -> np.ndarray:
    """Numbers that lie so many steps of float64 above ``start``."""
    return (np.array([start]).view(np.int64) + np.array(steps)).view(np.float64)


@given(
    st.sampled_from([1e-300, 0.1, 0.25, np.nextafter(0.5, 0), 0.7, 1 - 2.0**-46]),
    st.lists(st.integers(0, 20), min_size=1, max_size=30, unique=True),
    st.integers(1, 12),
    st.sampled_from(["left", "right"]),
)
def test_distinct_confidences_a_few_steps_apart(
    start: float, steps: list[int], bins: int, closed: str
) -> None:
    confidence = steps_above(start, steps)
    edges = cc.equal_mass_edges(confidence, bins, closed)
    assert edges[0] == 0
    assert edges[-1] == 1
    assert (np.diff(edges) > 0).all()
    lengths = [run.size for run in np.array_split(confidence, min(bins, confidence.size))]
    assert masses(confidence, edges, closed) == lengths
    assert cc.certified_ece([1] * len(steps), confidence, confidence, edges=edges, closed=closed)


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=40),
    st.integers(1, 12),
    st.sampled_from(["left", "right"]),
)
def test_ties_share_a_bin_and_edges_increase(steps: list[int], bins: int, closed: str) -> None:
    confidence = steps_above(0.3, steps)
    edges = cc.equal_mass_edges(confidence, bins, closed)
    assert (np.diff(edges) > 0).all()
    assert edges.size <= min(bins, confidence.size) + 1
    assert sum(masses(confidence, edges, closed)) == confidence.size


@pytest.mark.parametrize("closed", ["both", None, ["left"], np.array(["left", "right"])])
def test_closed_is_checked(closed: Any) -> None:
    with pytest.raises(ValueError, match=r"^closed: expected"):
        cc.equal_mass_edges([0.5], 3, closed)
