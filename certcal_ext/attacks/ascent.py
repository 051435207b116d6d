# SPDX-License-Identifier: MIT
"""The loop: steps inside the ball that keep the prediction, and the best image of each sample so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from certcal_ext.attacks.geometry import Ball
from certcal_ext.attacks.objectives import Objective, Rows
from certcal_ext.attacks.victims import Victim, under_attack

#: Where a step makes a prediction change or an objective fall, the next one is this much shorter.
_SHORTER = 0.5


@dataclass(frozen=True)
class Seen:
    """What the victim says about some images.

    Attributes:
        kept: (B,) bool, the prediction is the one that has to stay.
        confidence: (B,) float64, as the victim counts it.
        log_odds: (B,) float64, of the mean score.
        value: (B,) float64 of the objective, or zeros where none was asked for.
        gradient: (B, ...) of the objective, or None.
    """

    kept: torch.Tensor
    confidence: torch.Tensor
    log_odds: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor | None


class Scene:
    """The samples, the ball and the victim; counts how often each sample was looked at.

    Attributes:
        victim: the classifier.
        ball: where images may go.
        clean: (N, ...) float32.
        ids: (N,) int64.
        rows: labels and predictions.
        gradients: (N,) int64, forward and backward passes so far, all m draws as one.
        passes: (N,) int64, forward passes without a backward one.
    """

    def __init__(
        self,
        victim: Victim,
        ball: Ball,
        clean: torch.Tensor,
        ids: torch.Tensor,
        rows: Rows,
        batch_size: int,
        on_pass: Callable[[int], None] | None = None,
    ) -> None:
        self.victim, self.ball, self.clean, self.ids, self.rows = victim, ball, clean, ids, rows
        self.gradients = torch.zeros(len(clean), dtype=torch.int64)
        self.passes = torch.zeros(len(clean), dtype=torch.int64)
        self._batch_size = batch_size
        self._on_pass = on_pass

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.clean)

    def under(self, victim: Victim) -> Scene:
        """The same samples before another victim; what is looked at there counts here."""
        other = Scene(
            victim, self.ball, self.clean, self.ids, self.rows, self._batch_size, self._on_pass
        )
        other.gradients, other.passes = self.gradients, self.passes
        return other

    def look(
        self,
        images: torch.Tensor,
        which: torch.Tensor,
        objective: Objective | None = None,
        *,
        differentiate: bool = True,
    ) -> Seen:
        """Shows images to the victim.

        Args:
            images: (B, ...) float32.
            which: (B,) int64, the samples that they belong to.
            objective: what to evaluate, or None.
            differentiate: whether to take its gradient; without, this is a forward pass.

        Returns:
            ``Seen``.

        Raises:
            ValueError: an objective or a gradient that is NaN or infinite; the sample is named.
        """
        at_once = max(1, self._batch_size // self.victim.draws)
        slope = objective is not None and differentiate
        counter = self.gradients if slope else self.passes
        counter[which.cpu()] += 1
        parts = [
            self._look(part, rows, objective, slope)
            for part, rows in zip(
                torch.split(images, at_once), torch.split(which, at_once), strict=True
            )
        ]
        columns = zip(*parts, strict=True)
        kept, confidence, odds, value, gradient = (torch.cat(column) for column in columns)
        return Seen(kept, confidence, odds, value, gradient if slope else None)

    def _look(
        self, images: torch.Tensor, which: torch.Tensor, objective: Objective | None, slope: bool
    ) -> tuple[torch.Tensor, ...]:
        ids = self.ids[which]
        rows = Rows(self.rows.labels[which], self.rows.predicted[which])
        with torch.set_grad_enabled(slope):
            leaf = images.detach().clone().requires_grad_(slope)
            outputs = self.victim.outputs(leaf, ids, self._batch_size)
            odds = outputs.log_odds(rows.predicted)
            value, gradient = torch.zeros_like(odds), images
            if objective is not None:
                value = objective.values(outputs, rows)
            if slope:
                if not value.requires_grad:
                    raise ValueError(
                        "model: expected logits that can be differentiated, got none with a gradient"
                    )
                (gradient,) = torch.autograd.grad(value.sum(), leaf)
        for name, tensor in (("objective", value.detach()), ("gradient", gradient)):
            finite = torch.isfinite(tensor.reshape(len(images), -1)).all(1)
            if not bool(finite.all()):
                row = int((~finite).nonzero()[0])
                raise ValueError(
                    f"{name}: expected finite numbers, got NaN or infinity for sample {int(ids[row])}"
                )
        kept = outputs.predicted == rows.predicted
        confidence = self.victim.confidence(outputs, rows.predicted)
        if self._on_pass is not None:
            self._on_pass(len(images))
        return kept, confidence, odds.detach(), value.detach(), gradient


class Ascent:
    """Projected gradient ascent of every sample on its own, by normalised steps.

    A step is taken only where the prediction stays and the objective does not fall; elsewhere the sample stays and
    its next step is half as long, from the gradient that is already known. So every image of the way keeps the
    prediction, and the last one is the best one.

    Args:
        scene: samples and victim.
        objective: what to climb.
        start: (N, ...) images to start from; None: the clean ones.
        step_size: first step, as a share of the radius.

    Attributes:
        images: (N, ...) float32, the best images so far; the clean ones where none keeps the prediction.
        confidence: (N,) float64, the victim's confidence there.
        value: (N,) float64, the objective there; -inf where no image keeps the prediction.
    """

    def __init__(
        self,
        scene: Scene,
        objective: Objective,
        *,
        start: torch.Tensor | None = None,
        step_size: float = 1.0,
    ) -> None:
        self.scene, self.objective = scene, objective
        everyone = torch.arange(len(scene), device=scene.clean.device)
        self.images = scene.clean.clone()
        first = scene.look(self.images if start is None else start, everyone, objective)
        assert first.gradient is not None
        if start is not None:
            self.images[first.kept] = start[first.kept]
        self.gradient = first.gradient
        self.confidence = first.confidence
        self.value = torch.where(first.kept, first.value, -torch.inf)
        self.step = torch.full_like(first.value, step_size * scene.ball.radius)

    def advance(self, steps: int, which: torch.Tensor | None = None) -> None:
        """Takes some steps.

        Args:
            steps: gradients a sample, each at the end of a step.
            which: (B,) int64, the samples that move; None: all.
        """
        rows = self._movable(which)
        for _ in range(steps if len(rows) else 0):
            self._move(rows, differentiate=True)

    def finish(self, which: torch.Tensor | None = None) -> None:
        """The last step, along the gradient that is already known: a forward pass tells whether it pays.

        Args:
            which: (B,) int64, the samples that move; None: all.
        """
        rows = self._movable(which)
        if len(rows):
            self._move(rows, differentiate=False)

    def _movable(self, which: torch.Tensor | None) -> torch.Tensor:
        """The samples that have a prediction to keep and a gradient to follow."""
        if which is None:
            which = torch.arange(len(self.scene), device=self.scene.clean.device)
        slope = self.gradient[which].flatten(1).abs().amax(1)
        return which[torch.isfinite(self.value[which]) & (slope > 0)]

    def _move(self, which: torch.Tensor, differentiate: bool) -> None:
        before, clean = self.images[which], self.scene.clean[which]
        stride = self.step[which].to(before.dtype).view(-1, *[1] * (before.ndim - 1))
        along = self.scene.ball.unit_step(self.gradient[which])
        tried = self.scene.ball.project(before + stride * along, clean)
        seen = self.scene.look(tried, which, self.objective, differentiate=differentiate)
        better = seen.kept & (seen.value > self.value[which])
        self.step[which[~better]] *= _SHORTER
        rows = which[better]
        self.images[rows] = tried[better]
        self.value[rows], self.confidence[rows] = seen.value[better], seen.confidence[better]
        # Without a new gradient the old one stands; nothing follows it after ``finish``.
        if seen.gradient is not None:
            self.gradient[rows] = seen.gradient[better]

    def take(self, other: Ascent, rows: torch.Tensor) -> None:
        """Goes on from where another ascent of the same objective stands, in some rows.

        Args:
            other: the ascent.
            rows: (N,) bool.
        """
        for name in ("images", "gradient", "confidence", "value", "step"):
            getattr(self, name)[rows] = getattr(other, name)[rows]


def confidences(
    victim: Victim,
    images: torch.Tensor,
    ids: NDArray[np.int64],
    classes: NDArray[np.int64],
    *,
    batch_size: int,
    on_pass: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The victim's confidence in a class of each image, and whether that class is its prediction.

    Args:
        victim: the classifier.
        images: (N, ...) float32.
        ids: (N,) sample ids.
        classes: (N,) classes.
        batch_size: inputs a forward pass.
        on_pass: called with the number of images that were looked at.
    """
    device = victim.device or images.device
    moved = images.to(device)
    numbers = torch.from_numpy(np.array(ids)).to(device)
    rows = torch.from_numpy(np.array(classes)).to(device)
    scene = Scene(victim, Ball("l2", 0.0), moved, numbers, Rows(rows, rows), batch_size, on_pass)
    with under_attack(victim.model):
        seen = scene.look(moved, torch.arange(len(moved), device=device))
    return seen.confidence.cpu().numpy(), seen.kept.cpu().numpy()
