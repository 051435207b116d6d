# SPDX-License-Identifier: MIT
from __future__ import annotations

import functools
import itertools
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import binomial_tail, normal_cdf
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri
from scipy.stats import beta

from certcal_ext.intervals import score_cdf
from certcal_ext.intervals.clopper_pearson import Interval
from certcal_ext.intervals.score_cdf import ScoreBand, score_band, survival_bounds
from certcal_ext.intervals.scores import betting, hoeffding

METHODS = ("both", "dkw", "binomial")
ALPHA = 1e-3


def expected_counts(survival: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """(1, J) counts whose shares at or above the inner edges are those given, rounded."""
    reached = np.concatenate([[n], np.round(survival * n).astype(np.int64), [0]])
    return -np.diff(reached)[None]


def some_counts(seed: int, rows: int = 30, bins: int = 20) -> NDArray[np.int64]:
    """Rows of different n, many of whose bins are empty; some with a single bin."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 400, (rows, bins)) * (random.random((rows, bins)) < 0.4)
    counts[np.arange(rows), random.integers(0, bins, rows)] += 100
    counts[0] = 0
    counts[0, -1] = 1000
    counts[1] = 0
    counts[1, 0] = 1000
    return counts


def plain_certificate(counts: NDArray[np.int64], shift: float, method: str) -> tuple[float, float]:
    """Kumar et al.'s sums for one row, edge by edge, in SciPy."""
    n, bins = int(counts.sum()), counts.size
    lower, upper = 0.0, 1.0 / bins
    for j in range(1, bins):
        low, high = survival_bounds([int(counts[j:].sum())], n, ALPHA, method)
        lower += float(ndtr(ndtri(low[0]) - shift)) / bins
        upper += float(ndtr(ndtri(high[0]) + shift)) / bins
    return lower, upper


# --- the band ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 33, 1000])
def test_dkw_is_its_formula_rounded_outward(n: int) -> None:
    k = np.arange(n + 1)
    lower, upper = survival_bounds(k, n, ALPHA, "dkw")
    with mpmath.workdps(30):
        distance = mpmath.sqrt(mpmath.log(2 / mpmath.mpf(ALPHA)) / (2 * n))
        for i in k.tolist():
            share = mpmath.mpf(i) / n
            assert lower[i] <= max(share - distance, 0) <= lower[i] + 1e-14
            assert upper[i] >= min(share + distance, 1) >= upper[i] - 1e-14


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000, 3000])
@pytest.mark.parametrize("alpha", [1e-8, 1e-3, 0.2])
def test_exact_tails_of_all_steps_of_the_binomial_band_add_up_to_alpha(
    n: int, alpha: float
) -> None:
    # The lower bound is a step function of k. It fails somewhere only if, for the k at one of its steps, k or more draws
    # fall where the probability is below the bound: the sum of these binomial tails bounds its failure.
    lower, upper = survival_bounds(np.arange(n + 1), n, alpha, "binomial")
    steps = np.flatnonzero(np.diff(lower) > 0) + 1
    assert steps.size >= min(n, 3)
    total = sum((binomial_tail(int(k), n, float(lower[k])) for k in steps), mpmath.mpf(0))
    assert total <= mpmath.mpf(alpha) / 2
    # What is left over are ranks of the two tails that meet in the middle.
    assert total >= mpmath.mpf(alpha) / 2 * (mpmath.mpf("0.999999") if n >= 1000 else 0.49)
    assert (upper >= 1 - lower[::-1]).all()
    np.testing.assert_allclose(upper, 1 - lower[::-1], atol=1e-15)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 5, 100, 10_000])
def test_band_rises_and_holds_the_share(n: int, method: str) -> None:
    for alpha in (1e-8, 1e-3, 0.9):
        k = np.arange(n + 1)
        lower, upper = survival_bounds(k, n, alpha, method)
        assert (np.diff(lower) >= 0).all()
        assert (np.diff(upper) >= 0).all()
        assert ((lower >= 0) & (lower < np.maximum(k / n, 1e-300)) | (k == 0)).all()
        assert (lower <= k / n).all()
        assert (k / n <= upper).all()
        assert (upper <= 1).all()
        assert lower[0] == 0
        assert upper[-1] == 1


