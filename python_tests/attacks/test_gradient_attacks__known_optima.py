# SPDX-License-Identifier: MIT
"""Linear models, where the worst case is known in closed form: the attacks have to reach it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from models import Linear2
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri, roots_hermite

import certcal_ext as cc
from certcal_ext.attacks import AceAttack, BrierAttack, CceGuidedAttack, SmoothedVictim
from certcal_ext.attacks.geometry import Norm
from certcal_ext.attacks.victims import Confidence

PIXELS, SAMPLES = 12, 400
Floats = NDArray[np.float64]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small gain nothing from a second thread, and waiting for it takes longer than they do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def problem(scale: float = 1.0) -> tuple[Linear2, torch.Tensor, NDArray[np.int64]]:
    """A linear model and images that no perturbation below 0.2 brings out of [0, 1]."""
    generator = torch.Generator().manual_seed(5)
    weight = scale * torch.randn(PIXELS, generator=generator)
    images = 0.2 + 0.6 * torch.rand(SAMPLES, 1, 3, 4, generator=generator)
    margins = images.flatten(1) @ weight
    model = Linear2(weight, -float(margins.mean()))
    flips = torch.rand(SAMPLES, generator=generator) < 0.2
    labels = ((margins + model.bias.detach() > 0) ^ flips).long()
    return model, images, labels.numpy()


def margins_of(model: Linear2, images: torch.Tensor) -> Floats:
    weight = model.weight.detach().double().numpy()
    result: Floats = images.double().flatten(1).numpy() @ weight + float(model.bias.detach())
    return result


def dual(model: Linear2, norm: Norm) -> float:
    """How much the margin changes per unit of the norm."""
    weight = model.weight.detach().double()
    return float(weight.norm() if norm == "l2" else weight.abs().sum())


@pytest.mark.parametrize(("norm", "radius"), [("l2", 0.15), ("linf", 0.04)])
@pytest.mark.parametrize("steps", [12, 20])
def test_cce_guided_reaches_the_exact_worst_case(norm: Norm, radius: float, steps: int) -> None:
    model, images, labels = problem()
    margin = np.abs(margins_of(model, images))
    reach = radius * dual(model, norm)
    # Label-preserving: the confidence of two classes stays at or above one half.
    lower, upper = expit(np.maximum(margin - reach, 0)), expit(margin + reach)
    result = CceGuidedAttack(radius=radius, norm=norm, steps=steps).run(model, images, labels)
    bound = cc.certified_ece(result.correct, lower, upper)
    assert (result.attacked_confidence >= lower - 1e-6).all()
    assert (result.attacked_confidence <= upper + 1e-6).all()
    # Intervals of the closed form, widened by what float32 logits may differ from it.
    wide = cc.certified_ece(
        result.correct, np.maximum(lower - 1e-6, 0), np.minimum(upper + 1e-6, 1)
    )
    assert 0.99 * bound.value <= result.after().ece <= wide.value
    assert result.before().ece < 0.7 * bound.value


@pytest.mark.parametrize(("norm", "radius"), [("l2", 0.15), ("linf", 0.04)])
def test_brier_and_ace_reach_the_ends(norm: Norm, radius: float) -> None:
    model, images, labels = problem()
    margin = np.abs(margins_of(model, images))
    reach = radius * dual(model, norm)
    lower, upper = expit(np.maximum(margin - reach, 0)), expit(margin + reach)
    options = {"radius": radius, "norm": norm, "steps": 20}
    brier = BrierAttack(**options).run(model, images, labels)
    assert brier.after().brier >= 0.99 * cc.certified_brier(brier.correct, lower, upper).value
    up = AceAttack(eta=-1, omega="predicted", **options).run(model, images, labels)
    np.testing.assert_allclose(up.attacked_confidence, upper, atol=1e-5)
    down = AceAttack(eta=1, omega="predicted", **options).run(model, images, labels)
    free = (
        margin > reach
    )  # the others end at the border of their class, which halved steps only approach
    np.testing.assert_allclose(down.attacked_confidence[free], lower[free], atol=1e-5)
    # Two classes: away from the truth is down where right and up where wrong, toward it the other way round.
    away = AceAttack(eta=1, omega="label", **options).run(model, images, labels)
    toward = AceAttack(eta=-1, omega="label", **options).run(model, images, labels)
    right = away.correct
    assert (away.attacked_confidence <= away.clean_confidence)[right].all()
    assert (away.attacked_confidence >= away.clean_confidence)[~right].all()
    assert (toward.attacked_confidence >= toward.clean_confidence)[right].all()
    assert (toward.attacked_confidence <= toward.clean_confidence)[~right].all()


def test_known_intervals_guide_the_first_steps() -> None:
    """With few gradients the certified intervals say where to spend them."""
    model, images, labels = problem()
    radius = 0.15
    margin = np.abs(margins_of(model, images))
    reach = radius * dual(model, "l2")
    lower, upper = expit(np.maximum(margin - reach, 0)), expit(margin + reach)
    options = {"radius": radius, "steps": 8, "step_size": 0.2, "rounds": 1}
    blind = CceGuidedAttack(**options).run(model, images, labels)
    guided = CceGuidedAttack(**options, intervals=(lower, upper)).run(model, images, labels)
    assert guided.gradients.max() <= 8
    assert guided.after().ece > blind.after().ece


def smoothed_score(margin: Floats, spread: float) -> Floats:
    """E sigmoid(margin + spread * normal), by 80 nodes."""
    nodes, weights = roots_hermite(80)
    values = expit(margin[:, None] + spread * np.sqrt(2) * nodes)
    result: Floats = values @ weights / np.sqrt(np.pi)
    return result


def test_smoothed_scores_reach_the_exact_worst_case_under_fresh_noise() -> None:
    """The confidence E sigmoid is known by quadrature; it is what the attacked images are judged by.

    The attack knows it from 512 random draws, and the worst confidences lie next to borders of bins: that costs up to
    a tenth. Where the noises leave no doubt, the next test asks for all of it.
    """
    model, images, labels = problem(scale=2.0)
    sigma, radius = 0.5, 0.15
    spread = sigma * float(model.weight.detach().norm())
    margin = margins_of(model, images)
    side = np.sign(margin)
    size, reach = np.abs(margin), radius * dual(model, "l2")
    safe = size > reach + 0.1  # m noises do not see the border of the class where it is
    images, labels = images[torch.from_numpy(safe)], labels[safe]
    size, side = size[safe], side[safe]
    lower, upper = smoothed_score(size - reach, spread), smoothed_score(size + reach, spread)
    victim = SmoothedVictim(model, sigma=sigma, draws=512, seed=3)
    attack = CceGuidedAttack(radius=radius, steps=6, blur=0.01)
    predicted = (side > 0).astype(np.int64)
    result = attack.run(victim, images, labels, predicted=predicted, batch_size=2**16)
    assert result.images is not None
    truth = smoothed_score(side * margins_of(model, result.images), spread)
    assert (truth >= lower - 1e-6).all()
    assert (truth <= upper + 1e-6).all()
    bound = cc.certified_ece(result.correct, lower, upper).value
    assert 0.9 * bound <= cc.ece(result.correct, truth) <= bound + 1e-6
    brier = BrierAttack(radius=radius, steps=6).run(
        victim, images, labels, predicted=predicted, batch_size=2**16
    )
    assert brier.images is not None
    reached = smoothed_score(side * margins_of(model, brier.images), spread)
    worst = cc.certified_brier(result.correct, lower, upper).value
    assert 0.99 * worst <= cc.brier(brier.correct, reached) <= worst + 1e-6


class KnownNoises(SmoothedVictim):
    """Noises whose mean is known: m quantiles of the normal distribution along the weight.

    A linear model sees no other direction, so its confidence is that of infinitely many draws up to O(1 / m), and what
    separates an attack from the bound is the attack.
    """

    def inputs(self, images: torch.Tensor, ids: torch.Tensor, draws: range) -> torch.Tensor:
        weight = self.model.weight.detach().double()
        quantiles = ndtri((np.arange(draws.start, draws.stop) + 0.5) / self.draws)
        noises = self.sigma * torch.from_numpy(quantiles)[:, None] * (weight / weight.norm())
        return images[:, None] + noises.to(images.dtype).reshape(-1, *images.shape[1:])


@pytest.mark.parametrize("kind", ["scores", "votes"])
def test_smoothed_confidence_reaches_the_exact_bound(kind: Confidence) -> None:
    """Both bounds are tight on linear models: the score is a function of the margin, the vote share Phi of it."""
    model, images, labels = problem(scale=2.0)
    sigma, radius, draws = 0.5, 0.15, 1024
    spread = sigma * float(model.weight.detach().norm())

    def confidence(margin: Floats) -> Floats:
        if kind == "scores":
            return smoothed_score(margin, spread)
        share: Floats = ndtr(margin / spread)
        return share

    reach = radius * dual(model, "l2")
    safe = np.abs(margins_of(model, images)) > 1.02 * reach  # certified at the radius
    images, labels = images[torch.from_numpy(safe)], labels[safe]
    margin = margins_of(model, images)
    side, size = np.sign(margin), np.abs(margin)
    lower, upper = confidence(size - reach), confidence(size + reach)
    if kind == "votes":
        # The certificate of votes, without the slack of estimation, is what the attacker can reach.
        clean = ndtri(confidence(size))
        np.testing.assert_allclose(ndtr(clean - radius / sigma), lower, atol=1e-7)
        np.testing.assert_allclose(ndtr(clean + radius / sigma), upper, atol=1e-7)
    victim = KnownNoises(model, sigma=sigma, draws=draws, confidence=kind)
    attack = CceGuidedAttack(radius=radius, steps=6, blur=0.3 / draws, draws=1)
    predicted = (side > 0).astype(np.int64)
    result = attack.run(victim, images, labels, predicted=predicted, batch_size=2**16)
    assert result.images is not None
    assert len(result) > 150
    truth = confidence(side * margins_of(model, result.images))
    bound = cc.certified_ece(result.correct, lower, upper).value
    # Float32 images and logits against float64 closed forms.
    assert (truth >= lower - 1e-6).all()
    assert (truth <= upper + 1e-6).all()
    assert 0.99 * bound <= cc.ece(result.correct, truth) <= bound + 1e-6
    assert cc.ece(result.correct, confidence(size)) < 0.7 * bound
