# SPDX-License-Identifier: MIT
"""The program beyond the recursion: few attacked samples, groups of equal size, linear constraints."""

from __future__ import annotations

import doctest
import itertools
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem, problems, random_problem
from reference import Piece, bin_of, pieces, plain_ece
from scipy.optimize import linprog

import certcal_ext as cc
from certcal_ext.milp.solve import LinearConstraint, certified_ece_milp

#: The search stops where no ECE is above the best one by more than 1e-9.
WIDENING = 1.1e-9


def shares(size: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=size, max_size=size)


def inside(problem: Problem, share: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    z = problem.lower + np.array(share) * (problem.upper - problem.lower)
    return np.clip(z, problem.lower, problem.upper)


def worst_with_few_attacked(problem: Problem, clean: np.ndarray[Any, Any], attacked: int) -> float:
    """All sets of attacked samples, all bins for each of them, all signs."""
    best = 0.0
    size, bins = len(clean), len(problem.edges) - 1
    for chosen in itertools.combinations(range(size), attacked):
        places = [
            pieces(problem.lower[n], problem.upper[n], problem.edges, problem.closed)
            if n in chosen
            else [Piece(bin_of(clean[n], problem.edges, problem.closed), clean[n], clean[n])]
            for n in range(size)
        ]
        for places_of_all in itertools.product(*places):
            up, down = np.zeros(bins), np.zeros(bins)
            for c, piece in zip(problem.correct, places_of_all, strict=True):
                up[piece.bin] += c - piece.low
                down[piece.bin] += c - piece.high
            best = max(best, float(np.maximum(np.abs(up), np.abs(down)).sum()))
    return best / size


def group_sizes(size: int, groups: int) -> list[int]:
    return [len(part) for part in np.array_split(np.arange(size), groups)]


def worst_with_groups(
    correct: Any,
    lower: Any,
    upper: Any,
    groups: int,
    rows: tuple[tuple[Any, float, float], ...] = (),
) -> float:
    """All ways to put samples in groups, all signs, and a linear program for the confidences."""
    size = len(correct)
    sizes = group_sizes(size, groups)
    labels = [m for m, count in enumerate(sizes) for _ in range(count)]
    best = -math.inf
    for group in set(itertools.permutations(labels)):
        # Variables: the confidences and the thresholds between groups.
        order, limit = [], []
        for n, m in enumerate(group):
            for k in range(groups - 1):
                row = np.zeros(size + groups - 1)
                row[n], row[size + k] = (1.0, -1.0) if m <= k else (-1.0, 1.0)
                order.append(row)
                limit.append(0.0)
        for coefficients, least, most in rows:
            padded = np.r_[coefficients, np.zeros(groups - 1)]
            order += [padded, -padded]
            limit += [most, -least]
        for signs in itertools.product((-1.0, 1.0), repeat=groups):
            cost = np.array([signs[m] for m in group])
            found = linprog(
                np.r_[cost, np.zeros(groups - 1)],
                A_ub=np.array(order) if order else None,
                b_ub=limit or None,
                bounds=[*zip(lower, upper, strict=True), *[(0, 1)] * (groups - 1)],
            )
            if found.status == 0:
                best = max(best, float(cost @ np.asarray(correct, float)) - found.fun)
    return best / size


def equal_mass_ece(correct: Any, confidence: Any, groups: int) -> float:
    order = np.argsort(confidence, kind="stable")
    errors = (np.asarray(correct, float) - confidence)[order]
    parts = np.array_split(errors, groups)
    return float(sum(abs(part.sum()) for part in parts) / len(errors))


@settings(max_examples=60)
@given(data=st.data(), problem=problems(most_samples=4, most_bins=3))
def test_few_attacked_agrees_with_brute_force(data: st.DataObject, problem: Problem) -> None:
    size = len(problem.correct)
    clean = inside(problem, data.draw(shares(size)))
    attacked = data.draw(st.integers(0, size))
    warm = data.draw(st.booleans())
    result = certified_ece_milp(
        *problem[:3],
        edges=problem.edges,
        closed=problem.closed,
        max_attacked=attacked,
        confidence=clean,
        warm_start=warm,
    )
    expected = worst_with_few_attacked(problem, clean, attacked)
    assert result.optimal
    assert expected - 1e-13 <= result.bound <= expected + WIDENING
    assert result.incumbent == pytest.approx(expected, abs=1e-9)
    worst = result.worst_confidence
    assert worst is not None
    assert ((problem.lower <= worst) & (worst <= problem.upper)).all()
    # A bin's end that is not its own is approached by one float, which also counts as a move.
    moved = np.abs(worst - clean) > 1e-12
    assert moved.sum() <= attacked
    reached = plain_ece(problem.correct, worst, problem.edges, problem.closed)
    assert reached == pytest.approx(result.incumbent, abs=1e-9)


@pytest.mark.parametrize("warm", [True, False])
def test_no_one_and_everyone_attacked(warm: bool) -> None:
    problem = random_problem(25, seed=3, bins=5)
    clean = (problem.lower + problem.upper) / 2
    options: dict[str, Any] = dict(bins=5, confidence=clean, warm_start=warm)
    none = certified_ece_milp(*problem[:3], max_attacked=0, **options)
    everyone = certified_ece_milp(*problem[:3], max_attacked=25, **options)
    assert none.bound == pytest.approx(cc.ece(problem.correct, clean, bins=5), abs=WIDENING)
    assert np.array_equal(none.worst_confidence, clean)  # type: ignore[arg-type]
    exact = cc.certified_ece(*problem[:3], bins=5).value
    assert everyone.bound == pytest.approx(exact, abs=WIDENING)
    assert everyone.incumbent == pytest.approx(exact, abs=1e-9)


def test_more_attacked_is_never_better() -> None:
    problem = random_problem(40, seed=4, bins=5)
    clean = (problem.lower + problem.upper) / 2
    bounds = [
        certified_ece_milp(*problem[:3], bins=5, max_attacked=k, confidence=clean).bound
        for k in (0, 1, 2, 5, 10, 40)
    ]
    assert (np.diff(bounds) >= -WIDENING).all()
    # One attack moves one confidence, and with it at most two terms, each by at most 1.
    assert bounds[1] - bounds[0] <= 2 / 40 + WIDENING


@settings(max_examples=25)
@given(data=st.data(), problem=problems(most_samples=4, most_bins=2))
def test_groups_agree_with_brute_force(data: st.DataObject, problem: Problem) -> None:
    size = len(problem.correct)
    groups = data.draw(st.integers(1, min(size, 3)))
    warm = data.draw(st.booleans())
    result = certified_ece_milp(*problem[:3], equal_mass=groups, warm_start=warm)
    expected = worst_with_groups(*problem[:3], groups)
    assert result.optimal
    assert expected - 1e-9 <= result.bound <= expected + WIDENING
    assert result.incumbent == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_groups_with_a_linear_constraint_agree_with_brute_force(seed: int) -> None:
    problem = random_problem(5, seed=seed)
    middle = (problem.lower + problem.upper).mean() / 2
    row = (np.full(5, 0.2), middle - 0.01, middle + 0.02)
    result = certified_ece_milp(*problem[:3], equal_mass=2, constraints=[row])
    expected = worst_with_groups(*problem[:3], 2, (row,))
    assert result.optimal
    assert expected - 1e-8 <= result.bound <= expected + 1e-7
    assert result.incumbent == pytest.approx(expected, abs=1e-7)


@settings(max_examples=60)
@given(data=st.data(), problem=problems(most_samples=7, most_bins=2))
def test_groups_are_never_below_what_an_attack_reaches(
    data: st.DataObject, problem: Problem
) -> None:
    size = len(problem.correct)
    groups = data.draw(st.integers(1, size))
    bound = certified_ece_milp(*problem[:3], equal_mass=groups).bound
    for share in (data.draw(shares(size)) for _ in range(5)):
        z = inside(problem, share)
        assert equal_mass_ece(problem.correct, z, groups) <= bound + 1e-15
    if np.unique(problem.lower).size == size:
        point = certified_ece_milp(problem.correct, problem.lower, problem.lower, equal_mass=groups)
        plain = equal_mass_ece(problem.correct, problem.lower, groups)
        assert point.bound == pytest.approx(plain, abs=WIDENING)


def test_ties_of_points_are_broken_in_the_worst_way() -> None:
    # Four equal confidences: {right, right}, {wrong, wrong} is worse than two mixed groups.
    result = certified_ece_milp([1, 0, 1, 0], [0.5] * 4, [0.5] * 4, equal_mass=2)
    assert result.bound == pytest.approx(0.5, abs=WIDENING)
    mixed = equal_mass_ece([1, 0, 1, 0], np.full(4, 0.5), 2)
    assert mixed == 0.0


def test_one_group_and_one_group_a_sample() -> None:
    problem = random_problem(9, seed=5)
    one = certified_ece_milp(*problem[:3], equal_mass=1)
    assert one.bound == pytest.approx(cc.certified_ece(*problem[:3], bins=1).value, abs=WIDENING)
    alone = np.mean(np.where(problem.correct, 1 - problem.lower, problem.upper))
    each = certified_ece_milp(*problem[:3], equal_mass=9)
    assert each.bound == pytest.approx(alone, abs=WIDENING)


def test_groups_with_few_attacked() -> None:
    problem = random_problem(5, seed=6)
    clean = (problem.lower + problem.upper) / 2
    for attacked in range(5):
        result = certified_ece_milp(
            *problem[:3], equal_mass=2, max_attacked=attacked, confidence=clean
        )
        expected = max(
            worst_with_groups(
                problem.correct,
                np.where(np.isin(np.arange(5), chosen), problem.lower, clean),
                np.where(np.isin(np.arange(5), chosen), problem.upper, clean),
                2,
            )
            for chosen in itertools.combinations(range(5), attacked)
        )
        assert result.optimal
        assert result.bound == pytest.approx(expected, abs=WIDENING)
        assert result.incumbent == pytest.approx(expected, abs=1e-8)


@settings(max_examples=40)
@given(data=st.data(), problem=problems(most_samples=4, most_bins=3))
def test_linear_constraints_agree_with_brute_force(data: st.DataObject, problem: Problem) -> None:
    size = len(problem.correct)
    clean = inside(problem, data.draw(shares(size)))
    weights = np.array(
        data.draw(st.lists(st.sampled_from([-2.0, 0.0, 0.5, 1.0]), min_size=size, max_size=size))
    )
    weights[0] = 1.0
    width = data.draw(st.sampled_from([0.0, 0.01, 0.3]))
    middle = float(weights @ clean)
    row = (weights, middle - width, middle + width)
    result = certified_ece_milp(
        *problem[:3],
        edges=problem.edges,
        closed=problem.closed,
        constraints=[LinearConstraint(*row)],
        confidence=data.draw(st.sampled_from([None, clean])),
        warm_start=data.draw(st.booleans()),
    )
    expected = worst_with_constraint(problem, *row)
    assert result.optimal
    assert expected - 1e-9 <= result.bound <= expected + 2e-7
    assert result.incumbent == pytest.approx(expected, abs=2e-7)
    worst = result.worst_confidence
    assert worst is not None
    assert abs(weights @ worst - middle) <= width + 1e-8


def worst_with_constraint(
    problem: Problem, weights: np.ndarray[Any, Any], least: float, most: float
) -> float:
    """All bins of each sample, all signs, and a linear program inside."""
    places = [
        pieces(lo, up, problem.edges, problem.closed)
        for lo, up in zip(problem.lower, problem.upper, strict=True)
    ]
    best = -math.inf
    for chosen in itertools.product(*places):
        for signs in itertools.product((-1.0, 1.0), repeat=len(problem.edges) - 1):
            cost = np.array([signs[piece.bin] for piece in chosen])
            found = linprog(
                cost,
                A_ub=np.array([weights, -weights]),
                b_ub=[most, -least],
                bounds=[(piece.low, piece.high) for piece in chosen],
            )
            if found.status == 0:
                best = max(best, float(cost @ problem.correct.astype(float)) - found.fun)
    return best / len(problem.correct)


def test_mean_confidence_held_near_the_clean_one() -> None:
    problem = random_problem(40, seed=10, bins=5)
    clean = (problem.lower + problem.upper) / 2
    exact = cc.certified_ece(*problem[:3], bins=5).value
    mean = clean.mean()
    held = certified_ece_milp(
        *problem[:3],
        bins=5,
        constraints=[(np.full(40, 1 / 40), mean - 0.01, mean + 0.01)],
        confidence=clean,
    )
    assert held.optimal
    assert held.bound < exact - 0.01
    assert held.worst_confidence is not None
    assert abs(held.worst_confidence.mean() - mean) <= 0.01 + 1e-9
    reached = plain_ece(problem.correct, held.worst_confidence, problem.edges, "right")
    assert reached == pytest.approx(held.bound, abs=1e-7)
    assert cc.ece(problem.correct, clean, bins=5) <= held.bound
    vacuous = certified_ece_milp(
        *problem[:3], bins=5, constraints=[LinearConstraint(np.ones(40), upper=40.0)]
    )
    assert vacuous.bound == pytest.approx(exact, abs=WIDENING)


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e9, 1e300])
def test_a_constraint_means_the_same_in_any_unit(scale: float) -> None:
    problem = random_problem(12, seed=8, bins=3)
    total = float(Fraction(problem.lower.sum()) + 1)
    result = certified_ece_milp(
        *problem[:3], bins=3, constraints=[(np.full(12, scale), 0.0, scale * total)]
    )
    plain = certified_ece_milp(*problem[:3], bins=3, constraints=[(np.ones(12), 0.0, total)])
    assert result.bound == pytest.approx(plain.bound, abs=WIDENING)


