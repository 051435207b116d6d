# SPDX-License-Identifier: MIT
"""How often intervals of scores miss, on distributions and models whose mean scores are known.

Each test counts misses over independent repetitions and refuses the interval if so many have a probability below 1e-6
under a true miss rate of alpha: that is the false-alarm rate of each test. Seeds are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from certcal_ext.intervals.clopper_pearson import Interval
from certcal_ext.intervals.score_cdf import score_band
from certcal_ext.intervals.scores import score_interval

Floats = NDArray[np.float64]
FALSE_ALARM = 1e-6
ALPHA = 0.05


def too_many(misses: int, repetitions: int, alpha: float = ALPHA) -> bool:
    """Whether a miss rate of alpha or less would give so many misses with a probability below 1e-6."""
    return bool(binom.sf(misses - 1, repetitions, alpha) < FALSE_ALARM)


def histograms(scores: Floats, bins: int) -> NDArray[np.int64]:
    """(R, J) counts of the rows."""
    index = np.minimum((scores * bins).astype(np.int64), bins - 1)
    index += np.arange(len(scores))[:, None] * bins
    return np.bincount(index.reshape(-1), minlength=len(scores) * bins).reshape(-1, bins)


# Each: draws of a shape, and their expectation.
Sampler = Callable[[np.random.Generator, tuple[int, int]], Floats]
DISTRIBUTIONS: dict[str, tuple[Sampler, float]] = {
    "beta": (lambda g, shape: g.beta(5, 1, shape), 5 / 6),
    "uniform": (lambda g, shape: g.random(shape), 0.5),
    "two points": (lambda g, shape: (g.random(shape) < 0.9).astype(float), 0.9),
    "rare zeros": (lambda g, shape: (g.random(shape) < 0.999).astype(float), 0.999),
    "near one": (lambda g, shape: 1 - 1e-4 * g.random(shape) ** 2, 1 - 1e-4 / 3),
    "near one, rarely low": (
        lambda g, shape: np.where(g.random(shape) < 0.01, 0.2, 1 - 1e-5 * g.random(shape)),
        0.01 * 0.2 + 0.99 * (1 - 5e-6),
    ),
    "mixture": (
        lambda g, shape: np.where(g.random(shape) < 0.3, g.beta(1, 3, shape), g.beta(80, 1, shape)),
        0.3 / 4 + 0.7 * 80 / 81,
    ),
    "one point": (lambda g, shape: np.full(shape, 0.37), 0.37),
    "ones": (lambda g, shape: np.ones(shape), 1.0),
    "on the edges": (lambda g, shape: np.round(g.random(shape) * 10) / 10, 0.5),
}


def batches(name: str, n: int) -> Iterator[Floats]:
    sampler, _ = DISTRIBUTIONS[name]
    generator = np.random.default_rng([n, sorted(DISTRIBUTIONS).index(name)])
    repetitions, rows = (2000, 2000) if n == 100 else (600, 150)
    for _ in range(repetitions // rows):
        yield sampler(generator, (rows, n))


@pytest.mark.parametrize("n", [100, 10_000])
@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_intervals_of_the_mean_cover(name: str, n: int) -> None:
    truth = DISTRIBUTIONS[name][1]
    misses: dict[tuple[str, int], int] = {}
    total = 0
    for scores in batches(name, n):
        total += len(scores)
        mean = scores.mean(axis=1)
        for bins in (10, 1000):
            counts = histograms(scores, bins)
            for method in ("betting", "bernstein", "hoeffding"):
                lower, upper = score_interval(counts, mean, ALPHA, method)
                # 1e-12: how far the expectation, written in doubles, may be from the true one.
                missed = np.count_nonzero((lower > truth + 1e-12) | (upper < truth - 1e-12))
                misses[method, bins] = misses.get((method, bins), 0) + int(missed)
    for key, number in misses.items():
        assert not too_many(number, total), (key, number, total)


def test_the_test_of_coverage_finds_an_interval_that_is_too_narrow() -> None:
    # Half as wide as the betting interval is below the exact one: such an interval must not pass.
    missed = total = 0
    for scores in batches("two points", 10_000):
        ends = score_interval(histograms(scores, 10), scores.mean(axis=1), ALPHA)
        middle, half = (ends.lower + ends.upper) / 2, (ends.upper - ends.lower) / 4
        missed += int(np.count_nonzero(np.abs(middle - 0.9) > half))
        total += len(scores)
    assert too_many(missed, total)


# --- models --------------------------------------------------------------------------------------
#
# A score h(w . x) of a linear form with |w| = 1 under noise of scale 1: at the point whose form is a, the draws are
# h(a + z), and after a step of length R at an angle to w whose cosine is c, the mean score is E h(a + c R + z).


class Model:
    """A score as a function of a linear form, and its mean under noise."""

    def __init__(self, score: Callable[[Floats], Floats], mean: Callable[[float], float]) -> None:
        self.score, self.mean = score, mean


def steps(points: list[float], values: list[float]) -> Model:
    """A step function: values[i] between points[i - 1] and points[i]."""

    def mean(a: float) -> float:
        cuts = np.concatenate([[0.0], ndtr(np.array(points) - a), [1.0]])
        return float(np.diff(cuts) @ values)

    return Model(lambda t: np.array(values)[np.searchsorted(points, t)], mean)


MODELS = {
    "smooth": Model(lambda t: ndtr(t / 0.5), lambda a: float(ndtr(a / math.sqrt(1.25)))),
    "step": steps([0.0], [0.0, 1.0]),
    "stairs": steps([-1.0, 0.0, 0.5, 2.0], [0.05, 0.3, 0.6, 0.9, 1.0]),
    "falling": steps([0.0, 1.0], [0.999, 0.6, 0.123]),
    "bump": steps([-1.0, 1.5], [0.1, 0.97, 0.2]),
}
SHIFTS = (0.0, 0.25, 0.5, 1.0, 2.0)
COSINES = (1.0, -1.0, 0.7, -0.3, 0.05)


def misses(model: Model, a: float, at: Callable[[float], Interval]) -> NDArray[np.bool_]:
    """Which rows have an interval, at any shift, that some step of that length leaves."""
    missed: NDArray[np.bool_] = np.zeros(1, np.bool_)
    for shift in SHIFTS:
        lower, upper = at(shift)
        for cosine in COSINES:
            truth = model.mean(a + cosine * shift)
            missed = missed | (lower > truth + 1e-12) | (upper < truth - 1e-12)
    return missed


@pytest.mark.parametrize("a", [0.4, 2.5])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_certificates_hold_under_every_step_and_at_all_radii_at_once(name: str, a: float) -> None:
    model = MODELS[name]
    generator = np.random.default_rng([sorted(MODELS).index(name), int(10 * a)])
    n, repetitions = 1000, 1000
    scores = model.score(a + generator.standard_normal((repetitions, n)))
    for bins in (10, 1000):
        counts = histograms(scores, bins)
        for method in ("both", "dkw", "binomial"):
            missed = misses(model, a, score_band(counts, ALPHA, method).at)
            assert not too_many(int(missed.sum()), repetitions), (method, bins)
        missed = misses(model, a, score_band(counts, ALPHA, mean=scores.mean(axis=1)).at)
        assert not too_many(int(missed.sum()), repetitions), ("with the mean", bins)
        for method in ("betting", "bernstein", "hoeffding"):
            ends = score_interval(counts, scores.mean(axis=1), ALPHA, method)
            missed = misses(model, a, standard(ends))
            assert not too_many(int(missed.sum()), repetitions), (method, bins)


def standard(ends: Interval) -> Callable[[float], Interval]:
    """The standard certificate: the ends of the mean, shifted (outward enough: 1e-12)."""

    def at(shift: float) -> Interval:
        return Interval(
            ndtr(ndtri(ends.lower) - shift) - 1e-12, ndtr(ndtri(ends.upper) + shift) + 1e-12
        )

    return at


def test_the_cdf_certificate_is_attained_and_a_smaller_shift_would_not_hold() -> None:
    # Where the score rises along w, the worst step is the one along w: with many draws the interval at shift R nearly
    # touches the truth, and that of a step a little longer leaves it. So the shift cannot be smaller.
    model, a, n = MODELS["smooth"], 0.4, 10**6
    scores = model.score(a + np.random.default_rng(3).standard_normal((1, n)))
    band = score_band(histograms(scores, 1000), ALPHA)
    for shift in SHIFTS:
        lower, upper = band.at(shift)
        assert model.mean(a - shift - 0.02) < lower[0] <= model.mean(a - shift)
        assert model.mean(a + shift) <= upper[0] < model.mean(a + shift + 0.02)


def test_where_the_score_is_0_or_1_both_certificates_are_those_of_votes() -> None:
    # For votes the standard certificate is exact as well; the CDF certificate must agree but for the statistics.
    model, a, n = MODELS["step"], 0.4, 100_000
    scores = model.score(a + np.random.default_rng(4).standard_normal((1, n)))
    counts = histograms(scores, 1000)
    cdf, ends = score_band(counts, ALPHA), score_interval(counts, scores.mean(axis=1), ALPHA)
    for shift in SHIFTS:
        one, other = cdf.at(shift), standard(ends)(shift)
        assert one.lower[0] == pytest.approx(other.lower[0], abs=0.006)
        assert one.upper[0] == pytest.approx(other.upper[0], abs=0.006)
