# SPDX-License-Identifier: MIT
"""Models that show what the sampling loop does with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Elementwise(torch.nn.Module):
    """The first K pixels, four times: logits whose bits cannot depend on the batch, without near ties to speak of."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x.flatten(1)[:, : self.classes] * 4
        return result


class Recorder(torch.nn.Module):
    """Keeps what it is called with."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.inputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inputs.append(x.clone(memory_format=torch.preserve_format))
        result: torch.Tensor = self.inner(x)
        return result


class Computed(torch.nn.Module):
    """A function in the place of a model."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)
