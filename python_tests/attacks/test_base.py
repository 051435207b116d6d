# SPDX-License-Identifier: MIT
"""What every attack owes: no prediction changes, the ball, replay, determinism, and clear errors."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import mlp
from numpy.typing import NDArray

import certcal_ext as cc
from certcal_ext.attacks import (
    AceAttack,
    Attack,
    AttackResult,
    BrierAttack,
    CceGuidedAttack,
    DeceAttack,
    OneStepAceAttack,
    PlainVictim,
    SmoothedVictim,
    Victim,
)
from certcal_ext.attacks.geometry import Ball, Norm
from certcal_ext.attacks.objectives import soft_calibration_error
from certcal_ext.attacks.victims import FIRST_DRAW

CLASSES = 4


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and waiting for it takes longer than they do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def data(
    samples: int = 40, seed: int = 0
) -> tuple[torch.nn.Module, torch.Tensor, NDArray[np.int64]]:
    """A random network; labels are its predictions, but one in five."""
    model = mlp(12, CLASSES, seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(samples, 1, 3, 4, generator=generator)
    with torch.no_grad():
        labels = model.eval()(images).argmax(1).numpy().copy()
    model.train()
    labels[::5] = (labels[::5] + 1) % CLASSES
    return model, images, labels


def attacks(radius: float, norm: Norm = "l2", steps: int = 6, **options: Any) -> list[Attack]:
    common = {"radius": radius, "norm": norm}
    found: list[Attack] = [
        AceAttack(eta=eta, omega=omega, steps=steps, **common, **options)
        for eta in (1, -1)
        for omega in ("label", "predicted")
    ]
    found += [kind(steps=steps, **common, **options) for kind in (BrierAttack, DeceAttack)]
    found.append(CceGuidedAttack(steps=steps, draws=10, **common, **options))
    return [*found, OneStepAceAttack(**common)]


def victims(model: torch.nn.Module) -> list[Victim]:
    return [
        PlainVictim(model),
        SmoothedVictim(model, sigma=0.1, draws=5),
        SmoothedVictim(model, sigma=0.1, draws=7, confidence="votes"),
    ]


@pytest.mark.parametrize(
    ("norm", "radius"), [("l2", 0.4), ("linf", 0.1), ("l2", 0.0), ("linf", 5.0)]
)
def test_no_attack_changes_a_prediction_or_leaves_the_ball(norm: Norm, radius: float) -> None:
    model, images, labels = data()
    model.eval()
    for victim in victims(model):
        ids = torch.arange(len(images))
        with torch.no_grad():
            clean = victim.outputs(images, ids)
        for attack in attacks(radius, norm):
            result = attack.run(victim, images, labels)
            assert result.images is not None
            with torch.no_grad():
                after = victim.outputs(result.images, ids)
            assert torch.equal(after.predicted, clean.predicted), attack.name
            assert result.kept.all()
            assert float(result.images.min()) >= 0
            assert float(result.images.max()) <= 1
            exact = (result.images.double() - images.double()).flatten(1)
            size = exact.norm(dim=1) if norm == "l2" else exact.abs().amax(1)
            assert float(size.max()) <= radius
            np.testing.assert_array_equal(result.l2, exact.norm(dim=1).numpy())
            np.testing.assert_array_equal(result.correct, result.label == result.predicted)
            again = victim.confidence(after, clean.predicted).numpy()
            np.testing.assert_allclose(again, result.attacked_confidence, atol=1e-6)
            if radius == 0:
                np.testing.assert_array_equal(result.clean_confidence, result.attacked_confidence)


def test_each_attack_raises_what_it_is_for() -> None:
    model, images, labels = data()
    radius = 0.5
    for victim in victims(model)[:2]:
        brier = BrierAttack(radius=radius).run(victim, images, labels)
        others = [attack.run(victim, images, labels) for attack in attacks(radius, steps=15)]
        best = max(other.after().brier for other in others)
        assert brier.after().brier >= best - 1e-3
        guided = CceGuidedAttack(radius=radius, blur=1e-6, draws=5).run(victim, images, labels)
        for other in others:
            assert guided.after().ece >= other.after().ece - 1e-9, other.attack
        dece = DeceAttack(radius=radius).run(victim, images, labels)
        assert dece.after().ece > dece.before().ece


def test_restarts_never_hurt_and_are_replayed() -> None:
    model, images, labels = data()
    one = BrierAttack(radius=0.3, steps=4, seed=3).run(model, images, labels)
    three = BrierAttack(radius=0.3, steps=4, restarts=3, seed=3).run(model, images, labels)
    again = BrierAttack(radius=0.3, steps=4, restarts=3, seed=3).run(model, images, labels)
    error = [(r.correct - r.attacked_confidence) ** 2 for r in (one, three)]
    assert (error[1] >= error[0] - 1e-6).all()
    assert (error[1] > error[0] + 1e-6).any()
    assert three.gradients.max() == 12
    np.testing.assert_array_equal(three.attacked_confidence, again.attacked_confidence)
    other = BrierAttack(radius=0.3, steps=4, restarts=3, seed=4).run(model, images, labels)
    assert (three.attacked_confidence != other.attacked_confidence).any()


def test_batches_and_company_do_not_matter() -> None:
    """The whole set, a batch at a time, and the middle of it on its own give the same images."""
    model, images, labels = data(33)
    victim = SmoothedVictim(model, sigma=0.2, draws=6, seed=5)
    attack = BrierAttack(radius=0.3, steps=5, restarts=2)
    ids = np.arange(100, 133)
    whole = attack.run(victim, images, labels, sample_ids=ids)
    cut = attack.run(
        victim, images, labels, sample_ids=ids, batch_size=4
    )  # fewer than draws: in parts
    part = attack.run(victim, images[10:20], labels[10:20], sample_ids=ids[10:20])
    assert whole.images is not None
    assert cut.images is not None
    assert part.images is not None
    torch.testing.assert_close(cut.images, whole.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(part.images, whole.images[10:20], atol=1e-5, rtol=0)


def test_noises_are_those_of_add_noise() -> None:
    model, images, _ = data(3)
    seen: list[torch.Tensor] = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    victim = SmoothedVictim(model, sigma=0.3, draws=4, seed=9)
    ids = torch.tensor([7, 1, 300])
    leaf = images.clone().requires_grad_()
    with torch.enable_grad():
        victim.outputs(leaf, ids)
    expected = cc.add_noise(images, 0.3, 9, ids, range(FIRST_DRAW, FIRST_DRAW + 4))
    assert torch.equal(seen[0], expected.flatten(0, 1))
    fresh = victim.with_draws(2)
    fresh.outputs(images, ids)
    expected = cc.add_noise(images, 0.3, 9, ids, range(FIRST_DRAW + 4, FIRST_DRAW + 6))
    assert torch.equal(seen[1], expected.flatten(0, 1))


def test_the_guided_attack_estimates_by_noises_that_nobody_else_takes() -> None:
    model, images, labels = data(2)
    seen: list[torch.Tensor] = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    victim = SmoothedVictim(model, sigma=0.3, draws=4, seed=9)
    CceGuidedAttack(radius=0.1, steps=2, draws=6).run(victim, images, labels)
    shown = [part for part in seen if len(part) == 12]
    expected = cc.add_noise(images, 0.3, 9, None, range(3 * 2**30, 3 * 2**30 + 6))
    assert any(torch.equal(part, expected.flatten(0, 1)) for part in shown)


def test_the_gradient_is_that_of_the_mean_score() -> None:
    """Against central differences in float64, whole and in parts."""
    model, images, _ = data(2)
    model = model.eval().double()

    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = model(x.double())
            return result

    victim = SmoothedVictim(Double(), sigma=0.2, draws=6)
    ids, classes = torch.arange(2), torch.tensor([0, 1])
    for at_once in (64, 4):
        leaf = images.clone().requires_grad_()
        victim.outputs(leaf, ids, at_once).log_odds(classes).sum().backward()
        assert leaf.grad is not None
        step = torch.zeros_like(images)
        step[:, 0, 1, 2] = 2.0**-7
        with torch.no_grad():
            high, low = (
                victim.outputs(images + side * step, ids).log_odds(classes) for side in (1, -1)
            )
        numeric = (high - low) / 2**-6
        torch.testing.assert_close(leaf.grad[:, 0, 1, 2].double(), numeric, atol=1e-3, rtol=2e-2)


def test_the_model_comes_back_as_it_was() -> None:
    model, images, labels = data(8)
    model.train()
    model[1].eval()
    weights = [p.clone() for p in model.parameters()]
    before = images.clone()
    with torch.inference_mode():  # an outer mode must not break the gradients
        CceGuidedAttack(radius=0.2, steps=4).run(model, images, labels)
    assert model.training
    assert not model[1].training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert torch.equal(images, before)


def test_a_given_class_has_to_stay_and_others_are_left_alone() -> None:
    model, images, labels = data(20)
    own = BrierAttack(radius=0.2).run(model, images, labels).predicted
    given_class = own.copy()
    given_class[3] = (own[3] + 1) % CLASSES
    for attack in attacks(0.2):
        result = attack.run(model, images, labels, predicted=given_class)
        np.testing.assert_array_equal(result.predicted, given_class)
        assert not result.kept[3]
        assert result.kept.sum() == 19
        assert result.l2[3] == 0, attack.name
        assert result.attacked_confidence[3] == result.clean_confidence[3]


@pytest.mark.parametrize("samples", [1, 2])
def test_one_and_two_samples(samples: int) -> None:
    model, images, labels = data(samples)
    for victim in victims(model):
        for attack in attacks(0.3):
            assert len(attack.run(victim, images, labels)) == samples


def test_gradients_are_counted() -> None:
    model, images, labels = data(10)
    for attack in attacks(0.3, steps=9):
        calls: list[int] = []
        handle = model.register_forward_hook(
            lambda module, inputs, output, calls=calls: calls.append(
                len(inputs[0]) if inputs[0].requires_grad else 0
            )
        )
        result = attack.run(model, images, labels)
        handle.remove()
        assert sum(calls) == result.gradients.sum()
        assert result.gradients.max() <= 9


def test_progress_ends_at_all() -> None:
    model, images, labels = data(10)
    told: list[tuple[int, int]] = []
    for attack in attacks(0.3):
        told.clear()
        attack.run(model, images, labels, progress=lambda done, total: told.append((done, total)))
        assert told[-1][0] == told[-1][1]
        assert all(done <= total for done, total in told)


def test_a_file_gives_back_the_result(tmp_path: Path) -> None:
    model, images, labels = data(6)
    victim = SmoothedVictim(model, sigma=0.1, draws=4)
    result = CceGuidedAttack(radius=0.2, steps=4, intervals=(np.zeros(6), np.ones(6))).run(
        victim, images, labels
    )
    result.to_parquet(tmp_path / "attack.parquet")
    read = AttackResult.from_parquet(tmp_path / "attack.parquet")
    assert read.settings == result.settings
    assert (read.attack, read.draws, read.fresh) == ("cce-guided", 4, False)
    assert read.after() == result.after()
    assert read.before() == result.before()
    np.testing.assert_array_equal(read.l2, result.l2)
    with pytest.raises(ValueError, match="holds no images"):
        read.under(victim)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"broken\.parquet: expected a Parquet file of an attack"):
        AttackResult.from_parquet(tmp_path / "broken.parquet")


def test_under_fresh_noises() -> None:
    model, images, labels = data(12)
    victim = SmoothedVictim(model, sigma=0.1, draws=4)
    result = BrierAttack(radius=0.2, steps=4).run(victim, images, labels)
    assert not result.fresh
    assert not result.under(victim).fresh
    np.testing.assert_allclose(result.under(victim).attacked_confidence, result.attacked_confidence)
    fresh = result.under(victim.with_draws(50))
    assert fresh.fresh
    assert fresh.draws == 50
    assert (fresh.attacked_confidence != result.attacked_confidence).any()
    assert not fresh.under(victim).fresh  # back to the noises of the attack
    assert BrierAttack(radius=0.2, steps=1).run(model, images, labels).fresh
    only = dataclasses.replace(fresh, kept=np.arange(12) != 4).only_kept()
    assert only.images is not None
    assert torch.equal(only.images[4], images[4])
    assert only.l2[4] == 0
    assert only.attacked_confidence[4] == fresh.clean_confidence[4]
    np.testing.assert_array_equal(
        only.under(victim.with_draws(50)).clean_confidence, fresh.clean_confidence
    )
    some = fresh.rows([3, 1])
    assert some.index.tolist() == [3, 1]
    assert some.clean_confidence.tolist() == fresh.clean_confidence[[3, 1]].tolist()
    with pytest.raises(ValueError, match=r"expected ids of attacked samples, got 40"):
        fresh.rows([40])


@settings(max_examples=40)
@given(
    radius=st.floats(0, 3),
    norm=st.sampled_from(["l2", "linf"]),
    seed=st.integers(0, 2**32),
    scale=st.floats(1e-3, 1e3),
)
def test_projection_stays_inside(radius: float, norm: Norm, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(4, 3, 5, generator=generator)
    clean[0] = 0
    ball = Ball(norm, radius)
    far = clean + scale * torch.randn(4, 3, 5, generator=generator)
    near = ball.project(far, clean)
    assert float(ball.size(near.double() - clean.double()).max()) <= radius
    assert float(near.min()) >= 0
    assert float(near.max()) <= 1
    start = ball.random_start(clean, torch.arange(4), seed=seed, start=1)
    assert float(ball.size(start.double() - clean.double()).max()) <= radius
    unit = ball.unit_step(1e-30 * torch.randn(4, 3, 5, generator=generator))
    torch.testing.assert_close(ball.size(unit), torch.ones(4, dtype=torch.float64))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=30))
def test_the_soft_error_tends_to_the_ece(samples: list[tuple[bool, float]]) -> None:
    correct = np.array([c for c, _ in samples], dtype=float)
    # Away from the edges of 5 bins, where membership is shared.
    z = np.array(
        [(np.floor(5 * v) + 0.2 + 0.6 * (5 * v % 1)) / 5 if v < 1 else 0.95 for _, v in samples]
    )
    soft = soft_calibration_error(
        torch.from_numpy(z), torch.from_numpy(correct), bins=5, temperature=1e-4
    )
    assert float(soft) == pytest.approx(cc.ece(correct, z, bins=5), abs=1e-9)


class Broken(torch.nn.Module):
    """A model with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.inner, self.fault = mlp(12, CLASSES, 0), fault

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x)
        if self.fault == "probabilities":
            return logits.softmax(1)
        if self.fault == "nan":
            return torch.where(x.flatten(1)[:, :1] > 0.99, torch.nan, logits)
        if self.fault == "detached":
            return logits.detach()
        if self.fault == "gradient":
            # The root has an infinite slope at 0, where its value is fine.
            return logits + (x.flatten(1)[:, :1] * 0).sqrt()
        return {"one class": logits[:, :1], "shape": logits[:, :, None]}[self.fault]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("probabilities", "model: expected logits, got rows of probabilities"),
        ("nan", r"model: expected finite logits, got NaN or infinity for sample 12$"),
        ("detached", "model: expected logits that can be differentiated"),
        ("gradient", "gradient: expected finite numbers, got NaN or infinity for sample 10"),
        ("one class", "model: expected logits of at least two classes, got one"),
        ("shape", r"model: expected logits of shape \(5, K\), got \(5, 4, 1\)"),
    ],
)
def test_broken_models(fault: str, message: str) -> None:
    _, images, labels = data(5)
    images[2, 0, 0, 0] = 1.0
    images[[0, 1, 3, 4], 0, 0, 0] = 0.5
    model = Broken(fault)
    with pytest.raises(ValueError, match=message):
        BrierAttack(radius=0.1).run(model, images, labels, sample_ids=np.arange(10, 15))
    assert model.training


