# SPDX-License-Identifier: MIT
"""The objectives: formulas by hand, what the attacks inside them reach, and what the inner solvers cost."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import data, network, objective

import certcal_ext as cc
from certcal_ext.attacks.geometry import Ball
from certcal_ext.attacks.victims import SmoothedVictim
from certcal_ext.training import (
    AcceAct,
    BrierAct,
    CceAct,
    CertificateTraining,
    Gaussian,
    SmoothAdv,
    Step,
    certified_bounds,
)
from certcal_ext.training.adversarial import climb
from certcal_ext.training.bounds import margin_terms
from certcal_ext.training.objective import log_odds, of_class, top_class

SIGMA = 0.25


def step(model: torch.nn.Module, samples: int = 40, **changes: Any) -> Step:
    images, labels = data(samples)
    labels[::7] = (labels[::7] + 1) % 4  # so that the model is wrong on some
    made = {"sigma": SIGMA, "seed": 3, "first_draw": 100} | changes
    return Step(model, model, images, labels, torch.arange(samples), **made)


def trained() -> torch.nn.Module:
    """A network that is right on most images, and unsure."""
    model = network()
    images, labels = data(200, seed=9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        noisy = images + SIGMA * torch.randn(images.shape, generator=generator)
        loss = torch.nn.functional.cross_entropy(model(noisy), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        for weight in list(model.parameters())[-2:]:
            weight *= 0.25
    return model


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return trained()


# --- the loss by hand ----------------------------------------------------------------------------


def test_gaussian_is_the_cross_entropy_at_add_noise(model: torch.nn.Module) -> None:
    now = step(model)
    noisy = cc.add_noise(now.images, SIGMA, 3, now.ids, range(100, 103)).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(model(noisy), now.labels.repeat_interleave(3))
    found = Gaussian(draws=3).loss(now)
    torch.testing.assert_close(found, expected)
    right = (model(noisy).argmax(1) == now.labels.repeat_interleave(3)).double().mean()
    assert now.facts["right"] / 40 == pytest.approx(float(right))


def test_smoothadv_is_projected_ascent_written_out(model: torch.nn.Module) -> None:
    now = step(model)
    draws, steps, radius = 4, 3, 0.3
    noise = now.noise(draws)
    moved = now.images.clone()
    for _ in range(steps):
        leaf = moved.clone().requires_grad_()
        inputs = (leaf[:, None] + noise).flatten(0, 1)
        scores = model(inputs).softmax(1).reshape(40, draws, -1).mean(1)
        loss = -scores.gather(1, now.labels[:, None]).log().sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        unit = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        delta = moved + 2 * radius / steps * unit - now.images
        length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        moved = (now.images + delta * (radius / length).clamp(max=1)).clamp(0, 1)
    inputs = (moved[:, None] + noise).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(model(inputs), now.labels.repeat_interleave(draws))
    found = SmoothAdv(radius=radius, steps=steps, draws=draws).loss(now)
    # The ball of the package is smaller by what rounding may add.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_certificate_training_is_its_formula(model: torch.nn.Module) -> None:
    radius, weight = 0.2, 0.7
    for metric in ("brier", "ece"):
        now = step(model)
        log_scores = now.log_scores(now.images, now.noise(8))
        classes = top_class(log_scores)
        lower, upper = certified_bounds(log_scores, classes, radius / SIGMA)
        correct = (classes == now.labels).numpy()
        ends = lower.detach().numpy(), upper.detach().numpy()
        exact = (
            cc.certified_brier(correct, *ends).value
            if metric == "brier"
            else cc.certified_ece(correct, *ends).value
        )
        entropy = float(-of_class(log_scores, now.labels).mean().detach())
        found = CertificateTraining(radius=radius, weight=weight, metric=metric, draws=8).loss(now)  # type: ignore[arg-type]
        assert float(found.detach()) == pytest.approx(entropy + weight * exact, rel=1e-6)
        assert now.facts[f"certified_{metric}"] / 40 == pytest.approx(exact, abs=1e-8)


def test_the_margin_counts_right_samples_only() -> None:
    logits = torch.tensor([[[3.0, 0.0]], [[0.0, 3.0]], [[0.1, 0.0]]])
    terms = margin_terms(logits.log_softmax(2), torch.tensor([0, 0, 0]), gap=1.0)
    assert float(terms[0]) == 0.0  # right by more than the gap
    assert float(terms[1]) == 0.0  # wrong
    assert 0 < float(terms[2]) < 1


@pytest.mark.parametrize("method", ["gaussian", "smoothadv", "brier-act"])
def test_the_parts_of_two_processes_add_up(method: str, model: torch.nn.Module) -> None:
    """Where samples do not interact; the tables of the others are summed in test_training."""
    whole = objective(method).loss(step(model, size=40))
    parts = []
    for rows in (slice(0, 15), slice(15, 40)):
        now = step(model)
        part = Step(
            model, model, now.images[rows], now.labels[rows], now.ids[rows], SIGMA, 3, 100, size=40
        )
        parts.append(objective(method).loss(part))
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-5, atol=1e-6)


# --- attacks inside ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BrierAct, CceAct, AcceAct])
def test_adversaries_stay_in_the_ball_and_leave_the_model_alone(
    kind: Any, model: torch.nn.Module
) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    now = step(model)
    moved, _ = kind(radius=0.25, draws=4, steps=3).attack(now, now.noise(4))
    delta = (moved.double() - now.images.double()).flatten(1).norm(dim=1)
    assert float(delta.max()) <= 0.25
    assert float(delta.max()) > 0.2
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_brier_act_moves_confidences_to_their_worse_end(model: torch.nn.Module) -> None:
    now = step(model, samples=200)
    noise = now.noise(8)
    moved, goal = BrierAct(radius=0.2, draws=8, steps=4).attack(now, noise)
    with torch.no_grad():
        before = log_odds(now.log_scores(now.images, noise), goal.classes)
        after = log_odds(now.log_scores(moved, noise), goal.classes)
    right = goal.classes == now.labels
    assert int((~right).sum()) > 0
    assert float((after < before)[right].double().mean()) > 0.99
    assert float((after > before)[~right].double().mean()) > 0.9


def test_the_attack_keeps_most_predictions(model: torch.nn.Module) -> None:
    now = step(model, samples=200)
    noise = now.noise(8)
    kept = {}
    for kind in (BrierAct, SmoothAdv):
        options = kind(radius=0.6, draws=8, steps=8)
        if isinstance(options, BrierAct):
            moved, _ = options.attack(now, noise)
        else:
            moved = climb(
                now,
                noise,
                Ball("l2", 0.6),
                8,
                lambda s: -of_class(s, now.labels).logsumexp(1),
            )
        with torch.no_grad():
            top = [now.log_scores(x, noise).exp().mean(1).argmax(1) for x in (now.images, moved)]
        kept[kind.name] = float((top[0] == top[1]).double().mean())
    # Only the last step of each sample goes unseen.
    assert kept["brier-act"] > kept["smoothadv"]
    assert kept["brier-act"] > 0.8


def test_cce_act_aims_at_the_exact_worst_case(model: torch.nn.Module) -> None:
    now = step(model, samples=120)
    noise = now.noise(8)
    act = CceAct(radius=0.15, draws=8, steps=8)
    moved, goal = act.attack(now, noise)
    with torch.no_grad():
        log_scores = now.log_scores(now.images, noise)
        lower, upper = (
            end.numpy() for end in certified_bounds(log_scores, goal.classes, 0.15 / SIGMA)
        )
        correct = (goal.classes == now.labels).numpy()
        solved = cc.certified_ece(correct, lower, upper)
        assert goal.target is not None
        np.testing.assert_array_equal(goal.target.numpy(), solved.worst_confidence)
        confidence = [
            log_odds(now.log_scores(x, noise), goal.classes).sigmoid().numpy()
            for x in (now.images, moved)
        ]
    near = [np.abs(z - solved.worst_confidence) for z in confidence]
    assert near[1].mean() < 0.75 * near[0].mean()
    assert cc.ece(correct, confidence[1]) > 1.3 * cc.ece(correct, confidence[0])
    assert now.seconds["inner"] > 0


def test_acce_act_aims_no_higher_than_the_exact_worst_case(model: torch.nn.Module) -> None:
    now = step(model, samples=60)
    noise = now.noise(4)
    goals = [
        kind.goal(now, now.log_scores(now.images, noise).detach())
        for kind in (
            CceAct(radius=0.15, draws=4),
            AcceAct(radius=0.15, draws=4, admm_steps=300),
        )
    ]
    correct = (goals[0].classes == now.labels).numpy()
    values = [cc.ece(correct, goal.target.numpy()) for goal in goals]  # type: ignore[union-attr]
    assert values[1] <= values[0] + 1e-9
    assert values[1] > 0.5 * values[0]


def test_the_exact_solver_costs_less_than_admm_in_the_papers_setting(
    model: torch.nn.Module,
) -> None:
    """3,000 steps of ADMM on a batch of 128 against the recursion: some thousand times, so 20 is far from the edge."""
    now = step(model, samples=128)
    log_scores = now.log_scores(now.images, now.noise(4)).detach()
    seconds = {}
    for kind in (CceAct(radius=0.2, draws=4), AcceAct(radius=0.2, draws=4, admm_steps=3000)):
        kind.goal(now, log_scores)
        now.seconds.clear()
        started = time.perf_counter()
        kind.goal(now, log_scores)
        assert now.seconds["inner"] < time.perf_counter() - started
        seconds[kind.name] = now.seconds["inner"]
    assert seconds["acce-act"] > 20 * seconds["cce-act"]


def test_a_radius_of_zero_leaves_images_alone(model: torch.nn.Module) -> None:
    now = step(model, radius_share=0.0)
    for method in ("smoothadv", "brier-act", "cce-act", "acce-act"):
        made = objective(method)
        noise = now.noise(made.draws)
        moved = climb(now, noise, made.ball(now), 2, lambda s: s.sum((1, 2)))  # type: ignore[attr-defined]
        assert torch.equal(moved, now.images)
        assert bool(torch.isfinite(made.loss(now)))


def test_warm_up_shortens_the_attack(model: torch.nn.Module) -> None:
    losses = [
        float(SmoothAdv(radius=0.4, draws=4).loss(step(model, radius_share=share)).detach())
        for share in (0.0, 0.5, 1.0)
    ]
    assert losses[0] < losses[1] < losses[2]


# --- pieces --------------------------------------------------------------------------------------


def test_the_class_on_top_has_most_votes_then_the_larger_score() -> None:
    scores = torch.tensor(
        [
            [[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.0, 0.1, 0.9]],
            [[0.6, 0.3, 0.1], [0.1, 0.9, 0.0], [0.1, 0.2, 0.7]],
        ]
    )
    assert top_class(scores.log()).tolist() == [0, 1]


def test_log_odds_agree_with_those_of_attacks(model: torch.nn.Module) -> None:
    now = step(model)
    model.eval()
    victim = SmoothedVictim(model, sigma=SIGMA, draws=5, seed=3, first_draw=100)
    outputs = victim.outputs(now.images, now.ids)
    log_scores = now.log_scores(now.images, now.noise(5))
    classes = torch.zeros(40, dtype=torch.int64)
    torch.testing.assert_close(
        log_odds(log_scores, classes), outputs.log_odds(classes), rtol=1e-4, atol=1e-5
    )


def test_noise_is_replayed_and_new_in_each_epoch(model: torch.nn.Module) -> None:
    first = step(model).noise(3)
    assert torch.equal(first, step(model).noise(3))
    assert torch.equal(first[:, 1:], step(model, first_draw=101).noise(2))
    assert not torch.equal(first, step(model, first_draw=103).noise(3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gaussian(draws=0), "draws: expected a whole number from 1"),
        (lambda: SmoothAdv(radius=-0.1), "radius: expected a radius of at least 0"),
        (lambda: SmoothAdv(radius=0.1, steps=0), "steps: expected a whole number at least 1"),
        (lambda: BrierAct(radius=0.1, weight=-1.0), "weight: expected at least 0"),
        (lambda: BrierAct(radius=0.1, cross_entropy=-1.0), "cross_entropy: expected at least 0"),
        (lambda: CceAct(radius=0.1, window=0), "window: expected a whole number at least 1"),
        (lambda: CceAct(radius=0.1, bins=0), "bins: expected a whole number from 1"),
        (lambda: CceAct(radius=0.1, interval="x"), 'interval: expected "cdf" or "mean"'),  # type: ignore[arg-type]
        (lambda: AcceAct(radius=0.1, admm_steps=0), "admm_steps: expected a whole number at least"),
    ],
)
def test_bad_options(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
