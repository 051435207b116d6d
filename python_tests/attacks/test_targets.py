# SPDX-License-Identifier: MIT
"""Targets under errors: the exact optimum without them, and better than it with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import certcal_ext as cc
from certcal_ext.attacks.targets import plan

EDGES = np.linspace(0, 1, 16)
Floats = NDArray[np.float64]


def problem(samples: int, seed: int, width: float = 0.3) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    middle = rng.beta(4, 1.5, samples)
    correct = (rng.random(samples) < middle).astype(float)
    lower = np.clip(middle - width * rng.random(samples), 0, 1)
    upper = np.clip(middle + width * rng.random(samples), 0, 1)
    return correct, lower, upper


@settings(max_examples=60)
@given(
    samples=st.integers(1, 60),
    seed=st.integers(0, 2**32),
    width=st.sampled_from([0.0, 0.05, 0.3, 2.0]),
    closed=st.sampled_from(["right", "left"]),
)
def test_without_errors_it_is_the_exact_worst_case(
    samples: int, seed: int, width: float, closed: str
) -> None:
    correct, lower, upper = problem(samples, seed, width)
    found = plan(correct, lower, upper, EDGES, closed, 1e-9)
    assert (found.target >= lower).all()
    assert (found.target <= upper).all()
    exact = cc.certified_ece(correct, lower, upper, closed=closed).value
    reached = cc.ece(correct, found.target, closed=closed)
    assert exact - 1e-7 <= reached <= exact
    assert found.value <= exact + 1e-12
    gains = found.gain(correct, found.target)
    assert found.value == pytest.approx(gains.mean(), abs=1e-12)


def expected_ece(correct: Floats, target: Floats, error: float, seed: int) -> float:
    rng = np.random.default_rng(seed)
    values = [
        cc.ece(correct, np.clip(target + error * rng.standard_normal(len(target)), 0, 1))
        for _ in range(50)
    ]
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(4))
def test_with_errors_it_beats_the_exact_targets(seed: int) -> None:
    correct, lower, upper = problem(800, seed)
    error = 0.015
    found = plan(correct, lower, upper, EDGES, "right", error)
    exact = cc.certified_ece(correct, lower, upper)
    guarded = expected_ece(correct, found.target, error, seed)
    assert guarded > 1.1 * expected_ece(correct, exact.worst_confidence, error, seed)
    assert guarded <= exact.value + 0.01
    # And what moves every sample one way, or to its own worst end.
    for ends in (lower, upper, np.where(correct == 1, lower, upper)):
        assert guarded > expected_ece(correct, ends, error, seed) - 0.005


def test_a_blur_of_nothing_is_refused() -> None:
    correct, lower, upper = problem(5, 0)
    with pytest.raises(ValueError, match="blur: expected a number above 0"):
        plan(correct, lower, upper, EDGES, "right", 0.0)