@pytest.mark.parametrize("method", METHODS)
def test_small_bands_hold_at_all_edges_with_their_probability(method: str) -> None:
    # Exact: all multisets of n = 6 draws over 4 values, with their probabilities.
    n, alpha = 6, 0.5
    lower, upper = survival_bounds(np.arange(n + 1), n, alpha, method)
    random = np.random.default_rng(2)
    for shares in [*random.dirichlet(np.ones(4), 40), np.full(4, 0.25), np.array([0, 0.5, 0.5, 0])]:
        survival = np.cumsum(shares[::-1])[::-1][1:]
        missed = 0.0
        for counts in itertools.product(range(n + 1), repeat=4):
            if sum(counts) == n:
                k = np.cumsum(counts[::-1])[::-1][1:]
                if ((lower[k] > survival + 1e-12) | (upper[k] < survival - 1e-12)).any():
                    ways = math.factorial(n) / math.prod(math.factorial(c) for c in counts)
                    missed += ways * math.prod(p**c for p, c in zip(shares, counts, strict=True))
        assert missed <= alpha


def test_both_is_nearly_the_better_one_everywhere() -> None:
    # Half of alpha each costs the middle 1.05 and the tails less than that against the whole alpha for one.
    for n in (1000, 100_000):
        k = np.arange(n + 1)
        both, dkw, exact = (survival_bounds(k, n, ALPHA, method) for method in METHODS)
        width = both.upper - both.lower
        assert (width <= 1.05 * (dkw.upper - dkw.lower)).all()
        tail = (k < 0.05 * n) | (k > 0.95 * n)
        # 1.15: ranks of the two are the same, but the levels are split over fewer octaves.
        assert (width[tail] <= 1.15 * (exact.upper - exact.lower)[tail]).all()
        assert width[[0, -1]].max() <= 0.25 * (dkw.upper - dkw.lower)[[0, -1]].min()


# --- the certificate -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0, 50.0])
def test_certificate_is_the_plain_sum_rounded_outward(method: str, shift: float) -> None:
    counts = some_counts(4)
    result = score_band(counts, ALPHA, method).at(shift)
    for row in range(len(counts)):
        lower, upper = plain_certificate(counts[row], shift, method)
        assert result.lower[row] <= lower + 1e-15
        assert result.lower[row] == pytest.approx(lower, abs=1e-13)
        assert result.upper[row] >= upper - 1e-15
        assert result.upper[row] == pytest.approx(upper, abs=1e-13)


@pytest.mark.parametrize("bins", [7, 300])
def test_rounding_is_outward_in_40_digits(bins: int) -> None:
    # By more than the J 2^-53 that misplaced scores may cost; at J = 300 Phi's own margin would not suffice.
    counts = some_counts(9, rows=3, bins=bins)[1:]
    shift = 0.7
    result = score_band(counts, ALPHA).at(shift)

    @functools.cache
    def moved(probability: float, by: float) -> mpmath.mpf:
        if probability in (0.0, 1.0):
            return mpmath.mpf(probability)
        x = mpmath.findroot(
            lambda z: normal_cdf(z) - mpmath.mpf(probability), float(ndtri(probability))
        )
        return normal_cdf(x + mpmath.mpf(by))

    for row in range(len(counts)):
        n = int(counts[row].sum())
        bounds = survival_bounds(n - np.cumsum(counts[row])[:-1], n, ALPHA)
        with mpmath.workdps(40):
            lower = mpmath.fsum(moved(float(p), -shift) for p in bounds.lower) / bins
            upper = (1 + mpmath.fsum(moved(float(p), shift) for p in bounds.upper)) / bins
            off = bins * mpmath.mpf(2) ** -53
            assert result.lower[row] <= max(lower - off, 0)
            assert result.upper[row] >= min(upper + off, 1)


@given(
    rows=st.lists(st.lists(st.integers(0, 300), min_size=5, max_size=5), min_size=1, max_size=4),
    within=st.floats(0, 1),
    shift=st.floats(0, 4),
    alpha=st.floats(1e-8, 0.5),
)
def test_never_looser_than_hoeffding_beyond_a_bin(
    rows: list[list[int]], within: float, shift: float, alpha: float
) -> None:
    # With the same alpha, DKW's distance is Hoeffding's, and a histogram knows the mean to 1/J: the standard certificate
    # at mean -+ (distance + 1/J) is never inside that of the band.
    counts = np.array(rows)
    counts[:, 2] += 1
    mean = (counts @ np.arange(5) / counts.sum(axis=1) + within) / 5
    standard = hoeffding(mean, counts.sum(axis=1), alpha)
    cdf = score_band(counts, alpha, "dkw").at(shift)
    worst = ndtr(ndtri(np.maximum(standard.lower - 1 / 5, 0)) - shift)
    best = ndtr(ndtri(np.minimum(standard.upper + 1 / 5, 1)) + shift)
    assert (cdf.lower >= worst - 1e-9).all()
    assert (cdf.upper <= best + 1e-9).all()


