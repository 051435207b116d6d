# SPDX-License-Identifier: MIT
"""KS and maximum calibration error: closed forms against the definitions, tried out one by one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from problems import Problem, problems, random_problem
from reference import pieces

import certcal_ext as cc


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


def test_the_order_of_the_samples_does_not_matter_beyond_the_last_bits() -> None:
    correct, lower, upper, _, _ = random_problem(5000, seed=3)
    order = np.random.default_rng(0).permutation(5000)
    here = cc.certified_ks(correct, lower, upper)
    there = cc.certified_ks(correct[order], lower[order], upper[order])
    assert (here.threshold, here.sign) == (there.threshold, there.sign)
    assert here.value == pytest.approx(there.value, abs=1e-12)


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
