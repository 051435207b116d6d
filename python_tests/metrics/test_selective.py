# SPDX-License-Identifier: MIT
"""Selective risk and the area under its curve: all choices tried out, orders of equal confidences included."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import SIZES, Problem, problems, random_problem

from certcal_ext._rounding import ratios_down, ratios_up, rounded_down, rounded_up
from certcal_ext.metrics import risk_coverage as coverage_module
from certcal_ext.metrics.risk_coverage import (
    _aurc_of_groups,
    certified_risk_coverage,
    risk_coverage,
)
from certcal_ext.metrics.selective import certified_selective_risk, selective_risk


def tried(problem: Problem, more: list[float]) -> list[list[float]]:
    """For each sample the ends of all intervals, and more, as far as they lie in its own."""
    ends = {*problem.lower.tolist(), *problem.upper.tolist(), *more}
    return [
        sorted(z for z in ends if lo <= z <= up)
        for lo, up in zip(problem.lower, problem.upper, strict=True)
    ]


def risk_of_set(correct: Any, accepted: Any) -> Fraction:
    wrong = sum(1 for c, a in zip(correct, accepted, strict=True) if a and not c)
    count = sum(accepted)
    return Fraction(wrong, count) if count else Fraction(0)


def area(correct: Any, confidence: Any) -> Fraction:
    """The largest area over all orders of equal confidences."""
    best = Fraction(0)
    for order in itertools.permutations(range(len(confidence))):
        if all(confidence[i] >= confidence[j] for i, j in itertools.pairwise(order)):
            errors = np.cumsum([not correct[i] for i in order])
            terms = [Fraction(int(e), k) for k, e in enumerate(errors, start=1)]
            best = max(best, sum(terms, Fraction(0)) / len(terms))
    return best


def exact_area(wrong: Any, right: Any) -> Fraction:
    """The area rank by rank, wrong ones first in each group."""
    ranks = [
        bad for w, r in zip(wrong, right, strict=True) for bad in [True] * int(w) + [False] * int(r)
    ]
    terms = [Fraction(int(e), k) for k, e in enumerate(np.cumsum(ranks), start=1)]
    return sum(terms, Fraction(0)) / len(terms)


@given(problems(most_samples=6), st.floats(0, 1), st.data())
def test_worst_set_of_accepted(problem: Problem, other: float, data: st.DataObject) -> None:
    ends = [*problem.lower.tolist(), *problem.upper.tolist()]
    t = data.draw(st.sampled_from([*ends, other, 0.0, 1.0]))
    result = certified_selective_risk(*problem[:3], threshold=t)
    options = [
        {lo >= t, up >= t} for lo, up in zip(problem.lower, problem.upper, strict=True)
    ]  # rejected and accepted, or one of them
    worst, coverage = Fraction(0), Fraction(1)
    for accepted in itertools.product(*options):
        worst = max(worst, risk_of_set(problem.correct, accepted))
        coverage = min(coverage, Fraction(sum(accepted), len(accepted)))
    assert Fraction(result.risk) >= worst
    assert result.risk == pytest.approx(float(worst), abs=1e-15)
    assert Fraction(result.coverage) <= coverage
    assert result.coverage == pytest.approx(float(coverage), abs=1e-15)


@given(problems(most_samples=10))
def test_the_curve_holds_the_risk_at_every_threshold(problem: Problem) -> None:
    curve = certified_risk_coverage(*problem[:3])
    assert curve.thresholds.tolist() == sorted({*problem.lower.tolist(), *problem.upper.tolist()})
    between = [0.0, 1.0, *((curve.thresholds[1:] + curve.thresholds[:-1]) / 2)]
    for at, t in enumerate([*curve.thresholds, *between]):
        one = certified_selective_risk(*problem[:3], threshold=t)
        row = at if at < curve.thresholds.size else int(np.searchsorted(curve.thresholds, t))
        if row < curve.thresholds.size:
            assert one.errors == curve.errors[row]
            assert one.kept == curve.kept[row]
            assert one.coverage == curve.coverage[row]
            assert one.coverage_at_worst == curve.coverage_at_worst[row]
            assert one.risk == curve.risk[row]
        else:  # above all intervals nothing is accepted
            assert (one.risk, one.coverage, one.errors, one.kept) == (0, 0, 0, 0)


@given(problems(most_samples=4))
def test_no_confidences_and_no_order_have_a_larger_area(problem: Problem) -> None:
    result = certified_risk_coverage(*problem[:3])
    expected = max(area(problem.correct, z) for z in itertools.product(*tried(problem, [])))
    assert Fraction(result.aurc) >= expected
    assert result.aurc == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_no_sampled_confidence_is_worse(size: int) -> None:
    correct, lower, upper, _, _ = random_problem(size, seed=size)
    curve = certified_risk_coverage(correct, lower, upper, thresholds=np.linspace(0, 1, 21))
    random = np.random.default_rng(size)
    for _ in range(10):
        z = np.clip(lower + random.random(size) * (upper - lower), lower, upper)
        plain = risk_coverage(correct, z, thresholds=np.linspace(0, 1, 21))
        assert plain.aurc <= curve.aurc
        assert (plain.risk <= curve.risk).all()
        assert (plain.coverage >= curve.coverage).all()
        assert selective_risk(correct, z, 0.5).risk <= curve.risk[10]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12).filter(
        lambda groups: sum(map(sum, groups)) > 0
    ),
    st.sampled_from([0, 1, 3, 10, 2**20]),
)
def test_the_area_of_groups(groups: list[tuple[int, int]], summed: int) -> None:
    wrong, right = (np.array(column) for column in zip(*groups, strict=True))
    expected = exact_area(wrong, right)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage_module, "_SUMMED_RANKS", summed)
        value = _aurc_of_groups(wrong, right)
    if summed == 2**20:
        assert Fraction(value) >= expected
        assert value == pytest.approx(float(expected), abs=1e-13)
    else:  # the formula for later ranks is used for early ones, where its series is cut too soon
        assert value == pytest.approx(float(expected), abs=0.05 if summed < 3 else 2e-4)


def test_the_area_of_more_ranks_than_are_summed() -> None:
    """A cut run and thousands of runs after it, against a sum rank by rank."""
    random = np.random.default_rng(0)
    wrong, right = random.integers(0, 300, 5000), random.integers(0, 900, 5000)
    assert wrong.sum() + right.sum() > 2 * 2**20
    ranks = np.repeat(np.tile([True, False], 5000), np.column_stack((wrong, right)).ravel())
    terms = np.cumsum(ranks).astype(np.longdouble) / np.arange(1, ranks.size + 1)
    expected = float(terms.sum() / ranks.size)
    value = _aurc_of_groups(wrong, right)
    assert expected <= value <= expected + 1e-12
    huge = _aurc_of_groups(np.array([2**34, 0]), np.array([0, 2**34]))
    assert huge == pytest.approx((1 + np.log(2)) / 2, abs=1e-9)


@given(
    st.lists(st.tuples(st.integers(0, 2**36), st.integers(0, 2**36)), min_size=1, max_size=50),
    st.integers(1, 100),
)
def test_ratios_are_the_neighbours_of_the_exact_ones(
    pairs: list[tuple[int, int]], scale: int
) -> None:
    pairs += [(a // scale, b // scale) for a, b in pairs] + [(0, 0), (1, 3), (1, 2), (7, 7)]
    part, whole = np.array([min(p) for p in pairs]), np.array([max(p) for p in pairs])
    up, down = ratios_up(part, whole), ratios_down(part, whole)
    for row, (a, b) in enumerate(zip(part.tolist(), whole.tolist(), strict=True)):
        exact = Fraction(a, b) if b else Fraction(0)
        assert (up[row], down[row]) == (rounded_up(exact), rounded_down(exact))
        assert Fraction(down[row]) <= exact <= Fraction(up[row])


def test_one_class_and_ties() -> None:
    for correct, expected in (([1, 1], 0.0), ([0, 0], 1.0)):
        curve = certified_risk_coverage(correct, [0.2, 0.3], [0.4, 0.9])
        assert curve.aurc == expected
        assert curve.constant == expected
        assert set(curve.risk.tolist()) == {expected}
    tied = risk_coverage([1, 0], [0.5, 0.5])  # the wrong one first: (1 + 1/2) / 2
    assert tied.aurc == pytest.approx(0.75)
    assert tied.risk.tolist() == [0.5]
    vacuous = certified_risk_coverage([1, 1, 0, 1], [0] * 4, [1] * 4)
    assert vacuous.risk.tolist() == [0.25, 1.0]
    assert vacuous.aurc == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_an_empty_set_has_no_risk() -> None:
    result = certified_selective_risk([0, 1], [0.1, 0.1], [0.5, 0.5], threshold=0.6)
    assert (result.risk, result.coverage, result.coverage_at_worst) == (0, 0, 0)
    assert result.constant == 0.5


def test_the_result_is_read_only_and_the_arguments_stay() -> None:
    thresholds = np.array([0.25, 0.5])
    curve = certified_risk_coverage([1, 0], [0.1, 0.2], [0.3, 0.4], thresholds)
    with pytest.raises(ValueError, match="read-only"):
        curve.risk[0] = 0
    thresholds[0] = 0.3
    assert curve.thresholds[0] == 0.25


@pytest.mark.parametrize("call", [certified_risk_coverage, certified_selective_risk])
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (([], [], []), ValueError, "at least one sample"),
        (([1], [0.5], [0.4]), ValueError, "lower <= upper"),
        (([1], [float("nan")], [0.4]), ValueError, "lower <= upper"),
        (([1], [0.5], [0.6, 0.7]), ValueError, "upper: expected 1 entries"),
        (([2], [0.5], [0.6]), ValueError, "correct: expected booleans or 0 and 1"),
        ((["a"], [0.5], [0.6]), TypeError, "correct"),
    ],
)
def test_bad_input(call: Any, arguments: Any, kind: type[Exception], message: str) -> None:
    threshold = 0.5 if call is certified_selective_risk else [0.5]
    with pytest.raises(kind, match=message):
        call(*arguments, threshold)


@pytest.mark.parametrize(
    ("threshold", "kind"),
    [(1.5, ValueError), (-0.1, ValueError), (float("nan"), ValueError), ("a", TypeError)],
)
def test_bad_threshold(threshold: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="threshold: expected"):
        certified_selective_risk([1], [0.5], [0.6], threshold)


@pytest.mark.parametrize(
    ("thresholds", "kind"),
    [
        ([], ValueError),
        ([0.5, 0.5], ValueError),
        ([0.5, 0.4], ValueError),
        ([0.5, 1.1], ValueError),
        ([float("nan")], ValueError),
        ([["a"]], ValueError),
        (["a"], TypeError),
    ],
)
def test_bad_thresholds(thresholds: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="thresholds: expected"):
        certified_risk_coverage([1], [0.5], [0.6], thresholds)