@given(seed=st.integers(0, 100), shifts=st.lists(st.floats(0, 8), min_size=2, max_size=2))
def test_intervals_grow_with_the_shift(seed: int, shifts: list[float]) -> None:
    band = score_band(some_counts(seed, rows=5), ALPHA)
    small, large = (band.at(shift) for shift in sorted(shifts))
    assert (large.lower <= small.lower).all()
    assert (small.upper <= large.upper).all()
    assert ((small.lower >= 0) & (small.lower <= small.upper) & (small.upper <= 1)).all()


def test_many_draws_attain_the_worst_case_of_a_model_that_rises_along_one_direction() -> None:
    # f(x) = Phi(t / 0.4) along a direction, noise of scale 1: P(f >= s) = Phi(a - 0.4 Phi^-1(s)), and the mean after a
    # step of length d is Phi((a + d) / sqrt(1 + 0.16)). Steps along the direction are the worst there are.
    bins, a, n = 1000, 0.8, 10**7
    survival = ndtr(a - 0.4 * ndtri(np.arange(1, bins) / bins))
    band = score_band(expected_counts(survival, n), ALPHA)
    for shift in (0.0, 0.5, 1.0, 2.0):
        lower, upper = band.at(shift)
        worst, best = ndtr(np.array([a - shift, a + shift]) / math.sqrt(1.16))
        assert worst - 1 / bins - 2e-3 <= lower[0] <= worst
        assert best <= upper[0] <= best + 1 / bins + 2e-3


def test_confident_scores_gain_most() -> None:
    # n = 10^5: against Kumar et al.'s DKW band and their standard certificate, at half a sigma.
    edges = np.arange(1, 1000) / 1000
    for shape, least in ((50, 0.4), (1000, 0.85)):
        counts = expected_counts(beta(shape, 1).sf(edges), 100_000)
        width = {
            m: float(np.diff(score_band(counts, ALPHA, m).at(0.5), axis=0)[0, 0]) for m in METHODS
        }
        ends = hoeffding([shape / (shape + 1)], 100_000, ALPHA)
        standard = float(ndtr(ndtri(ends.upper) + 0.5)[0] - ndtr(ndtri(ends.lower) - 0.5)[0])
        assert width["both"] <= (1 - least) * width["dkw"]
        assert width["both"] <= (1 - least) * standard


# --- with the mean as well ------------------------------------------------------------------------


def some_means(counts: NDArray[np.int64], within: float = 0.4) -> NDArray[np.float64]:
    """The means of scores that all lie at the same place in their bins."""
    bins = counts.shape[1]
    return np.asarray((counts @ np.arange(bins) / counts.sum(axis=1) + within) / bins)


def shifted(ends: Interval, shift: float) -> Interval:
    return Interval(ndtr(ndtri(ends.lower) - shift), ndtr(ndtri(ends.upper) + shift))


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0, 3.0])
@pytest.mark.parametrize("within", [0.0, 0.4, 1.0])
def test_with_the_mean_at_least_as_tight_as_both_that_it_joins(shift: float, within: float) -> None:
    counts = some_counts(8)
    mean = some_means(counts, within)
    joint = score_band(counts, ALPHA, mean=mean).at(shift)
    standard = shifted(betting(counts, mean, ALPHA / 2), shift)
    cdf = score_band(counts, ALPHA / 2).at(shift)
    # 1e-9: c is found to 1e-9 / n, which a large shift may magnify.
    assert (joint.lower >= np.maximum(standard.lower, cdf.lower) - 1e-9).all()
    assert (joint.upper <= np.minimum(standard.upper, cdf.upper) + 1e-9).all()
    if 0 < shift <= 1:
        assert (joint.lower > np.maximum(standard.lower, cdf.lower) + 1e-4).sum() > 3


