# SPDX-License-Identifier: MIT
from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from problems import Problem, problems, random_problem
from reference import worst_ece_by_assignments

import certcal_ext as cc

# The search stops where no ECE is above the best one by more than 1e-9.
WIDENING = 1.1e-9


@settings(max_examples=60)
@given(problem=problems(most_samples=5))
def test_referee_agrees_with_brute_force_and_recursion(problem: Problem) -> None:
    options = {"edges": problem.edges, "closed": problem.closed}
    result = cc.certified_ece_milp(*problem[:3], **options)
    expected = worst_ece_by_assignments(*problem)
    assert result.optimal
    assert result.status == "Optimal"
    assert expected - 1e-13 <= result.bound <= expected + WIDENING
    assert result.incumbent == pytest.approx(expected, abs=1e-9)
    assert result.bound == pytest.approx(
        cc.certified_ece(*problem[:3], **options).value, abs=WIDENING
    )


@pytest.mark.parametrize("seed", range(3))
def test_referee_agrees_on_larger_problems(seed: int) -> None:
    problem = random_problem(60, seed=seed, bins=6)
    result = cc.certified_ece_milp(*problem[:3], bins=6)
    value = cc.certified_ece(*problem[:3], bins=6).value
    assert result.optimal
    assert value - 1e-13 <= result.bound <= value + WIDENING
    assert result.incumbent == pytest.approx(value, abs=1e-9)
    assert 0 < result.seconds < 60


def test_time_out_gives_a_valid_looser_bound_and_says_so() -> None:
    problem = random_problem(120, seed=1)
    result = cc.certified_ece_milp(*problem[:3], equal_mass=10, time_limit=0.5)
    assert not result.optimal
    assert result.status == "Time limit reached"
    assert result.incumbent <= result.bound <= 1
    assert result.seconds < 10


@pytest.mark.parametrize("size", [300, 1500])
def test_the_relaxation_alone_solves_the_problem_of_the_recursion(size: int) -> None:
    """With shares there is next to nothing to branch on, and no start is needed."""
    problem = random_problem(size, seed=1)
    value = cc.certified_ece(*problem[:3]).value
    result = cc.certified_ece_milp(*problem[:3], warm_start=False, time_limit=90)
    assert result.optimal
    assert value - 1e-15 <= result.bound <= value + 1e-11
    assert value - 1e-11 <= result.incumbent <= value


def test_bound_is_never_above_one() -> None:
    result = cc.certified_ece_milp([1, 0, 1], [0, 0, 0], [1, 1, 1])
    assert result.bound == 1.0
    assert result.incumbent == pytest.approx(1.0, abs=1e-12)


def test_points_need_no_search() -> None:
    problem = random_problem(200, seed=2)
    result = cc.certified_ece_milp(problem.correct, problem.lower, problem.lower)
    expected = cc.ece(problem.correct, problem.lower)
    assert result.bound == pytest.approx(expected, abs=WIDENING)
    assert result.incumbent == pytest.approx(expected, abs=1e-12)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    cc.certified_ece_milp([1, 0], [0.5, 0.25], [1.0, 0.5], bins=2)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_without_highspy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(ImportError, match=r'pip install "certcal_ext\[milp\]"'):
        cc.certified_ece_milp([1], [0.5], [0.6])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(correct=[], lower=[], upper=[]), ValueError, "expected at least one sample"),
        (dict(lower=[0.6, 0.1]), ValueError, "row 0"),
        (dict(upper=[0.6, math.nan]), ValueError, "row 1"),
        (dict(correct=[1, 3]), ValueError, "correct: expected"),
        (dict(time_limit=0), ValueError, "time_limit: expected a number above 0"),
        (dict(time_limit=-1.0), ValueError, "time_limit: expected"),
        (dict(time_limit=math.nan), ValueError, "time_limit: expected a finite number"),
        (dict(time_limit="1"), TypeError, "time_limit: expected a number"),
        (dict(bins=0), ValueError, "bins: expected"),
        (dict(closed="up"), ValueError, "closed: expected"),
    ],
)
def test_bad_arguments(change: dict[str, object], error: type[Exception], words: str) -> None:
    arguments = {"correct": [1, 0], "lower": [0.5, 0.1], "upper": [0.55, 0.3], **change}
    with pytest.raises(error, match=words):
        cc.certified_ece_milp(**arguments)  # type: ignore[arg-type]


def test_arguments_are_not_changed() -> None:
    lower, upper = np.array([0.2, 0.4]), np.array([0.3, 0.9])
    cc.certified_ece_milp(np.array([True, False]), lower, upper)
    assert lower.tolist() == [0.2, 0.4]
    assert upper.tolist() == [0.3, 0.9]
