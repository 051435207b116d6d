# SPDX-License-Identifier: MIT
"""The attacks that climb one objective: (eta, omega)-ACE, Brier, DECE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from certcal_ext import _check
from certcal_ext.attacks.ascent import Scene
from certcal_ext.attacks.base import GradientAttack
from certcal_ext.attacks.geometry import each_image
from certcal_ext.attacks.objectives import (
    AceObjective,
    BrierObjective,
    ConfidenceObjective,
    Objective,
    Omega,
    soft_calibration_error,
)


@dataclass(frozen=True, kw_only=True)
class AceAttack(GradientAttack):
    """The (eta, omega)-ACE attack: maximise eta * CE(f(x), omega) while no prediction changes.

    (1, label) moves away from the truth, (-1, label) toward it, (1, predicted) makes every sample less and
    (-1, predicted) more confident.

    Attributes:
        eta: +1 or -1.
        omega: ``"label"`` or ``"predicted"``.

    Source:
        Emde et al., "Towards certification of uncertainty calibration under adversarial attacks" (ICLR
        2025), section 2.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> attack = AceAttack(radius=0.1, eta=-1, omega="predicted", steps=5)
        >>> result = attack.run(model, torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1]))
        >>> bool((result.attacked_confidence >= result.clean_confidence).all())
        True
    """

    name: ClassVar[str] = "ace"

    eta: int = 1
    omega: Omega = "label"

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        if not _check.whole_number("eta", self.eta, -1, 1):
            raise ValueError("eta: expected 1 or -1, got 0")
        _check.choice("omega", self.omega, ("label", "predicted"))

    def objective(self) -> Objective:
        """Eta times the cross-entropy."""
        return AceObjective(self.eta, self.omega)


@dataclass(frozen=True, kw_only=True)
class BrierAttack(GradientAttack):
    """Raises the Brier score: right samples lose confidence, wrong ones gain it.

    Source:
        Emde et al. (ICLR 2025), Brier-ACT.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> result = BrierAttack(radius=0.1).run(model, torch.full((2, 1, 2, 2), 0.5), [0, 1])
        >>> result.after().brier >= result.before().brier
        True
    """

    name: ClassVar[str] = "brier"

    def objective(self) -> Objective:
        """The squared error."""
        return BrierObjective()


@dataclass(frozen=True, kw_only=True)
class DeceAttack(GradientAttack):
    """Raises a differentiable ECE of the whole set of images: all of them move by its gradient.

    Steps are normalised a sample, so a sample follows the sign of its share of the gradient. A step that changes a
    prediction is not taken by that sample. The set of images with the largest soft error is returned.

    Attributes:
        bins: number of soft bins.
        temperature: width of the borders between them.

    Source:
        Bohdal et al., "Meta-calibration" (TMLR 2023); as an attack: the first baseline of Emde et al. (ICLR 2025).

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> result = DeceAttack(radius=0.1).run(model, torch.full((2, 1, 2, 2), 0.5), [0, 1])
        >>> len(result)
        2
    """

    name: ClassVar[str] = "dece"

    bins: int = 15
    temperature: float = 0.01

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        _check.whole_number("bins", self.bins, 1)
        _check.positive_number("temperature", self.temperature)

    def _search(self, scene: Scene) -> torch.Tensor:
        best, found = self._ascend(scene, scene.clean)
        for restart in range(1, self.restarts):
            start = scene.ball.random_start(scene.clean, scene.ids, seed=self.seed, start=restart)
            seen = scene.look(start, torch.arange(len(scene), device=start.device))
            error, images = self._ascend(
                scene, torch.where(each_image(seen.kept, start), start, scene.clean)
            )
            if error > best:
                best, found = error, images
        return found

    def _ascend(self, scene: Scene, start: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The images of largest soft error on one way, and that error."""
        everyone = torch.arange(len(scene), device=start.device)
        upward = ConfidenceObjective(True)
        images, seen = start, scene.look(start, everyone, upward)
        # Where even the start is predicted otherwise there is nothing to keep: the sample stays.
        alive = seen.kept
        assert seen.gradient is not None
        gradient, odds = seen.gradient, seen.log_odds
        step = torch.full_like(odds, self.step_size * self.radius)
        best, slope = self._slope(odds, scene.rows.correct)
        found = images
        for number in range(1, self.steps + 1):
            length = (
                step * (0.5 + 0.5 * math.cos(math.pi * (number - 1) / self.steps)) * slope.sign()
            )
            stride = each_image(length, images).to(images.dtype)
            tried = scene.ball.project(
                images + stride * scene.ball.unit_step(gradient), scene.clean
            )
            seen = scene.look(tried, everyone, upward, differentiate=number < self.steps)
            taken = seen.kept & alive
            step[~taken] *= 0.5
            images = torch.where(each_image(taken, images), tried, images)
            if seen.gradient is not None:
                gradient = torch.where(each_image(taken, images), seen.gradient, gradient)
            odds = torch.where(taken, seen.log_odds, odds)
            error, slope = self._slope(odds, scene.rows.correct)
            if error > best:
                best, found = error, images
        return best, found

    def _slope(self, odds: torch.Tensor, correct: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The soft error and its derivative by each log-odds."""
        with torch.enable_grad():
            leaf = odds.detach().clone().requires_grad_()
            error = soft_calibration_error(
                leaf.sigmoid(), correct, bins=self.bins, temperature=self.temperature
            )
            (slope,) = torch.autograd.grad(error, leaf)
        return float(error.detach()), slope
