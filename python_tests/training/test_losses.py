# SPDX-License-Identifier: MIT
"""Certificates as losses: values against the exact metrics, gradients against finite differences of these."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

import certcal_ext as cc
from certcal_ext.bins import Bins
from certcal_ext.intervals.score_cdf import score_band
from certcal_ext.training import (
    CertificateTraining,
    Step,
    certified_bounds,
    certified_brier_terms,
    certified_ece_terms,
    score_bounds,
    shifted_bounds,
)
from certcal_ext.training.losses import TableMemory

Floats = NDArray[np.float64]


def tensor(values: object) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


def problem(size: int, seed: int) -> tuple[NDArray[np.bool_], Floats, Floats]:
    random = np.random.default_rng(seed)
    ends = np.sort(random.random((2, size)), axis=0)
    return random.random(size) < 0.6, ends[0], ends[1]


# --- bounds --------------------------------------------------------------------------------------


@given(st.floats(0.001, 0.999), st.floats(0, 3))
def test_shifted_bounds_are_the_formula(p: float, shift: float) -> None:
    lower, upper = shifted_bounds(tensor([p]), shift)
    assert float(lower) == pytest.approx(float(ndtr(ndtri(p) - shift)), abs=1e-12)
    assert float(upper) == pytest.approx(float(ndtr(ndtri(p) + shift)), abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_the_slope_of_the_shifted_probit_is_that_of_finite_differences(shift: float) -> None:
    points = np.array([0.001, 0.2, 0.5, 0.9, 0.999])
    leaf = tensor(points).requires_grad_()
    for end, sign in zip(shifted_bounds(leaf, shift), (-1, 1), strict=True):
        (slope,) = torch.autograd.grad(end.sum(), leaf, retain_graph=True)
        step = 1e-6
        difference = ndtr(ndtri(points + step) + sign * shift)
        difference = (difference - ndtr(ndtri(points - step) + sign * shift)) / (2 * step)
        np.testing.assert_allclose(slope.numpy(), difference, rtol=1e-5)


@pytest.mark.parametrize("p", [0.0, 1e-9, 1 - 1e-9, 1.0])
def test_the_slope_is_finite_at_the_ends(p: float) -> None:
    leaf = tensor([p]).requires_grad_()
    lower, upper = shifted_bounds(leaf, 3.0)
    (slope,) = torch.autograd.grad((lower + upper).sum(), leaf)
    assert bool(torch.isfinite(slope).all())
    assert 0 <= float(lower.detach()) <= float(upper.detach()) <= 1


@given(st.integers(1, 9), st.floats(0, 2), st.floats(0, 0.3), st.integers(0, 2**32 - 1))
def test_score_bounds_are_the_cdf_certificate(
    draws: int, shift: float, slack: float, seed: int
) -> None:
    """The sums of Kumar et al. over thresholds that are the scores themselves, written out."""
    scores = np.sort(np.random.default_rng(seed).random(draws))
    lower = upper = 0.0
    before = 0.0
    for s in scores:  # P(score >= t) is constant for t in (before, s]
        at_least = float(np.mean(scores >= s))
        lower += (s - before) * ndtr(ndtri(max(at_least - slack, 0.0)) - shift)
        before = s
    edges = [0.0, *scores, 1.0]
    for left, right in itertools.pairwise(edges):
        above = 1.0 if left == 0.0 else min(float(np.mean(scores > left)) + slack, 1.0)
        upper += (right - left) * ndtr(ndtri(above) + shift)
    found = score_bounds(tensor(scores[None]), shift, slack)
    assert float(found[0]) == pytest.approx(lower, abs=1e-12)
    assert float(found[1]) == pytest.approx(upper, abs=1e-12)


def test_score_bounds_approach_the_certified_ones() -> None:
    """With many draws the statistical margin is all that is left between the two."""
    n, bins, shift = 200_000, 1000, 0.8
    scores = np.random.default_rng(0).beta(4, 2, (1, n))
    counts = np.histogram(scores[0], bins, (0, 1))[0][None]
    band = score_band(counts, 1e-3, mean=scores.mean(1)).at(shift)
    lower, upper = (float(end) for end in score_bounds(tensor(scores), shift))
    assert band.lower[0] < lower < band.lower[0] + 0.02
    assert band.upper[0] - 0.02 < upper < band.upper[0]


@given(st.integers(1, 8), st.floats(0, 2), st.integers(0, 2**32 - 1))
def test_the_distribution_says_at_least_as_much_as_the_mean(
    draws: int, shift: float, seed: int
) -> None:
    log_scores = torch.randn(3, draws, 4, generator=torch.Generator().manual_seed(seed))
    log_scores = log_scores.log_softmax(2)
    classes = torch.tensor([0, 1, 2])
    ends = {
        name: certified_bounds(log_scores, classes, shift, interval=name)  # type: ignore[arg-type]
        for name in ("cdf", "mean")
    }
    assert bool((ends["cdf"][0] >= ends["mean"][0] - 1e-9).all())
    assert bool((ends["cdf"][1] <= ends["mean"][1] + 1e-9).all())
    assert bool((ends["cdf"][0] <= ends["cdf"][1] + 1e-15).all())


def test_without_a_radius_both_ends_are_the_mean() -> None:
    scores = tensor([[0.1, 0.7, 0.4], [0.0, 1.0, 1.0]])
    for end in score_bounds(scores, 0.0):
        torch.testing.assert_close(end, scores.mean(1))


# --- metrics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 31, 257])
def test_the_terms_have_the_exact_values(size: int) -> None:
    correct, lower, upper = problem(size, size)
    ends = tensor(lower), tensor(upper)
    right = torch.from_numpy(correct)
    brier = certified_brier_terms(right, *ends).mean()
    assert float(brier) == pytest.approx(cc.certified_brier(correct, lower, upper).value, abs=1e-12)
    for bins in (1, 5, 15):
        found = certified_ece_terms(right, *ends, bins=bins).mean()
        exact = cc.certified_ece(correct, lower, upper, bins).value
        assert float(found) == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("closed", ["left", "right"])
def test_gradients_are_finite_differences_of_the_exact_values(seed: int, closed: str) -> None:
    correct, lower, upper = problem(40, 100 + seed)
    leaves = tensor(lower).requires_grad_(), tensor(upper).requires_grad_()
    right = torch.from_numpy(correct)
    exact = {
        "brier": lambda low, high: cc.certified_brier(correct, low, high).value,
        "ece": lambda low, high: cc.certified_ece(correct, low, high, 10, closed=closed).value,
    }
    terms = {
        "brier": certified_brier_terms(right, *leaves),
        "ece": certified_ece_terms(right, *leaves, bins=10, closed=closed),
    }
    step = 1e-6
    for name, value in exact.items():
        slopes = torch.autograd.grad(terms[name].mean(), leaves)
        for which, slope in enumerate(slopes):
            difference = np.empty(len(correct))
            for row in range(len(correct)):
                moved = []
                for sign in (1, -1):
                    ends = [lower.copy(), upper.copy()]
                    ends[which][row] += sign * step
                    moved.append(value(*ends))
                difference[row] = (moved[0] - moved[1]) / (2 * step)
            # The exact values are rounded up to multiples of 2^-52 a sample: far below 1e-6 x 1e-4.
            np.testing.assert_allclose(slope.numpy(), difference, atol=1e-4)
    assert any(float(slope.abs().sum()) > 0 for slope in slopes)


def test_the_gradient_through_scores_and_certificate_is_that_of_finite_differences() -> None:
    """From the logits under noise to the certified metrics, computed by the package on the way back."""
    random = np.random.default_rng(3)
    size, draws, classes, shift = 12, 6, 4, 0.7
    logits = random.normal(0, 2, (size, draws, classes))
    top = logits.mean(1).argmax(1)
    correct = random.random(size) < 0.5

    def ends(values: NDArray[np.float64], interval: str) -> tuple[Floats, Floats]:
        scores = np.exp(values - values.max(2, keepdims=True))
        scores = (scores / scores.sum(2, keepdims=True))[np.arange(size), :, top]
        if interval == "mean":
            x = ndtri(np.clip(scores.mean(1), 1e-4, 1 - 1e-4))
            return ndtr(x - shift), ndtr(x + shift)
        heights = np.append(np.arange(draws, 0, -1) / draws, 0.0)
        low, high = (ndtr(ndtri(heights) + sign * shift) for sign in (-1, 1))
        ordered = np.sort(scores, axis=1)
        return ordered @ (low[:-1] - low[1:]), ordered @ (high[:-1] - high[1:])

    for interval in ("cdf", "mean"):
        for metric, exact in (
            ("brier", lambda low, high: cc.certified_brier(correct, low, high).value),
            ("ece", lambda low, high: cc.certified_ece(correct, low, high, 10).value),
        ):
            leaf = tensor(logits).requires_grad_()
            found = certified_bounds(
                leaf.log_softmax(2),
                torch.from_numpy(top),
                shift,
                interval=interval,  # type: ignore[arg-type]
            )
            right = torch.from_numpy(correct)
            terms = (
                certified_brier_terms(right, *found)
                if metric == "brier"
                else certified_ece_terms(right, *found, bins=10)
            )
            (slope,) = torch.autograd.grad(terms.mean(), leaf)
            for _ in range(25):
                direction = random.normal(size=logits.shape)
                step = 1e-6
                ahead, behind = (
                    exact(*ends(logits + sign * step * direction, interval)) for sign in (1, -1)
                )
                expected = (ahead - behind) / (2 * step)
                assert float((slope * tensor(direction)).sum()) == pytest.approx(
                    expected, rel=1e-3, abs=1e-6
                )


def test_points_have_the_gradient_of_the_plain_error() -> None:
    correct = torch.tensor([True, False, True])
    z = tensor([0.55, 0.85, 0.65]).requires_grad_()
    (slope,) = torch.autograd.grad(certified_ece_terms(correct, z, z, bins=1).sum(), z)
    # |sum (c - z)| = |2 - 2.05| falls where a confidence falls.
    assert slope.tolist() == [1.0, 1.0, 1.0]


def test_edges_and_vacuous_intervals_have_no_gradient_at_an_edge() -> None:
    low, high = tensor([0.0]).requires_grad_(), tensor([1.0]).requires_grad_()
    terms = certified_ece_terms(torch.tensor([False]), low, high, bins=4)
    assert float(terms.detach()) == 1.0
    slopes = torch.autograd.grad(terms.sum(), (low, high))
    assert [float(s) for s in slopes] == [0.0, 1.0]


def test_several_processes_share_one_table() -> None:
    """Solved once for all, each part has its share of the value and of the gradient."""
    correct, lower, upper = problem(60, 9)
    whole = [tensor(end).requires_grad_() for end in (lower, upper)]
    together = certified_ece_terms(torch.from_numpy(correct), *whole)
    slopes = torch.autograd.grad(together.sum(), whole)
    table = cc.EceTable()
    table.update(correct, lower, upper)
    solved = table.certify()
    for part in (slice(0, 25), slice(25, 60)):
        ends = [tensor(end[part]).requires_grad_() for end in (lower, upper)]
        terms = certified_ece_terms(torch.from_numpy(correct[part]), *ends, solved=solved)
        torch.testing.assert_close(terms.detach(), together.detach()[part])
        for slope, own in zip(slopes, torch.autograd.grad(terms.sum(), ends), strict=True):
            assert torch.equal(own, slope[part])


def test_a_memory_keeps_the_last_tables() -> None:
    memory = TableMemory(2)
    states = [np.full((1,), value, np.int64) for value in (1, 10, 100)]
    assert [int(memory.with_new(state)[0]) for state in states] == [1, 11, 110]
    other = TableMemory(2)
    other.restore(memory.state())
    assert int(other.with_new(states[0])[0]) == 101


@pytest.mark.parametrize("metric", ["brier", "ece"])
def test_certificate_training_lowers_the_certificate(metric: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images, labels = torch.rand(60, 1, 2, 2), torch.arange(60) % 3
    objective = CertificateTraining(radius=0.2, metric=metric, draws=16)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    values = []
    for _ in range(60):
        step = Step(model, model, images, labels, torch.arange(60), sigma=0.25)
        log_scores = step.log_scores(images, step.noise(16))
        loss = step.mean(objective.terms(step, log_scores))
        values.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert min(values[-5:]) < 0.9 * values[0]
    assert all(math.isfinite(value) for value in values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": -1.0}, "radius: expected a radius of at least 0"),
        ({"radius": 0.1, "metric": "ks"}, 'metric: expected "brier" or "ece"'),
        ({"radius": 0.1, "interval": "dkw"}, 'interval: expected "cdf" or "mean"'),
        ({"radius": 0.1, "weight": -1.0}, "weight: expected at least 0"),
        ({"radius": 0.1, "draws": 0}, "draws: expected a whole number from 1"),
        ({"radius": 0.1, "bins": 0}, "bins: expected a whole number from 1"),
        ({"radius": 0.1, "window": 0}, "window: expected a whole number at least 1"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CertificateTraining(**options)  # type: ignore[arg-type]


def test_bad_bins() -> None:
    with pytest.raises(ValueError, match="closed: expected"):
        Bins.of(4, closed="both")
    with pytest.raises(ValueError, match="0 <= lower <= upper"):
        certified_ece_terms(torch.tensor([True]), tensor([math.nan]), tensor([1.0]))
