# SPDX-License-Identifier: MIT
"""The one-step attack on confidence of Galil and El-Yaniv."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from certcal_ext import _check
from certcal_ext.attacks.ascent import Scene
from certcal_ext.attacks.base import Attack
from certcal_ext.attacks.objectives import ConfidenceObjective


@dataclass(frozen=True, kw_only=True)
class OneStepAceAttack(Attack):
    """One step along the gradient of the confidence: down where right, up where wrong.

    x + s * d * sign(gradient) for linf, or the normalised gradient for l2, with s the radius, halved while the prediction
    changes; the clean image where it changes at every s.

    Attributes:
        halvings: how often s is halved at most.

    Source:
        Galil and El-Yaniv, "Disrupting deep uncertainty estimation without harming accuracy" (NeurIPS 2021).

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> attack = OneStepAceAttack(radius=0.1, norm="linf")
        >>> attack.run(model, torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])).gradients
        array([1, 1])
    """

    name: ClassVar[str] = "one-step-ace"

    halvings: int = 15

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        _check.whole_number("halvings", self.halvings, 0, 64)

    @property
    def looks(self) -> int:
        """Passes a sample, to tell how far a run is."""
        return 2

    def _search(self, scene: Scene) -> torch.Tensor:
        everyone = torch.arange(len(scene), device=scene.clean.device)
        seen = scene.look(scene.clean, everyone, ConfidenceObjective(True))
        assert seen.gradient is not None
        side = (1 - 2 * scene.rows.correct).to(scene.clean.dtype)
        shape = (-1, *[1] * (scene.clean.ndim - 1))
        direction = side.view(shape) * scene.ball.unit_step(seen.gradient)
        found, left = scene.clean.clone(), everyone[seen.kept]
        length = self.radius
        for _ in range(self.halvings + 1):
            if not len(left):
                break
            tried = scene.ball.project(
                scene.clean[left] + length * direction[left], scene.clean[left]
            )
            kept = scene.look(tried, left).kept
            found[left[kept]] = tried[kept]
            left, length = left[~kept], length / 2
        return found