def test_bad_input() -> None:
    model, images, labels = data(5)
    attack = BrierAttack(radius=0.1)
    for bad, error, message in (
        (images.double(), TypeError, "images: expected float32, got float64"),
        ((images * 255).byte(), TypeError, "divide uint8 images by 255"),
        (images[:0], ValueError, "images: expected at least one image"),
        (images * 2 - 0.5, ValueError, r"images: expected pixels in \[0, 1\], got .* in row 0"),
        (images.where(images < 0.9, torch.nan), ValueError, r"images: expected pixels in \[0, 1\]"),
        (images[0, 0, 0], ValueError, r"images: expected shape \(N, C, H, W\)"),
        ("images", TypeError, "images: expected a tensor, got str"),
    ):
        with pytest.raises(error, match=message):
            attack.run(model, bad, labels)
    for bad_labels, error, message in (
        (labels[:3], ValueError, "labels: expected 5 entries"),
        (labels + 4, ValueError, r"labels: expected values in \[0, 4\)"),
        (labels.astype(float), TypeError, "labels: expected whole numbers"),
        (-labels - 1, ValueError, r"labels: expected values in \[0, 4\)"),
    ):
        with pytest.raises(error, match=message):
            attack.run(model, images, bad_labels)
    with pytest.raises(TypeError, match=r"victim: expected a Victim or a torch.nn.Module, got str"):
        attack.run("model", images, labels)
    with pytest.raises(
        ValueError, match=r"sample_ids: expected each number once, .*, got 3 2 times"
    ):
        attack.run(model, images, labels, sample_ids=[0, 3, 3, 1, 2])
    with pytest.raises(ValueError, match="sample_ids: expected at least 0"):
        attack.run(model, images, labels, sample_ids=[0, -3, 3, 1, 2])
    with pytest.raises(ValueError, match=r"predicted: expected values in \[0, 4\)"):
        attack.run(model, images, labels, predicted=labels + 9)
    with pytest.raises(ValueError, match="intervals: expected 5 entries"):
        CceGuidedAttack(radius=0.1, intervals=([0.0], [1.0])).run(model, images, labels)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (BrierAttack, {"radius": -1.0}, "radius: expected a radius of at least 0"),
        (BrierAttack, {"radius": float("nan")}, "radius: expected a finite number"),
        (BrierAttack, {"radius": 1.0, "norm": "l1"}, 'norm: expected "l2" or "linf"'),
        (BrierAttack, {"radius": 1.0, "steps": 0}, "steps: expected a whole number at least 1"),
        (BrierAttack, {"radius": 1.0, "restarts": 0}, "restarts: expected"),
        (BrierAttack, {"radius": 1.0, "step_size": 0.0}, "step_size: expected a number above 0"),
        (AceAttack, {"radius": 1.0, "eta": 0}, "eta: expected 1 or -1, got 0"),
        (AceAttack, {"radius": 1.0, "omega": "truth"}, "omega: expected"),
        (DeceAttack, {"radius": 1.0, "temperature": 0.0}, "temperature: expected a number above 0"),
        (OneStepAceAttack, {"radius": 1.0, "halvings": 99}, "halvings: expected"),
        (CceGuidedAttack, {"radius": 1.0, "blur": 0.0}, "blur: expected a number above 0"),
        (CceGuidedAttack, {"radius": 1.0, "closed": "both"}, "closed: expected"),
        (
            CceGuidedAttack,
            {"radius": 1.0, "edges": [0.0, 0.5]},
            "edges: expected to run from 0 to 1",
        ),
        (CceGuidedAttack, {"radius": 1.0, "intervals": (0.0,)}, "intervals: expected a pair"),
    ],
)
def test_bad_options(kind: type[Attack], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)
    with pytest.raises(TypeError):
        kind(0.5)  # type: ignore[call-arg]  # options are keywords


def test_labels_in_another_order_are_noticed() -> None:
    model, images, labels = data(100)
    with pytest.warns(UserWarning, match="near chance for 4 classes"):
        BrierAttack(radius=0.1, steps=1).run(model, images, (labels + 1) % CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BrierAttack(radius=0.1, steps=1).run(model, images, labels)


def test_bad_victims() -> None:
    model = mlp(12, CLASSES, 0)
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module"):
        PlainVictim(len)
    with pytest.raises(ValueError, match="sigma: expected a number above 0"):
        SmoothedVictim(model, sigma=0.0)
    with pytest.raises(ValueError, match="draws: expected a whole number"):
        SmoothedVictim(model, sigma=0.1, draws=0)
    with pytest.raises(ValueError, match='confidence: expected "scores" or "votes"'):
        SmoothedVictim(model, sigma=0.1, confidence="margin")  # type: ignore[arg-type]