@pytest.mark.parametrize("seed", range(4))
def test_no_heights_within_the_bounds_and_with_the_mean_give_less(seed: int) -> None:
    # Heights drawn between the bounds, then moved toward one of them until their mean is that of the interval.
    random = np.random.default_rng(seed)
    counts = some_counts(seed, rows=8, bins=6)
    mean = some_means(counts)
    band, ends = score_band(counts, ALPHA, mean=mean), betting(counts, mean, ALPHA / 2)
    for row in range(len(counts)):
        n = int(counts[row].sum())
        reached = np.concatenate([[n], n - np.cumsum(counts[row])])
        bounds = survival_bounds(reached, n, ALPHA / 2)
        low, high = np.append(bounds.lower[1:-1], 0.0), np.append(1.0, bounds.upper[1:-1])
        for shift in (0.0, 0.5, 2.0):
            lower, upper = (end[row] for end in band.at(shift))
            for _ in range(200):
                heights = low + (high - low) * random.random(6) ** random.choice([0.2, 1, 5])
                for least, most, limit, side in (
                    (heights, high, ends.lower[row], -1),
                    (heights, low, ends.upper[row], 1),
                ):
                    gap = most.mean() - least.mean()
                    part = np.clip((limit - least.mean()) / gap, 0, 1) if gap else 0.0
                    moved = least + part * (most - least)
                    if side < 0 and moved.mean() >= limit - 1e-12:
                        assert ndtr(ndtri(moved) - shift).mean() >= lower - 1e-9
                    if side > 0 and moved.mean() <= limit + 1e-12:
                        assert ndtr(ndtri(moved) + shift).mean() <= upper + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_the_worst_case_is_that_of_the_convex_program(seed: int) -> None:
    counts = some_counts(seed, rows=3, bins=5)[2:]
    mean = some_means(counts)
    n = int(counts.sum())
    reached = np.concatenate([[n], n - np.cumsum(counts[0])])
    bounds = survival_bounds(reached, n, ALPHA / 2)
    low, high = np.append(bounds.lower[1:-1], 0.0), np.append(1.0, bounds.upper[1:-1])
    ends, shift = betting(counts, mean, ALPHA / 2), 0.5
    result = score_band(counts, ALPHA, mean=mean).at(shift)
    for sign, limit, value in (
        (-1, ends.lower[0], result.lower[0]),
        (1, ends.upper[0], result.upper[0]),
    ):
        solved = minimize(
            lambda g, s=sign: -s * ndtr(ndtri(np.clip(g, 1e-12, 1 - 1e-12)) + s * shift).mean(),
            (low + high) / 2,
            method="SLSQP",
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "ineq", "fun": lambda g, s=sign, m=limit: -s * (g.mean() - m)},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert solved.success
        assert value == pytest.approx(-sign * solved.fun, abs=2e-6)


def test_confident_scores_gain_once_more_from_the_mean() -> None:
    edges = np.arange(1, 1000) / 1000
    counts = expected_counts(beta(1000, 1).sf(edges), 100_000)
    mean, shift = np.array([1000 / 1001]), 0.25
    width = {
        "joint": np.diff(score_band(counts, ALPHA, mean=mean).at(shift), axis=0)[0, 0],
        "cdf": np.diff(score_band(counts, ALPHA).at(shift), axis=0)[0, 0],
        "standard": np.diff(shifted(betting(counts, mean, ALPHA), shift), axis=0)[0, 0],
    }
    assert width["joint"] <= 0.65 * min(width["cdf"], width["standard"])


# --- shapes, compression, arguments --------------------------------------------------------------


