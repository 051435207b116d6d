# SPDX-License-Identifier: MIT
"""What a certificate has to know of a model, and how the model is kept as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def model_fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 over the class name and every parameter and buffer (name, dtype, shape, bytes), in hexadecimal.

    Two models with the same weights and class share it, wherever they lie.
    """
    import torch

    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            digest.update(f"{name}:{value!r}".encode())
            continue
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def precision_of(model: torch.nn.Module) -> str:
    """The dtype of the parameters, or the dtypes joined by ``+``."""
    dtypes = {
        str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()
    }
    return "+".join(sorted(dtypes)) or "float32"


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule's own mode comes back, also after an error."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training
