# SPDX-License-Identifier: MIT
from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem, problems, random_problem
from reference import plain_ece

import certcal_ext as cc
from certcal_ext.milp import baselines
from certcal_ext.milp.baselines import (
    STARTS,
    LowerEstimate,
    lower_estimate_admm,
    lower_estimate_brier_worst,
    lower_estimate_dece,
)

METHODS: dict[str, Callable[..., LowerEstimate]] = {
    "brier-worst": lower_estimate_brier_worst,
    "dece": lambda *args, **options: lower_estimate_dece(*args, steps=30, **options),
    "admm": lambda *args, **options: lower_estimate_admm(*args, steps=60, **options),
}


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=100)
@given(data=st.data())
def test_never_above_the_exact_value_and_reached_inside(method: str, data: st.DataObject) -> None:
    problem: Problem = data.draw(problems(most_samples=8))
    options = {"edges": problem.edges, "closed": problem.closed}
    found = METHODS[method](*problem[:3], **options)
    assert found.value <= cc.certified_ece(*problem[:3], **options).value
    assert ((problem.lower <= found.confidence) & (found.confidence <= problem.upper)).all()
    reached = plain_ece(problem.correct, found.confidence, problem.edges, problem.closed)
    assert found.value == pytest.approx(reached, abs=1e-12)
    assert found.value == cc.ece(problem.correct, found.confidence, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_never_above_the_exact_value_on_larger_problems(method: str, seed: int) -> None:
    problem = random_problem(400, seed=seed)
    found = METHODS[method](*problem[:3])
    exact = cc.certified_ece(*problem[:3]).value
    assert found.value <= exact
    if method != "brier-worst":
        # These two search: more than half of the way.
        assert found.value > exact / 2
    assert found.seconds > 0


def test_brier_worst_is_the_plain_ece_of_those_confidences() -> None:
    problem = random_problem(100, seed=1)
    found = lower_estimate_brier_worst(*problem[:3])
    expected = np.where(problem.correct, problem.lower, problem.upper)
    assert np.array_equal(found.confidence, expected)
    assert found.value == cc.ece(problem.correct, expected)
    assert found.steps == 0


@pytest.mark.parametrize("closed", ["left", "right"])
def test_points_give_the_plain_ece(closed: str) -> None:
    z = np.array([0.0, 0.2, 0.4, 0.4, 1.0])
    correct = np.array([1, 0, 1, 0, 1])
    for method in METHODS.values():
        found = method(correct, z, z, bins=5, closed=closed)
        assert found.value == cc.ece(correct, z, bins=5, closed=closed)
        assert np.array_equal(found.confidence, z)


@pytest.mark.parametrize("correct", [0, 1])
def test_one_vacuous_sample_and_one_class(correct: int) -> None:
    # One sample, anything allowed: the worst case is 1, and every method finds it.
    for method in METHODS.values():
        assert method([correct], [0.0], [1.0]).value == pytest.approx(1.0, abs=1e-9)
    everyone = np.full(50, correct)
    low, high = np.full(50, 0.2), np.full(50, 0.9)
    expected = 0.8 if correct else 0.9
    for method in METHODS.values():
        found = method(everyone, low, high)
        assert found.value == pytest.approx(expected, abs=1e-9)


def test_the_gradient_is_that_of_the_differentiable_ece() -> None:
    """Central differences of a function written from the definition."""
    random = np.random.default_rng(5)
    problem = random_problem(30, seed=5, bins=4)
    edges = np.array([0.0, 0.3, 0.5, 0.8, 1.0])
    temperature = 0.05

    def soft_ece(z: Any) -> float:
        total = 0.0
        shift = [-sum(edges[: j + 1]) for j in range(4)]
        sums = [0.0] * 4
        for c, x in zip(problem.correct, z, strict=True):
            weights = [math.exp(((j + 1) * x + shift[j]) / temperature) for j in range(4)]
            for j in range(4):
                sums[j] += weights[j] / sum(weights) * (c - x)
        total = sum(abs(x) for x in sums)
        return total

    task = baselines._Task(*problem[:3], 15, edges, "right")
    z = problem.lower + random.random(30) * (problem.upper - problem.lower)
    gradient = baselines._dece_gradient(task, z, temperature)
    for n in range(30):
        step = np.zeros(30)
        step[n] = 1e-6
        slope = (soft_ece(z + step) - soft_ece(z - step)) / 2e-6
        assert gradient[n] == pytest.approx(slope, abs=1e-6)


def test_soft_bins_meet_at_their_edges() -> None:
    """With c = z no error is left, so only membership moves: none far from the edges."""
    z = np.array([0.1, 0.5, 0.9])
    task = baselines._Task([1, 1, 1], z, z, 15, [0.0, 0.3, 0.7, 1.0], "right")
    assert baselines._dece_gradient(task, z, 0.001) == pytest.approx([-1, -1, -1], abs=1e-9)


def test_ascent_beats_where_it_starts() -> None:
    problem = random_problem(300, seed=2)
    start = cc.ece(problem.correct, (problem.lower + problem.upper) / 2)
    found = lower_estimate_dece(*problem[:3], steps=200, starts=["middle"])
    assert found.value > start + 0.05
    assert found.steps == 200


def test_more_starts_are_never_worse() -> None:
    problem = random_problem(200, seed=3)
    for method in (lower_estimate_admm, lower_estimate_dece):
        alone = [method(*problem[:3], steps=50, starts=[name]).value for name in STARTS]
        together = method(*problem[:3], steps=50, starts=STARTS)
        assert together.value == max(alone)
        assert together.steps <= 200


def test_admm_stops_where_nothing_moves() -> None:
    found = lower_estimate_admm([1, 0], [0.5, 0.2], [0.5, 0.2], steps=3000, starts=["middle"])
    assert found.steps < 3000


def test_admm_inverse_solves_its_quadratic_form() -> None:
    problem = random_problem(20, seed=4, bins=6)
    task = baselines._Task(*problem[:3], 6, None, "right")
    splitting = baselines._Splitting(task)
    random = np.random.default_rng(0)
    right_side = random.random((6, 20)) * splitting.one
    solved = right_side.copy()
    for factor, shrink in zip(splitting.factors, splitting.shrink, strict=True):
        solved = solved - shrink * (factor * right_side).sum(0)
    solved *= 0.5 * splitting.one
    for n in range(20):
        form = 2 * np.eye(6) + sum(np.outer(f[:, n], f[:, n]) for f in splitting.factors)
        assert form @ solved[:, n] == pytest.approx(right_side[:, n], abs=1e-12)


def test_results_are_frozen_and_repeat() -> None:
    problem = random_problem(60, seed=6)
    for method in METHODS.values():
        first, second = method(*problem[:3]), method(*problem[:3])
        assert first.value == second.value
        assert np.array_equal(first.confidence, second.confidence)
        with pytest.raises(ValueError, match="read-only"):
            first.confidence[0] = 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            first.value = 0  # type: ignore[misc]


ARGUMENTS: dict[str, Any] = {"correct": [1, 0], "lower": [0.5, 0.1], "upper": [0.55, 0.3]}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(correct=[], lower=[], upper=[]), ValueError, "expected at least one sample"),
        (dict(lower=[0.6, 0.1]), ValueError, "row 0"),
        (dict(upper=[0.6, math.nan]), ValueError, "row 1"),
        (dict(upper=[0.6]), ValueError, "upper: expected 2"),
        (dict(lower=["a", "b"]), TypeError, "lower: expected"),
        (dict(correct=[1, 3]), ValueError, "correct: expected"),
        (dict(bins=0), ValueError, "bins: expected"),
        (dict(edges=[0, 0.5]), ValueError, "edges: expected"),
        (dict(closed="up"), ValueError, "closed: expected"),
    ],
)
def test_bad_arguments(
    method: str, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        METHODS[method](**{**ARGUMENTS, **change})


@pytest.mark.parametrize(
    ("method", "change", "error", "words"),
    [
        (lower_estimate_dece, dict(steps=0), ValueError, "steps: expected"),
        (lower_estimate_dece, dict(learning_rate=0), ValueError, "learning_rate: expected"),
        (lower_estimate_dece, dict(temperature=-1), ValueError, "temperature: expected"),
        (lower_estimate_dece, dict(starts="middle"), TypeError, "starts: expected a list"),
        (lower_estimate_admm, dict(steps=1.5), TypeError, "steps: expected"),
        (lower_estimate_admm, dict(penalty=0), ValueError, "penalty: expected"),
        (lower_estimate_admm, dict(growth=0.5), ValueError, "growth: expected"),
        (lower_estimate_admm, dict(starts=[]), ValueError, "starts: expected"),
        (lower_estimate_admm, dict(starts=["top"]), ValueError, "starts: expected"),
        (lower_estimate_admm, dict(starts=3), TypeError, "starts: expected a list"),
    ],
)
def test_bad_options(
    method: Callable[..., Any], change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        method(**ARGUMENTS, **change)