@pytest.mark.parametrize("with_mean", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_rows_do_not_depend_on_their_neighbours(
    method: str, with_mean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = some_counts(6)
    mean = some_means(counts) if with_mean else None
    # The mean interval of betting depends on the neighbours by its last step; see there.
    near = 1e-6 if with_mean else 0.0
    together = score_band(counts, ALPHA, method, mean).at(0.4)
    for row in range(len(counts)):
        own = None if mean is None else mean[row : row + 1]
        alone = score_band(counts[row : row + 1], ALPHA, method, own).at(0.4)
        assert alone.lower[0] == pytest.approx(together.lower[row], rel=0, abs=near)
        assert alone.upper[0] == pytest.approx(together.upper[row], rel=0, abs=near)
    monkeypatch.setattr(score_cdf, "_CHUNK", 1)
    again = score_band(counts, ALPHA, method, mean).at(0.4)
    np.testing.assert_array_equal(again.lower, together.lower)
    np.testing.assert_array_equal(again.upper, together.upper)


def test_few_draws_of_many_are_found_with_and_without_a_table() -> None:
    few = np.array([[0, 3, 10**6 - 3]])  # a table of 10^6 entries for two counts is not made
    many = np.repeat(few, 20_000, axis=0)
    alone, together = score_band(few, ALPHA).at(0.2), score_band(many, ALPHA).at(0.2)
    assert (together.lower == alone.lower[0]).all()
    assert (together.upper == alone.upper[0]).all()


def test_equal_edges_are_kept_once() -> None:
    counts = np.zeros((3, 500), int)
    counts[:, -1] = 100
    counts[2, 10] = 50
    band = score_band(counts, ALPHA)
    assert len(band) == 3
    assert band.bins == 500
    assert band.alpha == ALPHA
    # Below the last bin all draws reach an edge; 0 and 1 at the outer edges; the other row has a step more.
    assert band.lowest.nnz == 2 + 2 + 3
    assert band.highest.nnz == 1 + 1 + 2
    assert band.lowest.sum(axis=1).ravel().tolist() == [[500.0] * 3]
    assert band.highest.sum(axis=1).ravel().tolist() == [[500.0] * 3]
    assert band.row.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        band.probit_lower[0] = 0


@pytest.mark.parametrize("method", METHODS)
def test_no_rows_one_bin_and_one_draw(method: str) -> None:
    empty = score_band(np.zeros((0, 7), int), ALPHA, method)
    assert len(score_band(np.zeros((0, 7), int), ALPHA, method, mean=[]).at(1.0).upper) == 0
    assert isinstance(empty, ScoreBand)
    assert len(empty) == 0
    assert empty.at(0.5).lower.shape == (0,)
    one_bin = score_band([[5], [9]], ALPHA, method).at(0.1)
    assert one_bin.lower.tolist() == [0, 0]
    assert one_bin.upper.tolist() == [1, 1]
    one_bin = score_band([[500]], ALPHA, method, mean=[0.3]).at(0.0)  # nothing but the mean
    assert 0.15 < one_bin.lower[0] < 0.3 < one_bin.upper[0] < 0.45
    lower, upper = score_band([[0, 1]], ALPHA, method).at(0.0)
    assert 0 <= lower[0] <= 0.5 * ALPHA
    assert upper[0] == 1


def test_vacuous_at_a_large_shift() -> None:
    lower, upper = score_band(some_counts(1), ALPHA).at(100.0)
    assert (lower <= 1e-300).all()
    assert (upper[1:] >= 1 / 20).all()
    assert upper[0] == 1


@pytest.mark.parametrize(
    ("counts", "alpha", "method", "error", "words"),
    [
        ([1, 2], ALPHA, "both", ValueError, "counts: expected shape"),
        ([[1.5, 2]], ALPHA, "both", TypeError, "counts: expected whole numbers"),
        ([[0, 0]], ALPHA, "both", ValueError, "got 0 in row 0"),
        ([[1, 2]], 1e-9, "both", ValueError, "alpha: expected at least 1e-08 for a band"),
        ([[1, 2]], 1.0, "both", ValueError, "alpha: expected"),
        ([[1, 2]], None, "both", TypeError, "alpha: expected a number"),
        ([[1, 2]], ALPHA, "kolmogorov", ValueError, "method: expected .* got 'kolmogorov'"),
    ],
)
def test_bad_arguments(
    counts: object, alpha: object, method: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        score_band(counts, alpha, method)  # type: ignore[arg-type]


def test_bad_means() -> None:
    with pytest.raises(ValueError, match=r"mean: expected a mean that the counts allow, from 0\.5"):
        score_band([[0, 9]], ALPHA, mean=[0.4])
    with pytest.raises(ValueError, match="mean: expected 1 entries"):
        score_band([[0, 9]], ALPHA, mean=[0.6, 0.7])
    with pytest.raises(ValueError, match="alpha: expected at least 1e-08"):
        score_band([[0, 9]], 1.5e-8, mean=[0.6])


@pytest.mark.parametrize("shift", [-0.1, math.inf, math.nan])
def test_shift_must_be_a_length(shift: float) -> None:
    with pytest.raises(ValueError, match=r"shift: expected"):
        score_band([[1, 2]], ALPHA).at(shift)


@pytest.mark.parametrize(
    ("k", "n", "error", "words"),
    [
        ([11], 10, ValueError, "k: expected counts from 0 to n = 10, got 11 to 11"),
        ([-1, 3], 10, ValueError, "got -1 to 3"),
        ([0.5], 10, TypeError, "k: expected whole numbers"),
        ([0], 0, ValueError, "n: expected a whole number"),
    ],
)
def test_bad_arguments_of_survival_bounds(
    k: object, n: int, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        survival_bounds(k, n, ALPHA)
