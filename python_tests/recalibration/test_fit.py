# SPDX-License-Identifier: MIT
"""Recalibration: maps that keep certificates, and the isotonic one that no monotone map beats."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import SIZES, Problem, problems, random_problem
from reference import worst_brier
from scipy.optimize import nnls

import certcal_ext as cc
from certcal_ext.metrics.auroc import auroc, certified_auroc
from certcal_ext.metrics.resolution import resolution
from certcal_ext.recalibration.fit import (
    KINDS,
    fit_beta,
    fit_constant,
    fit_isotonic,
    fit_platt,
    fit_recalibration,
    fit_temperature,
    fit_tradeoff,
    isotonic_blocks,
)
from certcal_ext.recalibration.maps import (
    IdentityMap,
    LogisticMap,
    MixtureMap,
    RecalibrationMap,
    StepMap,
)
from certcal_ext.recalibration.report import (
    recalibration_report,
    resolution_curve,
    split_halves,
    tradeoff_maps,
)

unit = st.floats(0.0, 1.0)


@st.composite
def step_maps(draw: st.DrawFn) -> StepMap:
    jumps = draw(st.lists(st.floats(0.0, 1.0, exclude_min=True), max_size=4, unique=True))
    levels = draw(st.lists(unit, min_size=len(jumps) + 1, max_size=len(jumps) + 1))
    return StepMap(tuple(sorted(jumps)), tuple(sorted(levels)))


@st.composite
def logistic_maps(draw: st.DrawFn) -> LogisticMap:
    slope = st.one_of(st.just(0.0), st.floats(0.0, 5.0), st.floats(0.0, 1000.0))
    family = draw(st.sampled_from(["temperature", "platt", "beta"]))
    a = draw(slope)
    b = draw(slope) if family == "beta" else a
    c = 0.0 if family == "temperature" else draw(st.floats(-1000.0, 1000.0))
    return LogisticMap(family, a, b, c)


parts = st.one_of(st.just(IdentityMap()), step_maps(), logistic_maps())
maps = st.one_of(parts, st.builds(MixtureMap, parts, parts, unit))


def exact_score(recalibration: RecalibrationMap, problem: Problem) -> Fraction:
    """The certified Brier score after an exact map, without any rounding."""
    correct, lower, upper, _, _ = problem
    low, high = recalibration.image(lower, upper)
    errors = [
        (1 - Fraction(a)) ** 2 if c else Fraction(b) ** 2
        for c, a, b in zip(correct, low.tolist(), high.tolist(), strict=True)
    ]
    return sum(errors, Fraction(0)) / len(errors)


def worst_points(problem: Problem) -> tuple[list[float], dict[float, list[int]]]:
    """Positions in order, and what is right and wrong at each: (l, 1) and (u, 0)."""
    at: dict[float, list[int]] = {}
    for c, lo, up in zip(problem.correct, problem.lower, problem.upper, strict=True):
        at.setdefault(float(lo if c else up), []).append(int(c))
    return sorted(at), at


def levels_by_minimax(problem: Problem) -> list[Fraction]:
    """The isotonic regression at each position by its formula max over a <= i of min over b >= i of the mean."""
    places, at = worst_points(problem)

    def mean(a: int, b: int) -> Fraction:
        values = [c for place in places[a : b + 1] for c in at[place]]
        return Fraction(sum(values), len(values))

    size = len(places)
    return [max(min(mean(a, b) for b in range(i, size)) for a in range(i + 1)) for i in range(size)]


# Maps


@given(maps, st.lists(unit, min_size=3, max_size=12))
def test_images_hold_every_value_between(
    recalibration: RecalibrationMap, points: list[float]
) -> None:
    z = np.sort(points)
    values = recalibration(z)
    low = recalibration.lower_image(z)
    high = recalibration.upper_image(z)
    assert ((low >= 0) & (high <= 1) & (low <= high)).all()
    for i, j in itertools.combinations_with_replacement(range(z.size), 2):
        assert low[i] <= values[i : j + 1].min()
        assert values[i : j + 1].max() <= high[j]
    assert recalibration.image(z, z).lower.tolist() == low.tolist()


@given(maps, st.floats(0.0, 1.0), st.integers(-50, 50))
def test_neighbouring_doubles_stay_inside_up_to_the_last_bit(
    recalibration: RecalibrationMap, centre: float, offset: int
) -> None:
    start = np.float64(min(1.0, max(0.0, centre + offset * 2.0**-45)))
    z = [start]
    for _ in range(40):
        z.append(min(1.0, np.nextafter(z[-1], 2.0)))
    values = recalibration(z)
    assert recalibration.lower_image(z[0]) <= values.min()
    assert values.max() <= recalibration.upper_image(z[-1])
    if recalibration.slack == 0:
        assert (np.diff(values) >= 0).all()


def test_logistic_values_lie_within_their_slack_of_the_real_function() -> None:
    mpmath = pytest.importorskip("mpmath")
    random = np.random.default_rng(0)
    mpmath.mp.prec = 200
    for _ in range(300):
        scale = 10.0 ** random.uniform(-2, 3)
        a, b = scale * random.random(2)
        c = scale * random.uniform(-1, 1)
        recalibration = LogisticMap("beta", a, b, c)
        z = random.choice([random.random(), 10.0 ** -random.uniform(0, 14), 0.0, 1.0])
        inside = min(max(z, 2.0**-40), 1 - 2.0**-40)
        t = a * mpmath.log(inside) - b * mpmath.log(1 - mpmath.mpf(inside)) + c
        truth = 1 / (1 + mpmath.exp(-t))
        assert abs(float(recalibration(z)) - truth) <= recalibration.slack
        assert recalibration.lower_image(z) <= truth <= recalibration.upper_image(z)


def test_a_logistic_map_without_slopes_is_an_exact_constant() -> None:
    z = np.array([0.0, 5e-324, 0.3, 1 - 2.0**-53, 1.0])
    for c in (-1000.0, -0.3, 0.0, 2.5, 1000.0):
        constant = LogisticMap("beta", 0.0, 0.0, c)
        assert constant.slack == 0.0
        assert np.unique(constant(z)).size == 1
        assert constant.image(z, z).lower.tolist() == constant.image(z, z).upper.tolist()


def test_a_step_map_is_continuous_from_the_right() -> None:
    step = StepMap((0.25, 1.0), (0.0, 0.5, 1.0))
    below = float(np.nextafter(0.25, 0.0))
    assert step([0.0, below, 0.25, np.nextafter(1.0, 0.0), 1.0]).tolist() == [0, 0, 0.5, 0.5, 1]
    image = step.image([below, 0.25, 0.0], [0.25, 0.25, 1.0])
    assert image.lower.tolist() == [0.0, 0.5, 0.0]
    assert image.upper.tolist() == [0.5, 0.5, 1.0]


def test_kinds_and_shapes() -> None:
    assert [StepMap((), (0.5,)).kind, StepMap((0.5,), (0, 1)).kind] == ["constant", "isotonic"]
    assert IdentityMap().kind == "identity"
    assert LogisticMap("beta", 1, 2, 3).kind == "beta"
    assert MixtureMap(IdentityMap(), IdentityMap(), 0.5).kind == "mixture"
    for recalibration in (IdentityMap(), StepMap((0.5,), (0, 1)), LogisticMap("platt", 1, 1, 0)):
        assert recalibration(np.zeros((2, 3))).shape == (2, 3)
        assert recalibration([]).shape == (0,)
        assert np.shape(recalibration(0.5)) == ()
        assert recalibration(np.array([0, 1])).dtype == np.float64
    given_points = np.array([0.5])
    assert IdentityMap()(given_points) is not given_points


@given(maps)
def test_json_gives_the_same_map_back(recalibration: RecalibrationMap) -> None:
    text = recalibration.to_json()
    again = RecalibrationMap.from_json(text)
    assert again == recalibration
    assert again.to_json() == text
    assert RecalibrationMap.from_json(text.encode()) == recalibration


GOOD: dict[str, Any] = {
    "format": "certcal recalibration map 1",
    "kind": "isotonic",
    "jumps": [0.5],
    "levels": [0.25, 0.75],
}


@pytest.mark.parametrize(
    "change",
    [
        {"format": "certcal recalibration map 2"},
        {"kind": "spline"},
        {"kind": ["isotonic"]},
        {"kind": "constant"},
        {"kind": "identity"},
        {"kind": "platt"},
        {"jumps": [0.0]},
        {"jumps": [1.5]},
        {"jumps": [math.nan]},
        {"jumps": [True]},
        {"jumps": ["0.5"]},
        {"jumps": [[0.5]]},
        {"jumps": 0.5},
        {"jumps": None},
        {"jumps": [0.5, 0.5], "levels": [0.1, 0.2, 0.3]},
        {"jumps": [0.6, 0.5], "levels": [0.1, 0.2, 0.3]},
        {"levels": [0.75, 0.25]},
        {"levels": [0.75]},
        {"levels": []},
        {"levels": [-0.1, 0.5]},
        {"levels": [0.5, math.inf]},
        {"levels": [0.5, 10**400]},
        {"levels": {"0": 0.5}},
        {"more": 1},
    ],
)
def test_hostile_json_is_refused(change: dict[str, Any]) -> None:
    RecalibrationMap.from_json(json.dumps(GOOD))
    with pytest.raises(ValueError, match="expected"):
        RecalibrationMap.from_json(json.dumps(GOOD | change))


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "beta", "a": -1e-9, "b": 1, "c": 0},
        {"kind": "beta", "a": 1, "b": 1, "c": math.nan},
        {"kind": "beta", "a": 1, "b": 1001, "c": 0},
        {"kind": "beta", "a": True, "b": 1, "c": 0},
        {"kind": "beta", "a": 1, "b": 1},
        {"kind": "platt", "a": 1, "b": 2, "c": 0},
        {"kind": "temperature", "a": 1, "b": 1, "c": 0.5},
        {"kind": "mixture", "first": {"kind": "identity"}, "second": None, "share": 0.5},
        {
            "kind": "mixture",
            "first": {"kind": "identity"},
            "second": {"kind": "identity"},
            "share": 2,
        },
        {
            "kind": "mixture",
            "first": {"kind": "identity"},
            "second": {"kind": "mixture", "first": {}, "second": {}, "share": 0},
            "share": 0.5,
        },
        {"kind": "constant", "jumps": [0.5], "levels": [0.1, 0.2]},
    ],
)
def test_hostile_json_of_other_kinds_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        RecalibrationMap.from_json(json.dumps({"format": GOOD["format"], **record}))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, "{}", b"\xff\xfe{}", "1e999", '"' + "a" * 9]
)
def test_text_that_is_no_map_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        RecalibrationMap.from_json(text)


def test_arguments_of_maps_are_checked() -> None:
    with pytest.raises(TypeError, match="text: expected str or bytes"):
        RecalibrationMap.from_json(GOOD)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="text: expected at most"):
        RecalibrationMap.from_json(" " * (2**26 + 1))
    step = StepMap((0.5,), (0.25, 0.75))
    for bad in ([math.nan], [-0.1], [1.1], [math.inf]):
        with pytest.raises(ValueError, match=r"confidence: expected values in \[0, 1\]"):
            step(bad)
        with pytest.raises(ValueError, match=r"lower: expected values in \[0, 1\]"):
            step.lower_image(bad)
    with pytest.raises(TypeError, match="upper: expected real numbers"):
        step.upper_image(["high"])
    with pytest.raises(ValueError, match="lower <= upper"):
        step.image([0.5], [0.4])
    with pytest.raises(ValueError, match="expected as many upper as lower ends"):
        step.image([0.5], [0.6, 0.7])
    with pytest.raises(ValueError, match="family: expected"):
        LogisticMap("isotonic", 1, 1, 0)
    with pytest.raises(TypeError, match="a: expected a number"):
        LogisticMap("beta", "1", 1, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="second: expected a RecalibrationMap"):
        MixtureMap(step, abs, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="share: expected"):
        MixtureMap(step, step, -0.1)


# The isotonic fit


@given(problems(most_samples=8))
def test_levels_are_those_of_the_minimax_formula(problem: Problem) -> None:
    fit = fit_isotonic(*problem[:3])
    places, _ = worst_points(problem)
    assert fit(places).tolist() == [float(level) for level in levels_by_minimax(problem)]


@given(problems(most_samples=8), step_maps())
def test_no_other_step_map_scores_lower(problem: Problem, other: StepMap) -> None:
    best = exact_score(fit_isotonic(*problem[:3]), problem)
    assert best <= exact_score(other, problem)
    assert best <= exact_score(IdentityMap(), problem)


@given(problems(most_samples=4), st.integers(2, 6))
def test_no_map_with_levels_on_a_grid_scores_lower(problem: Problem, steps: int) -> None:
    """Brute force: all non-decreasing choices of levels at the fitted positions."""
    places, at = worst_points(problem)
    best = exact_score(fit_isotonic(*problem[:3]), problem) * len(problem.correct)
    grid = [Fraction(k, steps) for k in range(steps + 1)]
    for levels in itertools.combinations_with_replacement(grid, len(places)):
        score = sum(
            (c - level) ** 2 for place, level in zip(places, levels, strict=True) for c in at[place]
        )
        # Levels are doubles nearest to ratios: each costs at most 2^-54, squared.
        assert best <= score + Fraction(1, 2**100)


@given(problems(most_samples=8), st.randoms(use_true_random=False))
def test_no_perturbation_of_the_fit_scores_lower(problem: Problem, random: Any) -> None:
    """Levels and jumps moved by one double, a little, or much; also the neighbours in float64."""
    fit = fit_isotonic(*problem[:3])
    best = exact_score(fit, problem)
    for scale in (0.0, 2.0**-52, 1e-6, 1e-2, 0.3):
        levels = [min(1.0, max(0.0, v + scale * random.gauss(0, 1))) for v in fit.levels]
        if scale == 0.0:
            levels = [float(np.nextafter(v, random.choice([0.0, 1.0]))) for v in fit.levels]
        jumps = sorted({min(1.0, max(1e-300, t + scale * random.gauss(0, 1))) for t in fit.jumps})
        other = StepMap(tuple(jumps), tuple(sorted(levels)[: len(jumps) + 1]))
        assert best <= exact_score(other, problem)


@pytest.mark.parametrize("size", SIZES)
def test_a_quadratic_program_agrees(size: int) -> None:
    """Non-negative least squares over the steps between levels, solved by an active-set method."""
    problem = random_problem(min(size, 257), seed=size)
    places, at = worst_points(problem)
    rows = [(i, c) for i, place in enumerate(places) for c in at[place]]
    design = np.array([[1.0] * (i + 1) + [0.0] * (len(places) - i - 1) for i, _ in rows])
    steps, residual = nnls(design, np.array([float(c) for _, c in rows]), maxiter=10_000)
    fit = fit_isotonic(*problem[:3])
    np.testing.assert_allclose(fit(places), np.cumsum(steps), atol=1e-9)
    value = cc.certified_brier(problem.correct, *fit.image(problem.lower, problem.upper)).value
    assert value == pytest.approx(residual**2 / len(rows), abs=1e-12)


@given(problems(most_samples=8))
def test_the_same_map_is_best_for_the_worst_log_loss(problem: Problem) -> None:
    """Isotonic regression of 0 and 1 is optimal for every proper score at once."""
    correct, lower, upper, _, _ = problem

    def loss(recalibration: RecalibrationMap) -> float:
        low, high = recalibration.image(lower, upper)
        with np.errstate(divide="ignore"):
            return float(np.mean(np.where(correct, -np.log(low), -np.log1p(-high))))

    best = loss(fit_isotonic(correct, lower, upper))
    assert math.isfinite(best)
    random = np.random.default_rng(0)
    assert best <= loss(IdentityMap()) + 1e-12
    for _ in range(20):
        jumps = np.unique(random.random(3))
        assert best <= loss(StepMap(tuple(jumps), tuple(np.sort(random.random(4))))) + 1e-12


@given(problems(most_samples=8))
def test_the_certified_brier_score_never_rises_on_the_fitting_samples(problem: Problem) -> None:
    correct, lower, upper, _, _ = problem
    image = fit_isotonic(correct, lower, upper).image(lower, upper)
    before = cc.certified_brier(correct, lower, upper).value
    # The metric rounds each square up to a multiple of 2^-52.
    assert cc.certified_brier(correct, *image).value <= before + 2.0**-51


@given(problems(most_samples=8))
@settings(max_examples=30)
def test_nor_with_logistic_maps_which_hold_the_identity_but_for_their_rounding(
    problem: Problem,
) -> None:
    correct, lower, upper, _, _ = problem
    before = cc.certified_brier(correct, lower, upper).value
    for fit in (fit_temperature, fit_platt, fit_beta):
        image = fit(correct, lower, upper).image(lower, upper)
        assert cc.certified_brier(correct, *image).value <= before + 2.0**-38


@pytest.mark.parametrize("size", SIZES)
def test_the_order_of_the_samples_does_not_matter(size: int) -> None:
    correct, lower, upper, _, _ = random_problem(size, seed=size)
    order = np.random.default_rng(size).permutation(size)
    assert fit_isotonic(correct, lower, upper) == fit_isotonic(
        correct[order], lower[order], upper[order]
    )


@given(problems(most_samples=6), st.data())
def test_weights_count_copies(problem: Problem, data: st.DataObject) -> None:
    correct, lower, upper, _, _ = problem
    size = len(correct)
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)))
    if not weights.any():
        with pytest.raises(ValueError, match="weights: expected at least one above 0"):
            fit_isotonic(correct, lower, upper, weights)
        return
    copies = [np.repeat(values, weights) for values in (correct, lower, upper)]
    assert fit_isotonic(correct, lower, upper, weights) == fit_isotonic(*copies)
    assert fit_constant(correct, lower, upper, weights) == fit_constant(*copies)
    huge = weights * (2**31 - 1) // 3
    assert isotonic_blocks(correct, lower, upper, huge).total.sum() == huge.sum()


@given(problems(most_samples=8), st.floats(0.0, 0.5))
def test_clipped_levels_are_best_among_maps_into_that_range(problem: Problem, clip: float) -> None:
    fit = fit_isotonic(*problem[:3], clip=clip)
    assert all(clip <= level <= 1 - clip for level in fit.levels)
    random = np.random.default_rng(1)
    for _ in range(10):
        levels = np.clip(np.sort(random.random(4)), clip, 1 - clip)
        other = StepMap(tuple(np.unique(random.random(3)).tolist()), tuple(levels.tolist()))
        assert exact_score(fit, problem) <= exact_score(other, problem)


def test_degenerate_problems() -> None:
    assert fit_isotonic([1, 1], [0.1, 0.5], [0.9, 0.5]) == StepMap((), (1.0,))
    assert fit_isotonic([0, 0], [0.1, 0.5], [0.9, 0.5]) == StepMap((), (0.0,))
    assert fit_isotonic([True], [0.3], [0.3]) == StepMap((), (1.0,))
    # A point held by a right and a wrong sample, and intervals that say nothing.
    assert fit_isotonic([1, 0], [0.5, 0.5], [0.5, 0.5]) == StepMap((), (0.5,))
    assert fit_isotonic([1, 0, 1], [0.0] * 3, [1.0] * 3) == StepMap((), (2 / 3,))
    # Positions one double apart: the jump is at the upper one.
    z = np.array([0.5, np.nextafter(0.5, 1.0)])
    assert fit_isotonic([0, 1], z, z) == StepMap((float(z[1]),), (0.0, 1.0))
    assert fit_isotonic([0, 1], [0.0, 5e-324], [0.0, 5e-324]).jumps == (5e-324,)
    for kind in KINDS:
        for correct in ([1], [0], [1, 1], [0, 0]):
            ends = [0.25] * len(correct), [0.75] * len(correct)
            fit = fit_recalibration(kind, correct, *ends)
            assert RecalibrationMap.from_json(fit.to_json()) == fit
            if kind not in ("identity", "temperature"):
                assert fit([0.25, 0.75]) == pytest.approx(correct[0], abs=1e-3)


@given(problems(most_samples=8))
def test_it_is_the_constant_exactly_where_no_lower_part_has_fewer_right(problem: Problem) -> None:
    places, at = worst_points(problem)
    below = np.cumsum([sum(at[place]) for place in places])
    count = np.cumsum([len(at[place]) for place in places])
    steady = all(k * count[-1] >= below[-1] * m for k, m in zip(below, count, strict=True))
    fit = fit_isotonic(*problem[:3])
    assert (fit.kind == "constant") == steady
    if steady:
        assert fit == fit_constant(*problem[:3])


def test_the_jump_is_halfway_between_blocks() -> None:
    fit = fit_isotonic([0, 1, 1], [0.0, 0.4, 0.8], [0.2, 0.9, 0.9])
    assert fit.jumps == ((0.2 + 0.4) / 2,)
    assert fit.levels == (0.0, 1.0)


@pytest.mark.parametrize(
    "fit", [fit_isotonic, fit_constant, fit_temperature, fit_platt, fit_beta, isotonic_blocks]
)
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (([], [], []), ValueError, "at least one sample"),
        (([1], [0.5], [0.4]), ValueError, "lower <= upper"),
        (([1], [math.nan], [0.4]), ValueError, "lower <= upper"),
        (([1], [0.5], [1.4]), ValueError, "lower <= upper"),
        (([1], [0.5], [0.6, 0.7]), ValueError, "upper: expected 1 entries"),
        (([2], [0.5], [0.6]), ValueError, "correct: expected booleans or 0 and 1"),
        ((["a"], [0.5], [0.6]), TypeError, "correct: expected booleans"),
        (([1], [0.5], [0.6], [0.5]), TypeError, "weights: expected whole numbers"),
        (([1], [0.5], [0.6], [-1]), ValueError, "weights: expected 0 to"),
        (([1], [0.5], [0.6], [2**31]), ValueError, "weights: expected 0 to"),
        (([1], [0.5], [0.6], [1, 1]), ValueError, "weights: expected 1 entries"),
    ],
)
def test_bad_arguments_of_fits(
    fit: Any, arguments: tuple[Any, ...], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        fit(*arguments)


def test_bad_options() -> None:
    sample = [1, 0], [0.5, 0.5], [0.6, 0.6]
    with pytest.raises(ValueError, match=r"clip: expected a number from 0 to 0\.5"):
        fit_isotonic(*sample, clip=0.6)
    with pytest.raises(ValueError, match="loss: expected"):
        fit_platt(*sample, loss="hinge")
    with pytest.raises(ValueError, match="kind: expected one of"):
        fit_recalibration("spline", *sample)
    with pytest.raises(ValueError, match="lower <= upper"):
        fit_recalibration("identity", [1], [0.5], [0.4])
    with pytest.raises(ValueError, match="share: expected a number from 0 to 1"):
        fit_tradeoff(*sample, confidence=[0.5, 0.5], share=1.5)
    with pytest.raises(ValueError, match="confidence: expected 2 entries"):
        fit_tradeoff(*sample, confidence=[0.5], share=0.5)


# Logistic fits


@pytest.mark.parametrize("family", ["temperature", "platt", "beta"])
@pytest.mark.parametrize("loss", ["brier", "log"])
def test_no_coefficients_nearby_or_at_random_are_better(family: str, loss: str) -> None:
    fits = {"temperature": fit_temperature, "platt": fit_platt, "beta": fit_beta}
    correct, lower, upper, _, _ = random_problem(400, seed=5)
    fit = fits[family](correct, lower, upper, loss=loss)

    def score(g: LogisticMap) -> float:
        z = g(np.where(correct, lower, upper))
        if loss == "brier":
            return float(np.mean((correct - z) ** 2))
        with np.errstate(divide="ignore"):
            return float(-np.mean(np.log(np.where(correct, z, 1 - z))))

    best = score(fit)
    random = np.random.default_rng(2)
    for scale in np.repeat([0.01, 0.1, 1.0, 3.0], 25):
        a, b = np.abs([fit.a, fit.b] + scale * random.normal(size=2)).tolist()
        c = fit.c + scale * float(random.normal())
        b = b if family == "beta" else a
        c = 0.0 if family == "temperature" else c
        assert best <= score(LogisticMap(family, a, b, c)) + 1e-6
    assert best <= score(LogisticMap(family, 1.0, 1.0, 0.0)) + 1e-9


def test_known_coefficients_are_found_again() -> None:
    """Points, not intervals, drawn from a known map: maximum likelihood comes near its coefficients.

    With 40,000 samples the standard errors are below 0.03; six of them are allowed, a false alarm in 1e-8.
    """
    random = np.random.default_rng(7)
    z = np.round(random.uniform(0.02, 0.98, 40_000), 3)
    truth = LogisticMap("beta", 0.8, 0.4, 0.3)
    correct = random.random(z.size) < truth(z)
    for fit in (fit_beta(correct, z, z, loss="log"), fit_beta(correct, z, z)):
        assert abs(fit.a - truth.a) < 0.18
        assert abs(fit.b - truth.b) < 0.18
        assert abs(fit.c - truth.c) < 0.18


def test_slopes_never_fall_below_zero() -> None:
    """The more confident, the more often wrong: the best monotone map is the constant."""
    z = np.linspace(0.05, 0.95, 200)
    correct = z < 0.4
    for fit in (fit_platt, fit_beta):
        g = fit(correct, z, z)
        assert (g.a, g.b) == (0.0, 0.0)
        assert float(g(0.5)) == pytest.approx(correct.mean(), abs=1e-4)
    assert fit_isotonic(correct, z, z) == StepMap((), (correct.mean(),))


# Trade-off


@given(problems(most_samples=6), st.floats(0.0, 1.0), step_maps())
def test_no_step_map_beats_the_tradeoff(problem: Problem, share: float, other: StepMap) -> None:
    correct, lower, upper, _, _ = problem
    clean = (lower + upper) / 2
    at = Problem(correct, clean, clean, problem.edges, problem.closed)
    part = Fraction(round(share * 1000), 1000)

    def score(g: RecalibrationMap) -> Fraction:
        return (1 - part) * exact_score(g, at) + part * exact_score(g, problem)

    fit = fit_tradeoff(correct, lower, upper, clean, share)
    assert score(fit) <= score(other)
    assert score(fit) <= score(IdentityMap())


def test_tradeoff_ends_are_the_two_isotonic_fits() -> None:
    correct, lower, upper, _, _ = random_problem(500, seed=11)
    clean = (lower + upper) / 2
    ends = tradeoff_maps(correct, lower, upper, clean, [0.0, 1.0])
    assert ends == [fit_isotonic(correct, clean, clean), fit_isotonic(correct, lower, upper)]
    shares = np.linspace(0, 1, 11)
    curve = resolution_curve(
        tradeoff_maps(correct, lower, upper, clean, shares), correct, lower, upper, clean
    )
    # On the fitting samples the two scores move against each other along the family.
    assert (np.diff(curve.certified_brier) <= 1e-12).all()
    assert (np.diff(curve.brier) >= -1e-12).all()
    for family in ("identity", "constant"):
        mixed = tradeoff_maps(correct, lower, upper, clean, shares, family)
        values = resolution_curve(mixed, correct, lower, upper, clean)
        assert values.auroc[:-1] == pytest.approx(auroc(correct, clean), abs=1e-12)
        assert values.certified_brier[0] == cc.certified_brier(correct, lower, upper).value
    assert values.auroc[-1] == 0.5
    assert values.resolution[-1] == 0.0
    assert values.certified_brier[-1] == pytest.approx(values.constant_brier, abs=1e-12)
    assert not values.resolution.flags.writeable


def test_bad_arguments_of_the_curve() -> None:
    sample = [1, 0], [0.5, 0.5], [0.6, 0.6], [0.55, 0.55]
    with pytest.raises(ValueError, match="maps: expected at least one"):
        resolution_curve([], *sample)
    with pytest.raises(TypeError, match="maps: expected RecalibrationMaps"):
        resolution_curve([abs], *sample)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="family: expected"):
        tradeoff_maps(*sample, shares=[0.5], family="spline")
    with pytest.raises(ValueError, match="shares: expected numbers from 0 to 1"):
        tradeoff_maps(*sample, shares=[1.5])


# Measures


def test_halves_are_disjoint_reproducible_and_do_not_depend_on_who_else_is_there() -> None:
    ids = np.arange(100_000)
    half = split_halves(ids, seed=3)
    assert np.array_equal(half, split_halves(100_000, seed=3))
    some = np.sort(np.random.default_rng(0).choice(ids, 1000, replace=False))
    assert np.array_equal(split_halves(some, seed=3), half[some])
    # Fair coins: 5.5 standard deviations, a false alarm in 4e-8 each.
    assert abs(half.mean() - 0.5) < 5.5 * 0.5 / math.sqrt(ids.size)
    for seed in (0, 1, 2, 4, 2**63 - 1):
        agree = (split_halves(ids, seed=seed) == half).mean()
        assert abs(agree - 0.5) < 5.5 * 0.5 / math.sqrt(ids.size)
    assert split_halves(0).shape == (0,)
    assert split_halves(np.zeros(0, np.int64)).shape == (0,)
    assert split_halves([2**63 - 1]).shape == (1,)


@pytest.mark.parametrize(
    ("index", "seed", "kind", "message"),
    [
        ([-1], 0, ValueError, "index: expected ids of at least 0"),
        (-1, 0, ValueError, "index: expected a whole number"),
        ([0.5], 0, TypeError, "index: expected whole numbers"),
        (3.5, 0, TypeError, "index: expected a whole number"),
        ([[1]], 0, ValueError, r"index: expected shape \(N,\)"),
        ([1], -1, ValueError, "seed: expected a whole number"),
        ([1], 0.5, TypeError, "seed: expected a whole number"),
    ],
)
def test_bad_arguments_of_split_halves(
    index: Any, seed: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        split_halves(index, seed)


@pytest.mark.parametrize("size", SIZES)
def test_auroc_is_that_of_all_pairs_and_of_scikit_learn(size: int) -> None:
    random = np.random.default_rng(size)
    z = np.round(random.random(size), 1)  # many ties
    correct = random.random(size) < z
    value = auroc(correct, z)
    if correct.all() or not correct.any():
        assert math.isnan(value)
        return
    right, wrong = z[correct][:, None], z[~correct][None]
    assert value == pytest.approx(np.mean((right > wrong) + 0.5 * (right == wrong)), abs=1e-12)
    metrics = pytest.importorskip("sklearn.metrics")
    assert value == pytest.approx(metrics.roc_auc_score(correct, z), abs=1e-12)


@given(problems(most_samples=4), st.data())
@settings(max_examples=60)
def test_no_choice_inside_the_intervals_has_a_lower_auroc(
    problem: Problem, data: st.DataObject
) -> None:
    correct, lower, upper, _, _ = problem
    value = certified_auroc(correct, lower, upper)
    if correct.all() or not correct.any():
        assert math.isnan(value)
        return
    ends = [auroc(correct, z) for z in itertools.product(*zip(lower, upper, strict=True))]
    assert value == min(ends)
    share = data.draw(st.lists(unit, min_size=len(correct), max_size=len(correct)))
    z = np.clip(lower + np.array(share) * (upper - lower), lower, upper)
    assert value <= auroc(correct, z)


@given(problems(most_samples=8))
def test_murphys_decomposition_adds_up(problem: Problem) -> None:
    """With confidences at the middle of their bin: Brier = reliability - resolution + uncertainty."""
    correct, z, _, edges, closed = problem
    inner = edges[1:-1]
    at = np.searchsorted(inner, z, side="right" if closed == "left" else "left")
    middle = ((edges[:-1] + edges[1:]) / 2)[at]
    reliability = sum(
        (at == m).mean() * (correct[at == m].mean() - middle[at == m][0]) ** 2
        for m in np.unique(at)
    )
    acc = correct.mean()
    value = resolution(correct, z, edges=edges, closed=closed)
    assert resolution(correct, middle, edges=edges, closed=closed) == value
    assert cc.brier(correct, middle) == pytest.approx(
        reliability - value + acc * (1 - acc), abs=1e-12
    )
    assert -1e-15 <= value <= acc * (1 - acc) + 1e-12


def test_report() -> None:
    correct, lower, upper, _, _ = random_problem(1000, seed=2)
    clean = (lower + upper) / 2
    fitting = split_halves(1000)
    fit = fit_isotonic(correct[fitting], lower[fitting], upper[fitting])
    held = [values[~fitting] for values in (correct, lower, upper, clean)]
    report = recalibration_report(fit, *held, bins=10)
    assert (report.kind, report.n) == ("isotonic", int((~fitting).sum()))
    assert report.before.certified_brier == pytest.approx(worst_brier(*held[:3]), abs=1e-12)
    image = fit.image(held[1], held[2])
    assert report.after.certified_brier == cc.certified_brier(held[0], *image).value
    assert report.after.certified_ece == cc.certified_ece(held[0], *image, bins=10).value
    assert report.after.certified_auroc == certified_auroc(held[0], *image)
    assert report.after.brier == cc.brier(held[0], fit(held[3]))
    assert report.after.skill == pytest.approx(
        1 - report.after.certified_brier / report.constant_brier, abs=1e-12
    )
    assert report.constant_brier == pytest.approx(held[0].mean() * (1 - held[0].mean()))
    assert json.loads(json.dumps(report.to_dict()))["after"]["auroc"] == report.after.auroc
    same = recalibration_report(IdentityMap(), *held, bins=10)
    assert same.before == same.after == report.before
    one_class = recalibration_report(fit, [1], [0.5], [0.6], [0.55])
    assert math.isnan(one_class.after.auroc)
    assert math.isnan(one_class.after.skill)


# The published counts


def published(shared: Path, radius: float) -> tuple[cc.curve.CertifiedSet, np.ndarray]:
    made = cc.Certificates.from_npz(shared / "data/cifar10_cohen_resnet110/sigma_0.25_n_100000.npz")
    chosen = made.at(radius)
    return chosen, split_halves(chosen.index)


def test_published_counts_at_a_quarter(shared: Path) -> None:
    """What the documentation claims: a quarter less certified Brier score, less than half the ECE."""
    chosen, fitting = published(shared, 0.25)
    columns = chosen.correct, chosen.lower, chosen.upper, chosen.confidence
    fit_on = [values[fitting] for values in columns]
    held = [values[~fitting] for values in columns]
    best = recalibration_report(fit_isotonic(*fit_on[:3]), *held)
    assert best.after.certified_brier <= 0.75 * best.before.certified_brier
    assert best.after.certified_ece < 0.5 * best.before.certified_ece
    assert best.kind == "constant"  # and this is what it costs
    assert best.after.resolution == 0.0
    some = recalibration_report(fit_tradeoff(*fit_on, share=0.5), *held)
    assert some.after.certified_brier <= 0.75 * some.before.certified_brier
    assert some.after.certified_ece < 0.5 * some.before.certified_ece
    assert some.after.resolution > 0
    assert some.after.auroc > 0.65
    ordinary = recalibration_report(fit_isotonic(fit_on[0], fit_on[3], fit_on[3]), *held)
    assert ordinary.after.certified_brier > 0.9 * ordinary.before.certified_brier


def test_published_counts_give_the_same_map_on_every_machine(shared: Path) -> None:
    """Exact counts decide; positions and levels are doubles of exact operations or committed tables."""
    chosen, fitting = published(shared, 0.1)
    blocks = isotonic_blocks(chosen.correct[fitting], chosen.lower[fitting], chosen.upper[fitting])
    assert blocks.total.sum() == fitting.sum()
    assert blocks.right.sum() == chosen.correct[fitting].sum()
    cross = blocks.right[:-1] * blocks.total[1:] < blocks.right[1:] * blocks.total[:-1]
    assert cross.all()
    assert (blocks.first <= blocks.last).all()
    assert (blocks.last[:-1] < blocks.first[1:]).all()
