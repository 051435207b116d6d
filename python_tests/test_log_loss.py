# SPDX-License-Identifier: MIT
"""The certified log loss against its definition in 50 digits, its clip, and its edges."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import SIZES, Problem, problems, random_problem

from certcal_ext.metrics.log_loss import certified_log_loss
from certcal_ext.metrics.plain import log_loss


def loss(correct: bool, confidence: float) -> mpmath.mpf:
    """-log of what the truth was given; the exact value of the double."""
    with mpmath.workdps(400):
        given_to_truth = mpmath.mpf(confidence) if correct else 1 - mpmath.mpf(confidence)
        return mpmath.inf if given_to_truth == 0 else -mpmath.log(given_to_truth)


def worst_by_ends(problem: Problem) -> mpmath.mpf:
    """Every choice of an end or the middle of each interval."""
    choices = [
        [loss(c, z) for z in (lo, up, (lo + up) / 2)]
        for c, lo, up in zip(*problem[:3], strict=True)
    ]
    return max(sum(chosen) for chosen in itertools.product(*choices)) / len(choices)


@given(problems(most_samples=5))
def test_worst_of_all_choices_and_never_below_it(problem: Problem) -> None:
    result = certified_log_loss(*problem[:3])
    expected = worst_by_ends(problem)
    if mpmath.isinf(expected):
        assert result.value == math.inf
        assert result.infinite > 0
    else:
        assert result.infinite == 0
        assert mpmath.mpf(result.value) >= expected
        assert result.value == pytest.approx(float(expected), abs=2.0**-41, rel=1e-15)


@given(problems(most_samples=5), st.sampled_from([1e-300, 2.0**-52, 1e-3, 0.3, 0.4999]))
def test_clip_is_the_loss_of_clipped_confidences(problem: Problem, clip: float) -> None:
    result = certified_log_loss(*problem[:3], clip=clip)
    with mpmath.workdps(400):
        least, most = mpmath.mpf(clip), 1 - mpmath.mpf(clip)
        total = mpmath.mpf(0)
        for c, lo, up in zip(*problem[:3], strict=True):
            z = min(max(mpmath.mpf(lo if c else up), least), most)
            total -= mpmath.log(z if c else 1 - z)
        expected = total / problem.correct.size
        assert mpmath.mpf(result.value) >= expected
    assert result.value == pytest.approx(float(expected), abs=2.0**-41, rel=1e-15)
    assert (result.infinite, result.clip) == (0, clip)


@pytest.mark.parametrize("size", SIZES)
def test_no_sampled_confidence_is_worse(size: int) -> None:
    correct, lower, upper, _, _ = random_problem(size, seed=size)
    result = certified_log_loss(correct, lower, upper, clip=1e-6)
    random = np.random.default_rng(size)
    for _ in range(20):
        z = lower + random.random(size) * (upper - lower)
        assert log_loss(correct, z, clip=1e-6) <= result.value


@pytest.mark.parametrize("size", SIZES)
def test_the_order_does_not_matter_to_the_last_bit(size: int) -> None:
    correct, lower, upper, _, _ = random_problem(size, seed=size)
    order = np.random.default_rng(1).permutation(size)
    here = certified_log_loss(correct, lower, upper, clip=1e-9)
    assert certified_log_loss(correct[order], lower[order], upper[order], clip=1e-9) == here


def test_tiny_and_extreme_confidences() -> None:
    smallest = np.nextafter(0.0, 1.0)
    assert certified_log_loss([1], [smallest], [1.0]).value == pytest.approx(1074 * math.log(2))
    assert certified_log_loss([0], [0.0], [smallest]).value <= 2.0**-42
    just_below = np.nextafter(1.0, 0.0)
    assert certified_log_loss([0], [0.0], [just_below]).value == pytest.approx(53 * math.log(2))
    assert certified_log_loss([1, 0], [1.0, 0.0], [1.0, 0.0]).value == 0
    assert certified_log_loss([1, 0], [0.0, 0.0], [1.0, 1.0]).infinite == 2  # vacuous
    vacuous = certified_log_loss([1, 0], [0.0, 0.0], [1.0, 1.0], clip=0.25)
    assert vacuous.value == pytest.approx(math.log(4), abs=1e-12)


def test_constant_and_skill_beside_the_bound() -> None:
    result = certified_log_loss([1, 1, 1, 0], [0.9] * 3 + [0.1], [0.95] * 3 + [0.2])
    constant = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert result.n == 4
    assert result.accuracy == 0.75
    assert result.constant == pytest.approx(constant)
    value = (-3 * math.log(0.9) - math.log(0.8)) / 4
    assert result.skill == pytest.approx(1 - value / constant, abs=1e-9)
    assert certified_log_loss([1, 0], [0.0, 0.5], [1.0, 0.5]).skill == -math.inf
    for one_class in (0, 1):
        result = certified_log_loss([one_class], [0.5], [0.5])
        assert result.constant == 0
        assert math.isnan(result.skill)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (([], [], []), ValueError, "at least one sample"),
        (([1], [0.5], [0.4]), ValueError, "lower <= upper"),
        (([1], [float("nan")], [0.4]), ValueError, "lower <= upper"),
        (([0], [0.5], [1.5]), ValueError, "lower <= upper"),
        (([1], [0.5], [0.6, 0.7]), ValueError, "upper: expected 1 entries"),
        (([1], [[0.5]], [0.6]), ValueError, "lower: expected shape"),
        (([2], [0.5], [0.6]), ValueError, "correct: expected booleans or 0 and 1"),
        ((["a"], [0.5], [0.6]), TypeError, "correct"),
        (([1], [0.5], [0.6], 0.5), ValueError, "clip: expected a number above 0 and below 0.5"),
        (([1], [0.5], [0.6], 0.0), ValueError, "clip"),
        (([1], [0.5], [0.6], float("nan")), ValueError, "clip: expected a finite number"),
        (([1], [0.5], [0.6], True), TypeError, "clip: expected a number"),
    ],
)
def test_bad_input(arguments: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        certified_log_loss(*arguments)
