# SPDX-License-Identifier: MIT
"""KS and maximum calibration error: closed forms against the definitions, tried out one by one."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import Problem, problems, random_problem
from reference import pieces
from scipy.optimize import linprog

import certcal_ext as cc
from certcal_ext.metrics import fixed, ks, mce


def ks_by_thresholds(problem: Problem) -> float:
    """Every sample takes the better of lying at or below t and, if it can, above it."""
    correct, lower, upper, _, _ = problem
    ends = np.concatenate((lower, upper))
    best = 0.0
    for t in {*ends, *np.nextafter(ends, -1), *np.nextafter(ends, 2)}:
        for sign in (-1, 1):
            total = 0.0
            for c, lo, up in zip(correct.astype(float), lower, upper, strict=True):
                options = [0.0] if up > t else []
                if lo <= t:
                    options += [sign * (c - lo), sign * (c - min(up, t))]
                total += max(options)
            best = max(best, total)
    return best / len(correct)


def exact_ks(problem: Problem) -> Fraction:
    """The same in exact arithmetic: at each end, with it or just short of it."""
    rows = [
        (Fraction(int(c)), Fraction(lo), Fraction(up))
        for c, lo, up in zip(*(column.tolist() for column in problem[:3]), strict=True)
    ]
    best = Fraction(0)
    for t in {end for _, lo, up in rows for end in (lo, up)}:
        for sign, short in itertools.product((-1, 1), (False, True)):
            total = Fraction(0)
            for c, lo, up in rows:
                options = [Fraction(0)] if up > t or (short and up == t) else []
                if lo < t or (lo == t and not short):
                    options += [sign * (c - lo), sign * (c - min(up, t))]
                total += max(options)
            best = max(best, total)
    return best / len(rows)


def exact_mce(problem: Problem) -> Fraction:
    """The best assignment in exact arithmetic."""
    correct, lower, upper, edges, closed = problem
    places = [pieces(lo, up, edges, closed) for lo, up in zip(lower, upper, strict=True)]
    best = Fraction(0)
    for chosen in itertools.product(*places):
        for m in {p.bin for p in chosen}:
            members = [(int(c), p) for c, p in zip(correct, chosen, strict=True) if p.bin == m]
            too_low = sum((c - Fraction(float(p.low)) for c, p in members), Fraction(0))
            too_high = sum((Fraction(float(p.high)) - c for c, p in members), Fraction(0))
            best = max(best, too_low / len(members), too_high / len(members))
    return best


def plain_ks(correct: Any, confidence: Any) -> float:
    return max(abs(float((correct - confidence)[confidence <= t].sum())) for t in confidence) / len(
        correct
    )


def mce_by_assignments(problem: Problem) -> float:
    """Every way to put the samples into bins that they reach; in a bin all confidences go to one side."""
    correct, lower, upper, edges, closed = problem
    places = [pieces(lo, up, edges, closed) for lo, up in zip(lower, upper, strict=True)]
    best = 0.0
    for chosen in itertools.product(*places):
        for m in {p.bin for p in chosen}:
            members = [(float(c), p) for c, p in zip(correct, chosen, strict=True) if p.bin == m]
            best = max(best, np.mean([c - p.low for c, p in members]))
            best = max(best, np.mean([p.high - c for c, p in members]))
    return float(best)


@given(problems(most_samples=8))
def test_ks_is_the_best_threshold(problem: Problem) -> None:
    value = cc.certified_ks(problem.correct, problem.lower, problem.upper).value
    expected = ks_by_thresholds(problem)
    assert value == pytest.approx(expected, abs=1e-12)
    assert value >= expected - 1e-15


@given(problems(most_samples=5))
def test_mce_is_the_best_assignment(problem: Problem) -> None:
    correct, lower, upper, edges, closed = problem
    value = cc.certified_mce(correct, lower, upper, edges=edges, closed=closed).value
    assert value == pytest.approx(mce_by_assignments(problem), abs=1e-12)


def mce_by_linear_programs(problem: Problem) -> float:
    """A largest mean is a linear-fractional program; with y = x / sum x HiGHS solves it for each bin and sign."""
    correct, lower, upper, edges, closed = problem
    places = [pieces(lo, up, edges, closed) for lo, up in zip(lower, upper, strict=True)]
    best = 0.0
    for m in range(len(edges) - 1):
        members = [
            (c, p, len(place) == 1)
            for c, place in zip(correct, places, strict=True)
            for p in place
            if p.bin == m
        ]
        if not members:
            continue
        must = np.array([only for _, _, only in members])
        # Columns y and tau = 1 / (size of the set); rows y = tau or y <= tau, and sum y = 1.
        rows = np.hstack((np.eye(must.size), -np.ones((must.size, 1))))
        total = np.append(np.ones(must.size), 0)
        for terms in (
            np.array([c - p.low for c, p, _ in members]),
            np.array([p.high - c for c, p, _ in members]),
        ):
            solved = linprog(
                np.append(-terms, 0),
                A_ub=rows[~must],
                b_ub=np.zeros(np.count_nonzero(~must)),
                A_eq=np.vstack((rows[must], total)),
                b_eq=np.append(np.zeros(np.count_nonzero(must)), 1),
            )
            assert solved.success
            best = max(best, -solved.fun)
    return best


@pytest.mark.parametrize(("size", "bins"), [(33, 4), (100, 15), (257, 10)])
def test_linear_programs_agree_on_mce(size: int, bins: int) -> None:
    problem = random_problem(size, seed=size, bins=bins)
    correct, lower, upper, edges, closed = problem
    value = cc.certified_mce(correct, lower, upper, edges=edges, closed=closed).value
    assert value == pytest.approx(mce_by_linear_programs(problem), abs=1e-7)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 255, 256, 257, 4097])
def test_no_sampled_confidence_is_worse(size: int) -> None:
    problem = random_problem(size, seed=size)
    correct, lower, upper, edges, closed = problem
    ks = cc.certified_ks(correct, lower, upper).value
    mce = cc.certified_mce(correct, lower, upper, edges=edges, closed=closed).value
    random = np.random.default_rng(size)
    for attempt in range(20):
        share = random.random(size) if attempt else correct.astype(float)
        confidence = lower + share * (upper - lower)
        if size < 300:
            assert plain_ks(correct, confidence) <= ks + 1e-12
        at = np.searchsorted(edges[1:-1], confidence, "left" if closed == "right" else "right")
        count = np.bincount(at, minlength=len(edges) - 1)
        gap = np.abs(np.bincount(at, correct - confidence, len(edges) - 1))
        assert (gap[count > 0] / count[count > 0]).max() <= mce + 1e-12


@given(problems())
def test_points_give_the_plain_errors(problem: Problem) -> None:
    correct, z = problem.correct, problem.lower
    value = cc.certified_ks(correct, z, z).value
    assert value == pytest.approx(plain_ks(correct, z), abs=1e-12)


@given(problems(most_samples=6), st.integers(0, 40))
def test_never_below_the_exact_value_and_hardly_above(problem: Problem, lost: int) -> None:
    """With the bits of small and, by cutting them, of large problems."""
    bits = 52 - lost
    with pytest.MonkeyPatch.context() as patch:
        for module in (ks, mce):
            patch.setattr(module, "fraction_bits", lambda samples: bits)
        of_ks = cc.certified_ks(*problem[:3])
        of_mce = cc.certified_mce(*problem[:3], edges=problem.edges, closed=problem.closed)
    for result, exact in ((of_ks, exact_ks(problem)), (of_mce, exact_mce(problem))):
        assert exact <= Fraction(result.value) <= exact + Fraction(2, 2**bits)


def test_the_bits_of_a_fraction_leave_room_for_the_sums() -> None:
    for samples in (1, 2, 1023, 1024, 10**6, 2**36, 2**36 - 1):
        bits = fixed.fraction_bits(samples)
        assert samples << bits <= 2**62
        assert bits == 52 or (samples << bits) > 2**60


def test_the_order_of_the_samples_does_not_matter_to_the_last_bit() -> None:
    correct, lower, upper, _, _ = random_problem(5000, seed=3)
    lower, upper = np.round(lower, 2), np.round(upper, 2)  # many ties
    order = np.random.default_rng(0).permutation(5000)
    for metric in (cc.certified_ks, cc.certified_mce):
        here = metric(correct, lower, upper)
        assert metric(correct[order], lower[order], upper[order]) == here


@given(problems(most_samples=8))
def test_the_threshold_and_sign_are_those_of_the_supremum(problem: Problem) -> None:
    correct, lower, upper, _, _ = problem
    ks = cc.certified_ks(correct, lower, upper)
    values = []
    for short in (False, True):
        begun = lower < ks.threshold if short else lower <= ks.threshold
        ended = upper < ks.threshold if short else upper <= ks.threshold
        if ks.sign > 0:
            total = (1 - lower)[correct & begun].sum() - lower[~correct & ended].sum()
        else:
            total = np.minimum(upper, ks.threshold)[~correct & begun].sum()
            total -= (1 - upper)[correct & ended].sum()
        values.append(total / correct.size)
    assert max(values) == pytest.approx(ks.value, abs=1e-12)


def test_one_class_points_and_vacuous_intervals() -> None:
    for metric in (cc.certified_ks, cc.certified_mce):
        assert metric([1, 1], [0.0, 0.0], [1.0, 1.0]).value == 1.0
        assert metric([0, 0], [0.0, 0.0], [1.0, 1.0]).value == 1.0
        assert metric([1, 0], [1.0, 0.0], [1.0, 0.0]).value == 0.0
        assert metric([1, 0], [0.5, 0.5], [0.5, 0.5]).value == 0.0
        assert metric([1], [0.25], [0.5]).value == 0.75
        assert metric([0], [0.25], [0.5]).value == 0.5


def test_golden_values(shared: Path) -> None:
    cases = json.loads((shared / "golden" / "certified_metrics.json").read_text())
    for case in cases:
        value = cc.certified_ks(case["correct"], case["lower"], case["upper"]).value
        assert value == pytest.approx(case["ks"], abs=1e-9), case["kind"]


@pytest.mark.parametrize("metric", [cc.certified_ks, cc.certified_mce])
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
def test_bad_input(metric: Any, arguments: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        metric(*arguments)
