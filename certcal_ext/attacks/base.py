# SPDX-License-Identifier: MIT
"""The base of all attacks: checks, the clean predictions, the search, and what is kept of it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from certcal_ext import _check
from certcal_ext._images import checked_ids, checked_labels, image_tensor, warn_near_chance
from certcal_ext._progress import Report, Tally, reporting
from certcal_ext.attacks.ascent import Ascent, Scene
from certcal_ext.attacks.geometry import Ball, Norm
from certcal_ext.attacks.objectives import Objective, Rows
from certcal_ext.attacks.result import AttackResult
from certcal_ext.attacks.victims import Victim, as_victim, under_attack
from certcal_ext.smoothing.noise import MAX_SEED


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack on calibration that changes no prediction. Options are keywords.

    Attributes:
        radius: largest norm of a perturbation, in [0, 1] pixel units.
        norm: ``"l2"`` or ``"linf"``.
        seed: key of random starts.

    Raises:
        TypeError: an option of the wrong kind.
        ValueError: an option out of range.
    """

    name: ClassVar[str]

    radius: float
    norm: Norm = "l2"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        Ball(self.norm, self.radius)
        _check.whole_number("seed", self.seed, 0, MAX_SEED)

    @property
    @abstractmethod
    def looks(self) -> int:
        """Passes a sample, to tell how far a run is."""

    @abstractmethod
    def _search(self, scene: Scene) -> torch.Tensor:
        """(N, ...) images inside the ball that keep the predictions."""

    def run(
        self,
        victim: Any,
        images: Any,
        labels: Any,
        *,
        predicted: Any = None,
        sample_ids: Any = None,
        batch_size: int = 1024,
        progress: bool | Report = False,
    ) -> AttackResult:
        """Attacks all images.

        Args:
            victim: a ``Victim``, or a torch module, which is attacked without noise.
            images: (N, ...) float32 in [0, 1].
            labels: (N,) integers in [0, K).
            predicted: (N,) classes whose confidence is attacked and which have to stay on top, such as those of
                a certificate; None: the victim's own predictions. Where the victim predicts another class on
                the clean image, that image is left as it is.
            sample_ids: (N,) numbers that name the samples in the noise and in the result; default 0, ..., N - 1.
            batch_size: inputs a forward pass, draws counted. A matter of memory and speed.
            progress: True shows how far it is; or a function of (passes done, passes in all).

        Returns:
            ``AttackResult``. Every image lies in [0, 1] and within the radius; none changes a prediction.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: no images, pixels outside [0, 1] or not finite, shapes or labels that do not fit, a model
                that gives probabilities, NaN or infinite logits, objectives or gradients.

        Warns:
            UserWarning: the accuracy is near chance.
        """
        attacked = as_victim(victim)
        _check.whole_number("batch_size", batch_size, 1)
        clean = _checked_images(images)
        size = len(clean)
        true = _check.int_vector("labels", labels, size)
        ids = checked_ids(sample_ids, size)
        device = attacked.device or clean.device
        with (
            reporting(progress, self.name, "passes") as report,
            under_attack(attacked.model),
        ):
            total = size * (self.looks + 2)
            tally = Tally(total, None if report is None else _capped(report))
            clean = clean.to(device).clone()
            numbers = torch.from_numpy(ids.copy()).to(device)
            chosen, classes = _clean_predictions(attacked, clean, numbers, batch_size)
            tally.add(size)
            checked_labels("labels", true, size, classes)
            if predicted is not None:
                stated = checked_labels("predicted", predicted, size, classes)
                chosen = torch.from_numpy(stated.copy()).to(device)
            warn_near_chance("the victim", true, chosen.cpu().numpy(), classes)
            rows = Rows(torch.from_numpy(true.copy()).to(device), chosen)
            scene = Scene(
                attacked,
                Ball(self.norm, self.radius),
                clean,
                numbers,
                rows,
                batch_size,
                tally.add,
            )
            found = self._search(scene)
            result = _assess(self, scene, found)
            if report is not None:
                report(total, total)
        return result

    def settings(self) -> dict[str, Any]:
        """The options by name."""
        options = dataclasses.asdict(self)
        return {name: _plain(value) for name, value in options.items()}


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """An attack that climbs an objective, every sample on its own.

    Attributes:
        steps: gradients a sample and start.
        restarts: starts; the first is the clean image, the others are random, and the best is kept.
        step_size: first step, as a share of the radius; it is halved where a step does not pay.
    """

    steps: int = 20
    restarts: int = 1
    step_size: float = 0.5

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        _check.whole_number("steps", self.steps, 1)
        _check.whole_number("restarts", self.restarts, 1, 2**16)
        _check.positive_number("step_size", self.step_size)

    @property
    def looks(self) -> int:
        """Passes a sample, to tell how far a run is."""
        return (self.steps + 1) * self.restarts

    def objective(self) -> Objective:
        """What is climbed."""
        raise NotImplementedError

    def _search(self, scene: Scene) -> torch.Tensor:
        return climb(scene, self.objective(), self, self.steps, finish=True).images


