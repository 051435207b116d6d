# SPDX-License-Identifier: MIT
"""A linear model: the smoothed confidence, its worst perturbation and so the whole worst case are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models import Linear2
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binom

import certcal_ext as cc

SIGMA, RADIUS, PIXELS = 0.5, 0.2, 12


def problem(samples: int, seed: int) -> tuple[Linear2, torch.Tensor, NDArray[np.int64]]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(PIXELS, generator=generator)
    images = torch.rand(samples, 1, 3, 4, generator=generator)
    margins = images.flatten(1) @ weight
    model = Linear2(weight, -float(margins.mean()))
    flips = torch.rand(samples, generator=generator) < 0.15
    labels = ((margins + model.bias.detach() > 0) ^ flips).long()
    return model, images, labels.numpy()


def top_confidence(
    model: Linear2, images: torch.Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    one = model.exact_confidence(images, SIGMA)
    predicted = (one > 0.5).astype(np.int64)
    return predicted, np.where(predicted == 1, one, 1 - one)


def attacked(
    model: Linear2, images: torch.Tensor, predicted: NDArray[np.int64], step: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Confidence in `predicted` after a step of that l2 length along the weight, toward the predicted class where > 0."""
    weight = model.weight.detach().double()
    direction = (weight / weight.norm()).view(1, 1, 3, 4)
    signed = torch.from_numpy(np.where(predicted == 1, step, -step)).view(-1, 1, 1, 1)
    moved = model.exact_confidence(images.double() + signed * direction, SIGMA)
    return np.where(predicted == 1, moved, 1 - moved)


def plain_ece(correct: NDArray[np.bool_], confidence: NDArray[np.float64], bins: int) -> float:
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return float(
        sum(abs((correct - confidence)[index == m].sum()) for m in range(bins)) / len(correct)
    )


def test_with_exact_probabilities_the_bounds_are_attained_by_the_known_worst_perturbation() -> None:
    model, images, labels = problem(samples=600, seed=1)
    predicted, confidence = top_confidence(model, images)
    certified = ndtri(confidence) > RADIUS / SIGMA
    images, labels, predicted, confidence = (
        images[torch.from_numpy(certified)], labels[certified], predicted[certified], confidence[certified],
    )  # fmt: skip
    assert len(labels) > 200
    correct = predicted == labels
    lower = ndtr(ndtri(confidence) - RADIUS / SIGMA)
    upper = ndtr(ndtri(confidence) + RADIUS / SIGMA)

    # The interval is tight: full steps against and along the gradient reach both of its ends.
    full = np.full(len(labels), RADIUS)
    np.testing.assert_allclose(attacked(model, images, predicted, -full), lower, atol=1e-6)
    np.testing.assert_allclose(attacked(model, images, predicted, full), upper, atol=1e-6)

    worst = attacked(model, images, predicted, np.where(correct, -full, full))
    assert cc.certified_brier(correct, lower, upper).value == pytest.approx(
        float(np.mean((correct - worst) ** 2)), abs=1e-6
    )

    result = cc.certified_ece(correct, lower, upper, bins=15)
    steps = SIGMA * (ndtri(result.worst_confidence) - ndtri(confidence))
    assert np.abs(steps).max() <= RADIUS + 1e-9
    reached = attacked(model, images, predicted, steps)
    np.testing.assert_allclose(reached, result.worst_confidence, atol=1e-6)
    # The arithmetic of the model may push a confidence that sits on an edge to its other side: use the target's bin.
    assert plain_ece(correct, result.worst_confidence, 15) == pytest.approx(result.value, abs=1e-6)
    assert np.abs(reached - result.worst_confidence).max() < 1e-6


def test_with_draws_the_interval_covers_at_the_stated_rate() -> None:
    """1,500 intervals at alpha = 0.05; more failures than the 1 - 1e-6 quantile would be a false alarm of that rate."""
    alpha, samples = 0.05, 1500
    model, images, labels = problem(samples, seed=2)
    smooth = cc.SmoothedClassifier(model, num_classes=2, sigma=SIGMA, seed=11)
    certificates = smooth.certify(images, torch.from_numpy(labels), n0=20, n=400, alpha=alpha)
    predicted = certificates.table["predicted"].to_numpy()
    one = model.exact_confidence(images, SIGMA)
    truth = np.where(predicted == 1, one, 1 - one)
    lower, upper = (certificates.table[name].to_numpy() for name in ("p_lower", "p_upper"))
    failures = int(((truth < lower) | (truth > upper)).sum())
    assert failures <= binom.ppf(1 - 1e-6, samples, alpha)
    assert failures > 0, (
        "an interval that never fails at alpha = 0.05 is not the Clopper-Pearson interval"
    )

    # Under attack, at every radius, for every sample whose interval held.
    held = (truth >= lower) & (truth <= upper)
    for radius in (0.0, 0.1, RADIUS, 0.4):
        inside = certificates.at(radius)
        rows = inside.index
        full = np.full(len(rows), radius)
        subset = images[torch.from_numpy(rows.copy())]
        low = attacked(model, subset, predicted[rows], -full)
        high = attacked(model, subset, predicted[rows], full)
        good = held[rows]
        assert (low[good] >= inside.lower[good] - 1e-9).all()
        assert (high[good] <= inside.upper[good] + 1e-9).all()
        # The prediction certificate: the attacked confidence in the predicted class stays above one half.
        assert (low[good] > 0.5).all()


def test_the_bound_shrinks_to_the_exact_value_with_more_draws() -> None:
    model, images, labels = problem(samples=300, seed=3)
    predicted, confidence = top_confidence(model, images)
    exact_gap = []
    for n in (200, 20_000):
        certificates = cc.SmoothedClassifier(model, 2, SIGMA).certify(
            images, torch.from_numpy(labels), n0=100, n=n
        )
        inside = certificates.at(RADIUS)
        rows = inside.index
        lower = ndtr(ndtri(confidence[rows]) - RADIUS / SIGMA)
        upper = ndtr(ndtri(confidence[rows]) + RADIUS / SIGMA)
        correct = predicted[rows] == labels[rows]
        exact = cc.certified_brier(correct, lower, upper).value
        exact_gap.append(float(certificates.brier([RADIUS])[0]) - exact)
    assert 0 <= exact_gap[1] < exact_gap[0] / 3
    assert exact_gap[1] < 0.02 * math.sqrt(2)