def test_constraints_that_cannot_be_met_are_an_error() -> None:
    with pytest.raises(ValueError, match="constraints: expected some that confidences can satisfy"):
        certified_ece_milp([1, 0], [0.5, 0.2], [0.6, 0.3], constraints=[([1, 1], 1.5, 2.0)])


def test_spans_that_the_solver_would_drop_still_count() -> None:
    """500 intervals 1e-12 wide: below what HiGHS keeps as a coefficient."""
    lower = np.full(500, 0.5)
    lower[::2] = 0.25
    result = certified_ece_milp(np.zeros(500), lower, lower + 1e-12, bins=2)
    assert result.bound >= cc.certified_ece(np.zeros(500), lower, lower + 1e-12, bins=2).value
    assert result.bound == pytest.approx(0.375, abs=WIDENING)


def test_examples_of_the_page_run() -> None:
    page = Path(__file__).resolve().parents[2] / "docs/milp.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.failed == 0
    assert result.attempted >= 8


ARGUMENTS: dict[str, Any] = {"correct": [1, 0], "lower": [0.5, 0.1], "upper": [0.55, 0.3]}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(max_attacked=1), ValueError, "confidence: expected the clean values"),
        (dict(max_attacked=3, confidence=[0.5, 0.2]), ValueError, "max_attacked: expected"),
        (dict(max_attacked=-1, confidence=[0.5, 0.2]), ValueError, "max_attacked: expected"),
        (dict(max_attacked=1.0, confidence=[0.5, 0.2]), TypeError, "max_attacked: expected"),
        (dict(max_attacked=1, confidence=[0.5, 0.4]), ValueError, "got 0.4 in row 1"),
        (dict(confidence=[0.5, math.nan]), ValueError, "confidence: .* row 1"),
        (dict(confidence=[0.5]), ValueError, "confidence: expected 2 entries"),
        (dict(equal_mass=0), ValueError, "equal_mass: expected"),
        (dict(equal_mass=3), ValueError, "equal_mass: expected"),
        (dict(equal_mass=True), TypeError, "equal_mass: expected"),
        (dict(equal_mass=1, edges=[0, 1]), ValueError, "edges: expected None with equal_mass"),
        (dict(constraints=LinearConstraint([1, 1])), TypeError, "constraints: expected a list"),
        (dict(constraints=3), TypeError, "constraints: expected a list"),
        (dict(constraints=np.array(3.0)), TypeError, "constraints: expected a list"),
        (dict(constraints=[([1, 1], np.zeros(2), 1)]), TypeError, r"constraints\[0\]: expected"),
        (dict(constraints=[[1, 2]]), TypeError, r"constraints\[0\]: expected a LinearConstraint"),
        (dict(constraints=[([1], 0, 1)]), ValueError, r"constraints\[0\].coefficients: expected 2"),
        (dict(constraints=[([0, 0], 0, 1)]), ValueError, "not all 0"),
        (dict(constraints=[([1, math.inf], 0, 1)]), ValueError, "expected finite"),
        (dict(constraints=[([1, 1], 1, 0)]), ValueError, "expected lower <= upper"),
        (dict(constraints=[([1, 1], math.nan, 0)]), ValueError, r"constraints\[0\]: expected"),
        (dict(constraints=[([1, 1], math.inf, math.inf)]), ValueError, r"\[0\].lower: expected"),
        (dict(constraints=[([1, 1], -math.inf, -math.inf)]), ValueError, r"\[0\].upper: exp"),
        (dict(constraints=[([1, 1], "0", 1)]), TypeError, r"constraints\[0\]: expected"),
        (dict(warm_start=1), TypeError, "warm_start: expected"),
        (dict(progress=1), TypeError, "progress: expected"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        certified_ece_milp(**{**ARGUMENTS, **change})


def test_arguments_are_not_changed() -> None:
    clean, weights = np.array([0.5, 0.2]), np.array([3.0, 1.0])
    certified_ece_milp(
        **ARGUMENTS, max_attacked=1, confidence=clean, constraints=[(weights, 0.0, 2.0)]
    )
    assert clean.tolist() == [0.5, 0.2]
    assert weights.tolist() == [3.0, 1.0]
