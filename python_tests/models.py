# SPDX-License-Identifier: MIT
"""Small models for the tests."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr


class Linear2(torch.nn.Module):
    """Two classes; class 1 where w.x + b > 0. Its smoothed confidence is known in closed form."""

    def __init__(self, weight: torch.Tensor, bias: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(torch.tensor(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = x.flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(margin), margin], dim=1)

    def exact_confidence(self, x: torch.Tensor, sigma: float) -> NDArray[np.float64]:
        """(N,) P(class 1) under noise: Phi((w.x + b) / (sigma |w|))."""
        weight = self.weight.detach().double().numpy()
        margin = x.double().flatten(1).numpy() @ weight + float(self.bias.detach())
        result: NDArray[np.float64] = ndtr(margin / (sigma * math.sqrt(weight @ weight)))
        return result


class LowBits(torch.nn.Module):
    """Two classes; class 1 where some negative pixel is no multiple of 2^-24.

    Where a pixel of 1/2 becomes negative, the noise is at least 1/2 in size, so in float32 both are multiples of 2^-24,
    and so is their sum. A pixel that is 2^-25 less gives itself away.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled = x.flatten(1) * 2.0**24  # exact
        odd = ((scaled < 0) & (scaled != scaled.round())).any(1)
        margin = torch.where(odd, 4.0, -4.0).to(x.dtype)
        return torch.stack([-margin, margin], dim=1)


def mlp(inputs: int, classes: int, seed: int, hidden: int = 32) -> torch.nn.Sequential:
    """A fixed random multilayer perceptron."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(inputs, hidden),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(hidden, classes),
        )
