# SPDX-License-Identifier: MIT
"""Tables of aggregate bounds: valid for every probability, whatever weights they come from, and near the best there are."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from certcal_ext.aggregate import Expected, VoteHistogram, expected_of, fit_table, valid_table
from certcal_ext.aggregate.evidence import Evidence
from certcal_ext.aggregate.lattice import cells, lattice
from certcal_ext.aggregate.terms import (
    BrierTerm,
    EceTerm,
    KsTerm,
    LogTerm,
    RightTerm,
    RiskTerm,
    Term,
    worst,
)
from certcal_ext.bins import Bins
from certcal_ext.metrics.clip import Clip

EDGES = np.array([0.0, 0.3, 0.55, 0.8, 0.95, 1.0])
MOST, LEAST = np.array([1, 0, 1, 0, 1], np.bool_), np.array([0, 1, 1, 1, 0], np.bool_)

#: By name: a term, and what a row that keeps its prediction adds, straight from the definition, at some confidences.
TERMS: dict[str, tuple[Term, Callable[[bool, Any], Any]]] = {
    "brier": (BrierTerm(), lambda c, z: (c - z) ** 2),
    "log loss": (
        LogTerm(Clip(0.01)),
        lambda c, z: -np.log(np.clip(z, 0.01, 0.99) if c else 1 - np.clip(z, 0.01, 0.99)),
    ),
    "ece": (
        EceTerm(Bins.of(edges=EDGES), MOST, LEAST),
        lambda c, z: _signed(c, z, np.maximum(0, np.searchsorted(EDGES, z, "left") - 1)),
    ),
    "ece left": (
        EceTerm(Bins.of(edges=EDGES, closed="left"), MOST, LEAST),
        lambda c, z: _signed(c, z, np.minimum(4, np.searchsorted(EDGES, z, "right") - 1)),
    ),
    "ks up": (KsTerm(1, 0.6, 0.7), lambda c, z: np.where(z <= 0.65, c - z, 0.0)),
    "ks down": (KsTerm(-1, 0.6, 0.7), lambda c, z: np.where(z <= 0.65, z - c, 0.0)),
    "risk": (
        RiskTerm(0.9, 0.2),
        lambda c, z: np.where(z >= 0.9, -0.2 if c else 0.8, 0.0),
    ),
    "right": (RightTerm(), lambda c, z: np.full_like(z, -1.0 if c else 0.0)),
}
ANYTHING = {"log loss": -math.log(0.01), "risk": 0.8, "right": 0.0}
OTHER = {
    "brier": lambda gap: gap**2,
    "log loss": lambda gap: -np.log(np.clip(1 - gap, 0.01, 0.99)),
    "risk": lambda gap: 0.8,
    "right": lambda gap: 0.0,
}


def _signed(c: bool, z: Any, at: Any) -> Any:
    """The best sign that a bin may have."""
    plus = np.where(MOST[at], c - z, -np.inf)
    return np.maximum(plus, np.where(LEAST[at], z - c, -np.inf))


def truth(name: str, scope: str, correct: bool, p: float, shift: float, less: float) -> float:
    """What a row of probability p can add, by trying confidences."""
    x = ndtri(p)
    low, high = float(ndtr(x - shift)), float(ndtr(x + shift))
    grid = np.concatenate((np.linspace(low, high, 201), EDGES, np.nextafter(EDGES, 2), [0.65, 0.9]))
    kept = TERMS[name][1](correct, grid[(grid >= low) & (grid <= high)]).max()
    certain = x > shift
    if scope == "class":
        return float(kept)
    if scope == "certified":
        return float(kept) if certain else ANYTHING.get(name, 1.0)
    if scope == "robust":
        return float(kept) - less if certain else 0.0
    gap = 1 - low if correct else max(high, 1 - low)
    return float(kept) if certain else float(OTHER.get(name, lambda gap: gap)(gap))


def chances(n: int, p: float) -> Any:
    if p < 1e-300:  # where binom.pmf overflows
        return np.eye(n + 1)[0]
    return binom.pmf(np.arange(n + 1), n, p)


def expectation(table: Any, n: int, least: int, h: float, p: float) -> float:
    """E exp(lambda (1{K >= k*} h - g(K)))."""
    k = np.arange(n + 1)
    counted = np.where(k >= least, h, 0.0)
    return float(chances(n, p) @ np.exp(table.weight * (counted - table.at(k))))


def largest_expectation(
    table: Any, n: int, least: int, h: Callable[[float], float], shift: float
) -> float:
    """By a fine grid, the neighbourhoods of all jumps, and a search around the largest."""
    at = lambda p: expectation(table, n, least, h(p), p)  # noqa: E731
    jumps = [
        float(ndtr(ndtri(e) + way * shift))
        for e in (*EDGES, 0.5, 0.65, 0.9, 0.6, 0.7)
        for way in (-1, 1)
    ]
    tiny = [p * (1 + step) for p in jumps for step in (-1e-9, -1e-13, 0.0, 1e-13, 1e-9)]
    points = np.unique(np.clip([*np.linspace(0, 1, 400), *tiny, 1e-12, 1 - 1e-12], 0.0, 1.0))
    values = np.array([at(float(p)) for p in points])
    best = float(values.max())
    for i in np.argsort(values)[-6:]:
        a, b = points[max(i - 1, 0)], points[min(i + 1, points.size - 1)]
        found = minimize_scalar(lambda p: -at(float(p)), bounds=(a, b), method="bounded")
        best = max(best, -float(found.fun))
    return best


@pytest.mark.parametrize("scope", ["certified", "all", "robust", "class"])
@pytest.mark.parametrize("name", sorted(TERMS))
def test_a_table_is_valid_for_every_probability(name: str, scope: str) -> None:
    """Fitted tables and tables of random weights, for right and wrong rows, attacked at jumps, ends and peaks."""
    rng = np.random.default_rng(len(name) + 10 * len(scope))
    for n, shift, correct in product((1, 7, 30), (0.0, 0.7), (False, True)):
        least = max(1, round(0.8 * n)) if scope == "certified" else 0
        less = 0.3 if scope == "robust" else 0.0
        fine = cells(n, least, shift)
        h = worst(TERMS[name][0], correct, fine, scope, less=less)
        weight = float(rng.choice([0.1, 1.0, 6.0]))
        hostile = np.exp(rng.normal(0, 3, lattice(n, least).starts.size))
        histogram = rng.binomial(20, 0.3, n + 1)
        tables = [
            valid_table(hostile, h, n, weight, shift, least),
            fit_table(expected_of(histogram), h, n, weight, shift, least),
        ]
        for table in tables:
            largest = largest_expectation(
                table,
                n,
                least,
                partial(truth, name, scope, correct, shift=shift, less=less),
                shift,
            )
            assert largest <= 1.0
        # What makes it valid costs little.
        assert tables[1].loss < 0.05


@pytest.mark.parametrize("n", [1, 2, 3, 20, 100, 1000, 20_000])
def test_probabilities_are_raised_by_more_than_they_are_off(n: int) -> None:
    """Against exact fractions, beyond 200 draws 40-digit arithmetic; what is left out is below what is added for it."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 40
    grid = lattice(n, n // 2)
    rng = np.random.default_rng(n)
    for i in rng.choice(grid.points.size, min(grid.points.size, 12), replace=False):
        p = grid.points[i]
        row = grid.mass[[int(i)]].toarray()[0]
        around = np.argsort(row)[-6:]
        for j in (*around, *rng.integers(0, grid.starts.size, 3)):
            first = int(grid.starts[j])
            last = int(grid.starts[j + 1]) if j + 1 < grid.starts.size else n + 1
            if n <= 200:
                x = Fraction(float(p))
                exact = float(
                    sum(math.comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(first, last))
                )
            else:
                y = mpmath.mpf(float(p))
                exact = float(
                    mpmath.fsum(
                        mpmath.binomial(n, k) * y**k * (1 - y) ** (n - k)
                        for k in range(first, last)
                    )
                )
            assert exact <= row[j] * (1 + grid.slack / 4) + 1e-24
            assert row[j] <= exact * (1 + grid.slack / 4) + 1e-300


@settings(deadline=None)
@given(
    st.integers(1, 60),
    st.floats(0.0, 1.0),
    st.integers(0, 2**32 - 1),
)
def test_sums_lie_below_their_bounds_between_points(n: int, p: float, seed: int) -> None:
    """Of any weights, with any factor that is constant on cells: the bound of the cell that holds p."""
    rng = np.random.default_rng(seed)
    least = int(rng.integers(0, n + 1))
    grid, fine = lattice(n, least), cells(n, least, 0.5)
    low, high = np.exp(rng.normal(0, 4, (2, grid.starts.size)))
    exponent = rng.normal(0, 2, fine.left.size)
    values = fine.values(grid, low, high, exponent)
    at = int(np.clip(np.searchsorted(fine.left, p, side="right") - 1, 0, fine.left.size - 1))
    k = grid.group_of(np.arange(n + 1))
    exact = chances(n, p) @ (low[k] + high[k] * math.exp(exponent[at]))
    assert fine.left[at] <= p <= fine.right[at]
    assert exact <= values[at] * (1 + 1e-12)
    x = Fraction(float(p))
    if n <= 12:
        sums = sum(
            Fraction(float(low[k[j]])) * math.comb(n, j) * x**j * (1 - x) ** (n - j)
            for j in range(n + 1)
        )
        assert sums <= Fraction(float(fine.values(grid, low, 0 * low, exponent)[at]))


def test_fitted_tables_are_near_the_best() -> None:
    """The expected charge is within 2e-3 of a lower bound on that of any valid table, by the dual (weak duality)."""
    n, shift, least, weight = 30, 0.7, 26, 4.0
    points = np.linspace(0.02, 0.98, 25)
    expected = Expected(points, np.full(25, 1 / 25), 10**6)
    for correct in (False, True):
        fine = cells(n, least, shift)
        h = worst(BrierTerm(), correct, fine, "certified")
        table = fit_table(expected, h, n, weight, shift, least)
        grid = lattice(n, least)
        q = expected.counts(grid)
        charge = float(q @ table.charge)
        # Any mixture of constraints gives a lower bound; expectation maximisation finds a good one.
        rows = np.array(
            [np.add.reduceat(chances(n, p), grid.starts) for p in np.linspace(0, 1, 301)]
        )
        factor = np.array(
            [truth("brier", "certified", correct, p, shift, 0.0) for p in np.linspace(0, 1, 301)]
        )
        rows = rows * np.where(grid.starts >= least, np.exp(weight * factor)[:, None], 1.0)
        mixing = np.full(301, 1 / 301)
        for _ in range(3000):
            mixing *= rows @ (q / (mixing @ rows))
        lower = -float(q @ np.log(q / (mixing @ rows))) / weight
        assert lower - 1e-9 <= charge <= lower + 2e-3


def test_the_product_over_rows_has_mean_at_most_one() -> None:
    """Every outcome of three rows, one a part, whose tables depend on each other's votes; the worst p by search."""
    n, least, shift = 2, 2, 0.3
    term = BrierTerm()

    def h(correct: bool, fine: Any) -> Any:
        return worst(term, correct, fine, "certified")

    k = np.arange(n + 1)
    factors: dict[tuple[int, int, int], tuple[float, Any, Any, float, Any]] = {}
    for a, b, c in product(k, k, k):
        rows = np.zeros((3, 2, n + 1), np.int64)
        rows[0, 1, a] = rows[1, 0, b] = rows[2, 1, c] = 1
        evidence = Evidence([VoteHistogram(n, rows)], shift, [least])
        main, small = evidence.legs
        weights = [evidence.weight(h, 0.1, leg) for leg in evidence.legs]
        heights = [evidence._heights(h, leg) for leg in evidence.legs]
        tables = [
            evidence._table(s, s.expected, height, weights[0])
            for s, height in zip(main.strata, heights[0], strict=True)
        ]
        own = evidence._table(small.strata[0], small.strata[0].expected, heights[1][0], weights[1])
        factors[a, b, c] = (weights[0], tables[0], tables[1], weights[1], own)
    rng = np.random.default_rng(0)
    points = np.concatenate(
        (rng.random((150, 3)), rng.choice([1e-9, 0.5, 0.6179, 0.6180, 0.99, 1 - 1e-9], (150, 3)))
    )
    corrects = (True, False, True)
    for p in points:
        chance = [chances(n, float(x)) for x in p]
        terms = [
            truth("brier", "certified", c, float(x), shift, 0.0)
            for c, x in zip(corrects, p, strict=True)
        ]
        mean_main, mean_small = 0.0, 0.0
        for (a, b, c), (weight, second, third, weight0, first) in factors.items():
            pr = chance[0][a] * chance[1][b] * chance[2][c]
            value = [
                np.where(count >= least, term, 0.0)
                for count, term in zip((a, b, c), terms, strict=True)
            ]
            gain = value[1] - second.at(np.array([b]))[0] + value[2] - third.at(np.array([c]))[0]
            mean_main += pr * math.exp(weight * gain)
            mean_small += pr * math.exp(weight0 * (value[0] - first.at(np.array([a]))[0]))
        assert mean_main <= 1.0
        assert mean_small <= 1.0


def test_bad_arguments_are_named() -> None:
    fine = cells(10, 0, 0.0)
    h = worst(BrierTerm(), True, fine, "all")
    with pytest.raises(ValueError, match="weight: expected lambda h up to"):
        fit_table(expected_of(np.ones(11, np.int64)), h, 10, 1000.0, 0.0)
    with pytest.raises(ValueError, match="v: expected finite weights above 0"):
        valid_table(np.zeros(lattice(10, 0).starts.size), h, 10, 1.0, 0.0)
    with pytest.raises(ValueError, match="votes: expected counts from 0 to n = 5, got 0 to 6"):
        VoteHistogram.of([0, 6], [1, 1], 5)
    with pytest.raises(ValueError, match=r"rows: expected an array of shape \(3, 2, 6\)"):
        VoteHistogram(5, np.zeros((2, 2, 6), np.int64))
    with pytest.raises(ValueError, match="rows: expected numbers of at least 0"):
        VoteHistogram(5, np.full((3, 2, 6), -1))
    with pytest.raises(ValueError, match="n: expected histograms of as many draws, got 5 and 6"):
        VoteHistogram.of([1], [1], 5) + VoteHistogram.of([1], [1], 6)