def climb(
    scene: Scene, objective: Objective, options: GradientAttack, steps: int, *, finish: bool
) -> Ascent:
    """Climbs from every start and returns an ascent with the best image of each sample.

    Args:
        scene: samples and victim.
        objective: what to climb.
        options: restarts, first step and seed.
        steps: gradients a sample and start.
        finish: whether nothing follows, so that the last gradient is used for a step.
    """
    best: Ascent | None = None
    for restart in range(options.restarts):
        start = None
        if restart:
            start = scene.ball.random_start(
                scene.clean, scene.ids, seed=options.seed, start=restart
            )
        ascent = Ascent(scene, objective, start=start, step_size=options.step_size)
        ascent.advance(steps - 1)
        if finish:
            ascent.finish()
        if best is None:
            best = ascent
        else:
            best.take(ascent, ascent.value > best.value)
    assert best is not None  # there is at least one start
    return best


def _assess(attack: Attack, scene: Scene, found: torch.Tensor) -> AttackResult:
    """Looks at what was found once more; what does not keep the prediction is put back to the clean image."""
    everyone = torch.arange(len(scene), device=scene.clean.device)
    gradients, passes = scene.gradients.clone(), scene.passes.clone()
    before = scene.look(scene.clean, everyone)
    after = scene.look(found, everyone)
    # A forward pass in another batch may round differently; a prediction that hung on it is left alone.
    images = found.clone()
    images[~after.kept] = scene.clean[~after.kept]
    attacked = torch.where(after.kept, after.confidence, before.confidence)
    delta = (images.double() - scene.clean.double()).flatten(1)
    labels, chosen = scene.rows.labels.cpu().numpy(), scene.rows.predicted.cpu().numpy()
    return AttackResult(
        attack=attack.name,
        settings={**attack.settings(), **scene.victim.settings},
        index=scene.ids.cpu().numpy(),
        label=labels,
        predicted=chosen,
        correct=labels == chosen,
        clean_confidence=before.confidence.cpu().numpy(),
        attacked_confidence=attacked.cpu().numpy(),
        kept=(after.kept | before.kept).cpu().numpy(),
        l2=delta.norm(dim=1).cpu().numpy(),
        linf=delta.abs().amax(1).cpu().numpy(),
        gradients=gradients.numpy(),
        passes=passes.numpy(),
        draws=scene.victim.draws,
        fresh=scene.victim.settings["victim"] == "plain",
        images=images.cpu(),
        clean_images=scene.clean.cpu(),
    )


def _clean_predictions(
    victim: Victim, images: torch.Tensor, ids: torch.Tensor, batch_size: int
) -> tuple[torch.Tensor, int]:
    """(N,) predictions without attack and the number of classes, after a look at the logits themselves."""
    at_once = max(1, batch_size // victim.draws)
    predicted = []
    with torch.no_grad():
        for part, numbers in zip(
            torch.split(images, at_once), torch.split(ids, at_once), strict=True
        ):
            outputs = victim.outputs(part, numbers, batch_size)
            predicted.append(outputs.predicted)
    victim.check(images)
    return torch.cat(predicted), outputs.log_scores.shape[1]


def _checked_images(images: Any) -> torch.Tensor:
    tensor = image_tensor(images)
    good = ((tensor >= 0) & (tensor <= 1)).flatten(1).all(1)
    if not bool(good.all()):
        row = int((~good).nonzero()[0])
        raise ValueError(
            f"images: expected pixels in [0, 1], got {float(tensor[row].min()):.4g} to "
            f"{float(tensor[row].max()):.4g} in row {row}, and {int((~good).sum())} such rows in all; "
            "normalisation belongs inside the model"
        )
    return tensor


def _capped(report: Report) -> Report:
    """Never more passes than announced."""
    return lambda done, total: report(min(done, total), total)


def _plain(value: Any) -> Any:
    """Options as JSON has them."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
