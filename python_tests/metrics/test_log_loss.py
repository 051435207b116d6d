# SPDX-License-Identifier: MIT
"""The certified log loss against its definition in 50 digits, its clip, and its edges."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import SIZES, Problem, problems, random_problem

from certcal_ext import Certificates, compare
from certcal_ext.metrics.log_loss import LogLossState, certified_log_loss, log_loss


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


def as_deployed(z: float, clip: float, dtype: str) -> list[float]:
    """What a model reports for z, by each way in which users write the clip; computed in ``dtype``."""
    kind = np.dtype(dtype).type
    value = np.array([z]).astype(dtype)
    written = [
        np.clip(value, kind(clip), kind(1) - kind(clip)),  # all in the format
        np.clip(value, clip, 1 - clip),  # Python's numbers, rounded to the format afterwards
        torch.from_numpy(value).clamp(clip, 1 - clip).numpy(),
    ]
    assert all(each.dtype == kind for each in written)
    return [float(each[0]) for each in written]


@given(
    problems(most_samples=5),
    st.one_of(st.sampled_from([2.0**-52, 1e-3, 0.3, 0.4999]), st.floats(1e-15, 0.499)),
    st.sampled_from(["float64", "float32"]),
    st.integers(0, 10**6),
)
def test_clip_is_the_loss_of_what_a_deployed_model_reports(
    problem: Problem, clip: float, dtype: str, seed: int
) -> None:
    clip = clip if dtype == "float64" else max(clip, 1e-7)
    result = certified_log_loss(*problem[:3], clip=clip, dtype=dtype)
    random = np.random.default_rng(seed)
    with mpmath.workdps(60):
        worst, inside = mpmath.mpf(0), mpmath.mpf(0)
        for c, lo, up in zip(*problem[:3], strict=True):
            ends = [loss(c, z) for z in as_deployed(lo if c else up, clip, dtype)]
            worst += max(ends)
            inside += max(loss(c, z) for z in as_deployed(random.uniform(lo, up), clip, dtype))
        assert mpmath.mpf(result.value) >= worst / problem.correct.size
        assert mpmath.mpf(result.value) >= inside / problem.correct.size
        expected = float(worst / problem.correct.size)
    assert result.value == pytest.approx(expected, abs=2.0**-41, rel=1e-15)
    assert (result.infinite, result.clip, result.dtype) == (0, clip, dtype)


@pytest.mark.parametrize(
    ("clip", "dtype", "right"),
    [(0.01, "float64", True), (1e-3, "float32", False), (1e-7, "float32", False)],
)
def test_a_clip_costs_even_what_is_certain(clip: float, dtype: str, right: bool) -> None:
    """A certain right prediction is reported as 1 - clip, and a certain wrong one costs -log of what is left of 1."""
    value = log_loss([right], [1.0], clip=clip, dtype=dtype)
    exact = max(float(loss(right, z)) for z in as_deployed(1.0, clip, dtype))
    assert exact <= value <= exact + 1e-12
    real = float(loss(right, 1 - clip))
    assert value == pytest.approx(real, abs={"float64": 1e-12, "float32": 0.2}[dtype])
    assert dtype == "float64" or abs(value - real) > 1e-6  # the float counts, not the real number


@pytest.mark.parametrize(
    ("clip", "dtype"),
    [(1e-17, "float64"), (1e-300, "float64"), (1e-9, "float32"), (2.0**-26, "float32")],
)
def test_clips_that_vanish_are_refused(clip: float, dtype: str) -> None:
    message = f"clip: expected a number that does not vanish in {dtype}, where 1 - clip is 1"
    made = Certificates.from_counts([[990, 10]], [0], 0.25)
    for call in (
        lambda: certified_log_loss([1], [0.5], [0.6], clip, dtype),
        lambda: log_loss([1], [0.5], clip, dtype),
        lambda: LogLossState(clip, dtype),
        lambda: made.bound("log_loss", 0.1, clip=clip, dtype=dtype),
        lambda: compare({"a": made, "b": made}, 0.1, "log_loss", clip=clip, dtype=dtype),
    ):
        with pytest.raises(ValueError, match=message):
            call()


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
        (
            ([1], [0.5], [0.6], 0.1, "float16"),
            ValueError,
            'dtype: expected "float64" or "float32"',
        ),
        (([1], [0.5], [0.6], 0.1, np.float32), ValueError, 'dtype: expected "float64"'),
    ],
)
def test_bad_input(arguments: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        certified_log_loss(*arguments)
