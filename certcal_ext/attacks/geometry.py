# SPDX-License-Identifier: MIT
"""Balls around images, cut with [0, 1]: steps, projections, random starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from scipy.special import ndtr

from certcal_ext import _check
from certcal_ext.smoothing.noise import add_noise

Norm = Literal["l2", "linf"]

#: Random starts take the noises from here on, which no victim draws.
START_DRAW = 2**31


@dataclass(frozen=True)
class Ball:
    """All images within a radius of a clean one and within [0, 1].

    Attributes:
        norm: ``"l2"`` or ``"linf"``.
        radius: in pixel units.

    Raises:
        TypeError: ``radius`` is no number.
        ValueError: another norm, or a radius below 0 or not finite.
    """

    norm: Norm
    radius: float

    def __post_init__(self) -> None:
        """Checks both."""
        _check.choice("norm", self.norm, ("l2", "linf"))
        _check.radius("radius", self.radius)

    def size(self, perturbation: torch.Tensor) -> torch.Tensor:
        """(B,) float64, the norm of (B, ...) perturbations."""
        flat = perturbation.flatten(1).double()
        return flat.norm(dim=1) if self.norm == "l2" else flat.abs().amax(1)

    def project(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The nearest image of the ball in its norm, then clipped to [0, 1], which brings it nearer.

        The radius aimed at is a little smaller than the radius: rounding x + delta to float32 moves a
        pixel of [0, 1] by at most 2^-25, and the norm of that is taken off, so that the perturbation that
        comes out is never longer than the radius.
        """
        rounding = 2.0**-24
        if self.norm == "linf":
            inner = max(0.0, self.radius * (1 - 1e-6) - rounding)
            moved = clean + (images - clean).clamp(-inner, inner)
            return moved.clamp(0, 1)
        inner = max(0.0, self.radius * (1 - 1e-6) - rounding * clean[0].numel() ** 0.5)
        delta = images - clean
        size = self.size(delta)
        scale = torch.where(size > inner, inner / size.clamp_min(1e-300), 1.0)
        return (clean + each_image(scale.to(delta.dtype), delta) * delta).clamp(0, 1)

    def unit_step(self, gradient: torch.Tensor) -> torch.Tensor:
        """The step of norm 1 along which a linear function with this gradient rises most; 0 for gradient 0."""
        if self.norm == "linf":
            return gradient.sign()
        # Scaled first: squares of tiny gradients would vanish in float32.
        top = gradient.flatten(1).abs().amax(1)
        scaled = gradient / each_image(torch.where(top > 0, top, 1.0).to(gradient.dtype), gradient)
        length = scaled.flatten(1).norm(dim=1)
        return scaled / each_image(torch.where(length > 0, length, 1.0).to(scaled.dtype), scaled)

    def random_start(
        self, clean: torch.Tensor, ids: torch.Tensor, *, seed: int, start: int
    ) -> torch.Tensor:
        """Images on the sphere (l2) or uniform in the cube (linf), a function of seed, id and start only."""
        draws = range(START_DRAW + start, START_DRAW + start + 1)
        normal = add_noise(torch.zeros_like(clean), 1.0, seed, ids, draws)[:, 0]
        if self.norm == "l2":
            return self.project(clean + self.radius * self.unit_step(normal), clean)
        uniform = torch.from_numpy(ndtr(normal.double().cpu().numpy())).to(clean)
        return self.project(clean + self.radius * (2 * uniform - 1), clean)


def each_image(values: Any, images: torch.Tensor) -> torch.Tensor:
    """(B,) values, one an image, on the device of ``images`` and in a shape that goes with them."""
    return torch.as_tensor(values).to(images.device).view(-1, *[1] * (images.ndim - 1))
