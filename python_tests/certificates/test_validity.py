# SPDX-License-Identifier: MIT
"""Bounds that hold as a whole: how many intervals may fail, and what the population can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from certcal_ext._rounding import sum_of_largest
from certcal_ext.certificates.validity import failing_intervals
from certcal_ext.intervals.population import population_mean, population_share

FALSE_ALARM = 1e-6


@given(st.integers(1, 20_000), st.floats(1e-6, 0.3), st.floats(1e-9, 0.5))
def test_failing_intervals_is_the_quantile(total: int, alpha: float, delta: float) -> None:
    k = failing_intervals(total, alpha, delta)
    assert binom.sf(k, total, alpha) <= delta * (1 + 1e-6)
    if k > 0:
        assert binom.sf(k - 1, total, alpha) > delta * (1 - 1e-6)


def test_failing_intervals_of_the_design_page() -> None:
    assert failing_intervals(2000, 1e-3, 1e-3) == 8
    assert failing_intervals(1, 0.5, 0.6) == 0
    assert failing_intervals(1, 0.5, 0.4) == 1


def test_sum_of_largest() -> None:
    values = np.array([0.5, 0.25, 1.0, 0.0])
    assert sum_of_largest(values, 0) == 0.0
    assert 1.5 <= sum_of_largest(values, 2) <= 1.5 + 1e-15
    assert 1.75 <= sum_of_largest(values, 9) <= 1.75 + 1e-15


@pytest.mark.parametrize("kind", ["uniform", "rare", "constant", "two points"])
@pytest.mark.parametrize("n", [5, 50, 1000])
def test_population_mean_covers(kind: str, n: int) -> None:
    rng = np.random.default_rng(1)
    delta, trials = 0.1, 400
    draw = {
        "uniform": (lambda: rng.random(n), 0.5),
        "rare": (lambda: (rng.random(n) < 0.01) * 1.0, 0.01),
        "constant": (lambda: np.full(n, 0.3), 0.3),
        "two points": (lambda: np.where(rng.random(n) < 0.5, 0.2, 0.9), 0.55),
    }[kind]
    failures = sum(population_mean(draw[0](), delta) < draw[1] for _ in range(trials))
    assert binomtest(failures, trials, delta, alternative="greater").pvalue > FALSE_ALARM


def test_population_mean_is_useful_and_bounded() -> None:
    rng = np.random.default_rng(2)
    terms = rng.random(5000) * 0.1
    assert terms.mean() < population_mean(terms, 1e-3) < terms.mean() + 0.01
    assert population_mean([0.2], 0.1) == 1.0
    assert population_mean([2.0] * 100, 0.1, most=4.0) >= 2.0
    with pytest.raises(ValueError, match="terms: expected values from 0 to 1"):
        population_mean([0.5, 1.5], 0.1)
    with pytest.raises(ValueError, match="terms: expected values from 0 to 1"):
        population_mean([0.5, np.nan], 0.1)


def test_population_share_is_a_lower_bound() -> None:
    assert population_share(0, 10, 0.1) == 0.0
    assert 0.9 < population_share(1000, 1000, 0.01) < 1.0
