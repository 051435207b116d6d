# SPDX-License-Identifier: MIT
from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq, linprog
from scipy.special import ndtr, ndtri

from certcal_ext.intervals import scores as score_intervals
from certcal_ext.intervals.clopper_pearson import clopper_pearson
from certcal_ext.intervals.scores import (
    betting,
    empirical_bernstein,
    hoeffding,
    score_counts,
    score_interval,
)

METHODS = ("betting", "bernstein", "hoeffding")
ALPHA = 1e-3


def histogram(scores: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """(1, J) counts; bin j holds [j/J, (j+1)/J), the last one with 1."""
    index = np.minimum((scores * bins).astype(np.int64), bins - 1)
    return np.bincount(index, minlength=bins)[None]


def near_one(n: int, missing: float, bins: int = 1000) -> NDArray[np.int64]:
    """All scores in the last bin, but for a share `missing` that is spread over all bins."""
    counts = np.zeros(bins, np.int64)
    spread = round(n * missing)
    counts += np.bincount(np.arange(spread) * bins // max(spread, 1), minlength=bins)
    counts[-1] += n - spread
    return counts[None]


def mean_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean of scores in the middle of their bins."""
    bins = counts.shape[1]
    return np.asarray(counts @ (np.arange(bins) + 0.5) / bins / counts.sum(axis=1))


# --- the most spread-out scores ------------------------------------------------------------------


@given(
    scores=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    bins=st.integers(1, 12),
    bend=st.floats(0, 1),
)
def test_no_scores_with_the_same_counts_and_mean_are_more_spread_out(
    scores: list[float], bins: int, bend: float
) -> None:
    x = np.array(scores)
    counts = histogram(x, bins)
    residual = np.array([x.sum() * bins - counts[0] @ np.arange(bins)])
    weights = score_intervals._widest_spread(counts, np.maximum(residual, 0))[0]
    edges = np.linspace(0, 1, bins + 1)
    assert weights.sum() == pytest.approx(x.size)
    assert weights @ edges == pytest.approx(x.sum(), abs=1e-9)
    for convex in (np.square, lambda z: np.abs(z - bend), lambda z: -np.log1p(30 * z), np.exp):
        assert np.sum(convex(x)) <= weights @ convex(edges) + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_the_spread_solves_the_linear_program(seed: int) -> None:
    # Maximise sum_b slope_b r_b over 0 <= r_b <= n_b with a given sum, by HiGHS.
    random = np.random.default_rng(seed)
    counts = random.integers(0, 6, (1, 8)) * random.integers(0, 2, (1, 8))
    counts[0, 3] += 1
    residual = np.array([random.random() * counts.sum()])
    values = np.log1p(20 * np.linspace(0, 1, 9))
    weights = score_intervals._widest_spread(counts, residual)[0]
    program = linprog(
        np.diff(values), A_eq=np.ones((1, 8)), b_eq=residual, bounds=[(0, c) for c in counts[0]]
    )
    assert weights @ values == pytest.approx(counts[0] @ values[:-1] + program.fun, abs=1e-9)


# --- against the scores themselves ---------------------------------------------------------------


def raw_bernstein(x: NDArray[np.float64], alpha: float) -> tuple[float, float]:
    logarithm = math.log(4 / alpha)
    width = math.sqrt(2 * x.var(ddof=1) * logarithm / x.size) + 7 * logarithm / (3 * (x.size - 1))
    return max(x.mean() - width, 0), min(x.mean() + width, 1)


def raw_betting(x: NDArray[np.float64], alpha: float) -> float:
    """The lower end that the theorem of `betting` gives for the scores themselves, found by brentq."""
    n, level = x.size, 1 / (0.475 * alpha)
    step = math.sqrt(2 * math.log(2 / (0.05 * alpha)) / (n - 1))
    best = math.sqrt(2 * math.log(level) / n)
    high, low = min(x.std(ddof=1) + step, 0.5), max(x.std(ddof=1) - step, 1e-9)
    first, last = (min(round(4 * math.log2(best / s)), 28) for s in (high, low))
    fractions = [2 ** (q / 4) for q in range(first, last + 1)]
    mixture = [(2.0**q, (1 if q < 3 else 2) / 12) for q in range(-1, 7)]
    log_of = {t: float(np.log1p(t * x).sum()) for t in [*fractions, *(t for t, _ in mixture)]}

    def excess(m: float) -> float:
        def capital(t: float) -> float:
            return log_of[t] - n * math.log1p(t * m)

        terms = [math.log(0.4 * w) + capital(t) for t, w in mixture]
        terms.append(math.log(0.6) + min(capital(t) for t in fractions))
        return float(np.logaddexp.reduce(terms)) - math.log(level)

    return 0.0 if excess(0.0) < 0 else float(brentq(excess, 0.0, x.mean(), xtol=1e-14))


def samples(seed: int, n: int) -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    return {
        "beta": random.beta(5, 1, n),
        "two points": (random.random(n) < 0.9).astype(float),
        "near one": 1 - 1e-4 * random.random(n),
        "mixture": np.where(random.random(n) < 0.3, random.beta(1, 3, n), random.beta(80, 1, n)),
        "one point": np.full(n, 0.37),
        "small": random.beta(1, 50, n),
    }


@pytest.mark.parametrize("n", [2, 100, 10_000])
@pytest.mark.parametrize("bins", [10, 1000])
def test_a_histogram_never_gives_more_than_the_scores(n: int, bins: int) -> None:
    for name, x in samples(3, n).items():
        counts, mean = histogram(x, bins), [float(x.mean())]
        lower, upper = raw_bernstein(x, ALPHA)
        ends = empirical_bernstein(counts, mean, ALPHA)
        assert ends.lower[0] <= lower, name
        assert ends.upper[0] >= upper, name
        ends = betting(counts, mean, ALPHA)
        low, high = raw_betting(x, ALPHA), 1 - raw_betting(1 - x, ALPHA)
        assert ends.lower[0] <= low, name
        assert ends.upper[0] >= high, name
        if bins == 1000 and n > 2:
            # What 1000 bins cost: the variance within a bin, at most 1/4000 of a bin's distance.
            assert ends.upper[0] - ends.lower[0] <= 1.25 * (high - low) + 1e-4, name


@pytest.mark.parametrize("bins", [2, 10, 1000])
def test_fractions_of_the_histogram_hold_those_of_the_scores(bins: int) -> None:
    # A standard deviation from the histogram may be too large by a bin's width: T must allow for it.
    n = 1_000_000
    threshold, spread = math.log(2 / (0.95 * ALPHA)), math.log(2 / (0.05 * ALPHA))
    step, best = math.sqrt(2 * spread / (n - 1)), math.sqrt(2 * threshold / n)
    narrower = 0
    for name, x in samples(11, n).items():
        counts = histogram(x, bins)
        residual = np.maximum([x.sum() * bins - counts[0] @ np.arange(bins)], 0)
        weights = score_intervals._widest_spread(counts, residual)
        rows = score_intervals._Rows(np.array([float(n)]), np.array([x.mean()]), weights, weights)
        first, last = score_intervals._fraction_steps(rows, threshold, spread)
        deviation = float(x.std(ddof=1))
        assert first[0] <= round(4 * math.log2(best / (deviation + step))), name
        assert last[0] >= min(round(4 * math.log2(best / max(deviation - step, 1e-9))), 28), name
        square = float(weights[0] @ np.linspace(0, 1, bins + 1) ** 2) / n
        wide = math.sqrt(max(square - x.mean() ** 2, 0))
        narrower += wide > 1.3 * deviation
    assert narrower >= (3 if bins == 2 else 0)


def test_scores_of_0_and_1_lose_nothing_to_the_histogram() -> None:
    x = samples(1, 10_000)["two points"]
    ends = betting(histogram(x, 1000), [x.mean()], ALPHA)
    assert ends.lower[0] == pytest.approx(raw_betting(x, ALPHA), abs=1e-7)
    assert ends.upper[0] == pytest.approx(1 - raw_betting(1 - x, ALPHA), abs=1e-7)
    ends = empirical_bernstein(histogram(x, 1000), [x.mean()], ALPHA)
    assert ends.lower[0] == pytest.approx(raw_bernstein(x, ALPHA)[0], abs=1e-6)


def spread_in_40_digits(counts: NDArray[np.int64], mean: float) -> list[mpmath.mpf]:
    """Weights on the edges, for the least sum that a mean right to within 2^-40 allows, filled from the last bin down."""
    bins, n = counts.size, int(counts.sum())
    rest = n * bins * (mpmath.mpf(mean) - mpmath.mpf(2) ** -40) - int(counts @ np.arange(bins))
    weights = [mpmath.mpf(0)] * (bins + 1)
    for b in range(bins - 1, -1, -1):
        moved = min(mpmath.mpf(int(counts[b])), max(rest, mpmath.mpf(0)))
        rest -= moved
        weights[b] += int(counts[b]) - moved
        weights[b + 1] += moved
    return weights


def log_capital(weights: list[mpmath.mpf], t: mpmath.mpf, m: mpmath.mpf) -> mpmath.mpf:
    """The logarithm of K(t, m) in the docstring of `betting`."""
    bins = len(weights) - 1
    terms = [w * mpmath.log((1 + t * k / bins) / (1 + t * m)) for k, w in enumerate(weights) if w]
    return mpmath.fsum(terms)


@pytest.mark.parametrize("missing", [0.0, 0.003, 0.4])
def test_capital_at_the_lower_end_is_enough_in_40_digits(missing: float) -> None:
    # The theorem's condition at the returned end, without the margins of the code.
    n, bins = 5000, 1000
    counts = near_one(n, missing)
    mean = float(mean_of(counts)[0])
    end = mpmath.mpf(float(betting(counts, [mean], ALPHA).lower[0]))
    with mpmath.workdps(40):
        weights = spread_in_40_digits(counts[0], mean)
        mixture = mpmath.fsum(
            (1 if q < 3 else 2) * mpmath.exp(log_capital(weights, mpmath.mpf(2) ** q, end)) / 12
            for q in range(-1, 7)
        )
        square = sum(float(w) * (k / bins - mean) ** 2 for k, w in enumerate(weights))
        spread = math.sqrt(square / (n - 1))
        step = math.sqrt(2 * math.log(2 / (0.05 * ALPHA)) / (n - 1))
        best = math.sqrt(2 * math.log(2 / (0.95 * ALPHA)) / n)
        first = round(4 * math.log2(best / min(spread + step, 0.5)))
        last = min(round(4 * math.log2(best / max(spread - step - 1 / bins, 1e-9))), 28)
        for q in range(first, last + 1):
            own = mpmath.exp(log_capital(weights, mpmath.mpf(2) ** (mpmath.mpf(q) / 4), end))
            assert 0.6 * own + 0.4 * mixture >= 2 / (0.95 * mpmath.mpf(ALPHA))


# --- against other intervals ---------------------------------------------------------------------


@pytest.mark.parametrize("n", [1000, 10_000, 100_000])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99, 1.0])
def test_votes_as_scores_come_near_clopper_pearson(n: int, p: float) -> None:
    # Chernoff's bound with the best fraction for the data is 1.18 times as wide as Clopper-Pearson at this alpha (two
    # standard normal tails against two Gaussian exponents). The rest is what not knowing the fraction costs.
    k = round(p * n)
    counts = np.zeros((1, 1000), np.int64)
    counts[0, 0], counts[0, -1] = n - k, k
    ends = betting(counts, [k / n], ALPHA)
    exact = clopper_pearson(k, n, ALPHA)
    ratio = (ends.upper[0] - ends.lower[0]) / float(exact.upper - exact.lower)
    assert 1.0 <= ratio <= 1.37
    if n == 100_000 and p in (0.1, 0.5, 0.9):
        assert ratio <= 1.27


def hedged_capital(x: NDArray[np.float64], alpha: float) -> tuple[float, float]:
    """The hedged capital interval of Waudby-Smith and Ramdas (2024) with its predictable fractions, at a fixed n."""
    n = x.size
    i = np.arange(1, n + 1)
    running = (0.5 + np.cumsum(x)) / (i + 1)
    variance = (0.25 + np.cumsum((x - running) ** 2)) / (i + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    fraction = np.sqrt(2 * math.log(2 / alpha) / (n * before))

    def excess(m: float, sign: int, values: NDArray[np.float64]) -> float:
        bet = np.minimum(fraction, 0.5 / m)
        return float(np.log1p(sign * bet * (values - m)).sum()) - math.log(2 / alpha)

    def end(values: NDArray[np.float64]) -> float:
        return float(brentq(lambda m: excess(m, 1, values), 1e-6, values.mean()))

    return end(x), 1 - end(1 - x)


@pytest.mark.parametrize("name", ["beta", "two points", "mixture", "small"])
def test_near_the_sequential_hedged_capital_which_knows_the_order(name: str) -> None:
    for n in (1000, 10_000, 100_000):
        x = samples(5, n)[name]
        ends = betting(histogram(x, 1000), [x.mean()], ALPHA)
        lower, upper = hedged_capital(x, ALPHA)
        assert ends.upper[0] - ends.lower[0] <= 1.2 * (upper - lower)


def test_betting_is_the_narrowest_of_the_three() -> None:
    for n in (1000, 100_000):
        for name, x in samples(7, n).items():
            counts, mean = histogram(x, 1000), [x.mean()]
            widths = {}
            for method in METHODS:
                lower, upper = score_interval(counts, mean, ALPHA, method)
                widths[method] = upper[0] - lower[0]
            assert widths["betting"] < widths["bernstein"], name
            assert widths["betting"] < widths["hoeffding"], name


def test_confident_samples_pass_the_wall_of_hoeffding() -> None:
    # Kumar et al.'s bound at n = 10^5 and alpha = 10^-3 cannot certify more than 1 - 0.00617 (0.9941 with ln(1/alpha)).
    n = 100_000
    counts = near_one(n, 0.0)
    for method in ("betting", "bernstein"):
        for mean in (1.0, 0.9999, 0.9995):
            assert score_interval(counts, [mean], ALPHA, method).lower[0] > 0.9985
    assert score_interval(counts, [1.0], ALPHA, "hoeffding").lower[0] < 0.9941
    # All scores at 1: at most 1.3 times what all votes right give by Clopper-Pearson.
    missing = 1 - betting(counts, [1.0], ALPHA).lower[0]
    assert missing <= 1.3 * (1 - float(clopper_pearson(n, n, ALPHA).lower))


@pytest.mark.parametrize("method", ["betting", "bernstein"])
def test_confident_samples_shrink_by_a_third_at_half_a_sigma(method: str) -> None:
    counts = np.concatenate([near_one(100_000, share) for share in (0, 0.001, 0.01, 0.03)])
    mean = mean_of(counts)

    def width(name: str) -> NDArray[np.float64]:
        lower, upper = score_interval(counts, mean, ALPHA, name)
        return np.asarray(ndtr(ndtri(upper) + 0.5) - ndtr(ndtri(lower) - 0.5))

    floor = ndtr(ndtri(mean) + 0.5) - ndtr(ndtri(mean) - 0.5)
    assert (width(method).mean()) <= 0.7 * width("hoeffding").mean()
    assert ((width(method) - floor) <= 0.5 * (width("hoeffding") - floor)).all()


# --- ends, shapes, arguments ---------------------------------------------------------------------


def test_hoeffding_is_its_formula_rounded_outward() -> None:
    lower, upper = hoeffding([0.0, 0.5, 1.0], np.array([10, 100, 1000]), 0.05)
    with mpmath.workdps(30):
        for mean, n, low, high in zip([0, 0.5, 1], [10, 100, 1000], lower, upper, strict=True):
            width = mpmath.sqrt(mpmath.log(2 / mpmath.mpf(0.05)) / (2 * n))
            assert low <= max(mean - width, 0) <= low + 1e-11
            assert high - 1e-11 <= min(mean + width, 1) <= high


@given(
    rows=st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=1, max_size=5),
    where=st.floats(0, 1),
    alpha=st.floats(1e-12, 0.99),
    method=st.sampled_from(METHODS),
)
def test_intervals_hold_the_mean_and_stay_in_0_to_1(
    rows: list[list[int]], where: float, alpha: float, method: str
) -> None:
    counts = np.array(rows)
    counts[:, 0] += 1
    mean = (counts @ np.arange(4) / counts.sum(axis=1) + where) / 4
    lower, upper = score_interval(counts, mean, alpha, method)
    assert ((lower >= 0) & (lower <= mean) & (mean <= upper) & (upper <= 1)).all()


@pytest.mark.parametrize("method", METHODS)
def test_rows_do_not_depend_on_their_neighbours(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = np.concatenate([near_one(n, 0.1, 16) for n in (1, 2, 50, 1000, 1000, 70_000)])
    mean = mean_of(counts)
    together = score_interval(counts, mean, ALPHA, method)
    for row in range(len(counts)):
        alone = score_interval(counts[row : row + 1], mean[row : row + 1], ALPHA, method)
        # The bisection makes more steps next to a row with more draws.
        assert alone.lower[0] == pytest.approx(together.lower[row], abs=1e-4 / counts[row].sum())
        assert alone.upper[0] == pytest.approx(together.upper[row], abs=1e-4 / counts[row].sum())
    monkeypatch.setattr(score_intervals, "_CHUNK", 1)
    again = score_interval(counts, mean, ALPHA, method)
    np.testing.assert_allclose(again.lower, together.lower, atol=1e-4)
    shuffled = score_interval(counts[::-1], mean[::-1], ALPHA, method)
    np.testing.assert_allclose(shuffled.upper[::-1], together.upper, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_mirrored_scores_have_mirrored_intervals(method: str) -> None:
    counts = np.concatenate([near_one(5000, share, 50) for share in (0.0, 0.02, 0.5, 1.0)])
    mean = mean_of(counts)
    lower, upper = score_interval(counts, mean, ALPHA, method)
    mirrored = score_interval(counts[:, ::-1], 1 - mean, ALPHA, method)
    np.testing.assert_allclose(mirrored.lower, 1 - upper, atol=1e-8)
    np.testing.assert_allclose(mirrored.upper, 1 - lower, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_no_rows_and_one_draw(method: str) -> None:
    assert score_interval(np.zeros((0, 5), int), [], ALPHA, method).lower.shape == (0,)
    lower, upper = score_interval([[0, 1]], [0.8], ALPHA, method)
    assert lower[0] == 0
    assert upper[0] == 1
    lower, upper = score_interval([[7]], [0.8], ALPHA, method)  # one bin: nothing but the mean
    assert 0 <= lower[0] < 0.8 < upper[0] <= 1


def test_a_mean_may_be_off_by_its_slack_but_not_by_more() -> None:
    counts = [[0, 0, 0, 1000]]
    assert betting(counts, [0.75 - 2**-41], ALPHA).lower[0] < 0.75
    with pytest.raises(
        ValueError, match=r"mean: expected a mean that the counts allow, from 0\.75"
    ):
        betting(counts, [0.7499], ALPHA)
    with pytest.raises(ValueError, match=r"to 0\.25, got 0\.3 in row 1"):
        empirical_bernstein([*counts, [9, 0, 0, 0]], [0.9, 0.3], ALPHA)
    with pytest.raises(ValueError, match="mean: expected a mean that the counts allow"):
        score_interval(counts, [0.5], ALPHA, method="hoeffding")


def test_a_score_that_rounding_put_one_bin_up_is_allowed_for() -> None:
    # 0.29 * 100 rounds to 28.999..., but scores just below j/J may round to j: the mean is then below the bin.
    j = next(j for j in range(1, 1000) if np.nextafter(j / 1000, 0) * 1000 >= j)
    score = np.nextafter(j / 1000, 0)
    counts = histogram(np.full(500, score), 1000)
    assert counts[0, j] == 500
    for method in METHODS:
        assert score_interval(counts, [score], ALPHA, method).lower[0] < score


def test_many_draws_do_not_wrap_around() -> None:
    n = 10**9
    lower, upper = betting([[0, n]], [1 - 1e-9], ALPHA)
    assert 1 - 1e-7 < lower[0] < upper[0] <= 1


@pytest.mark.parametrize(
    ("counts", "error", "words"),
    [
        ([1, 2], ValueError, r"counts: expected shape \(N, J\)"),
        (np.zeros((2, 0), int), ValueError, r"counts: expected shape \(N, J\)"),
        ([[1.0, 2.0]], TypeError, "counts: expected whole numbers"),
        ([[True, False]], TypeError, "counts: expected whole numbers"),
        ([[1, 2], [3, -1]], ValueError, "got -1 in row 1"),
        (
            [[1, 2], [0, 0]],
            ValueError,
            "expected 1 to 1000000000 draws in each row, got 0 in row 1",
        ),
        ([[10**9, 1]], ValueError, "got more in row 0"),
        ([[2**62, 2**62]], ValueError, "got more in row 0"),
    ],
)
def test_bad_counts(counts: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        score_counts(counts)
    with pytest.raises(error, match=words):
        score_interval(counts, [0.5], ALPHA)


@pytest.mark.parametrize(
    ("mean", "n", "alpha", "error", "words"),
    [
        ([0.5, 0.2], [10], 0.1, ValueError, "n: expected 2 entries"),
        ([1.1], 10, 0.1, ValueError, "mean: expected means in .0, 1., got 1.1 in row 0"),
        ([0.1, math.nan], 10, 0.1, ValueError, "got nan in row 1"),
        ([[0.1]], 10, 0.1, ValueError, r"mean: expected shape \(N,\)"),
        (["a"], 10, 0.1, TypeError, "mean: expected real numbers"),
        ([0.1], 0, 0.1, ValueError, "n: expected 1 to 1000000000 draws, got 0 in row 0"),
        ([0.1], 1.5, 0.1, TypeError, "n: expected whole numbers"),
        ([0.1], 10, 0.0, ValueError, "alpha: expected"),
        ([0.1], 10, "x", TypeError, "alpha: expected"),
    ],
)
def test_bad_arguments_of_hoeffding(
    mean: object, n: object, alpha: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        hoeffding(mean, n, alpha)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_bad_arguments_of_all_methods(method: str) -> None:
    with pytest.raises(ValueError, match="alpha: expected"):
        score_interval([[1, 2]], [0.7], 2.0, method)
    with pytest.raises(ValueError, match="mean: expected 1 entries"):
        score_interval([[1, 2]], [0.7, 0.7], ALPHA, method)
    with pytest.raises(ValueError, match="got nan in row 0"):
        score_interval([[1, 2]], [math.nan], ALPHA, method)


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match=r"method: expected .* got 'student'"):
        score_interval([[1, 2]], [0.7], ALPHA, method="student")
