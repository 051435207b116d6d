# SPDX-License-Identifier: MIT
"""Looks at data and model before and while hours are spent."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch

from certcal_ext import _check
from certcal_ext._images import image_tensor

#: Clean images that the accuracy of an epoch is counted on.
CLEAN_IMAGES = 512

#: After fewer steps, an accuracy near chance is no news.
FEWEST_STEPS = 50


def checked_data(images: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels as tensors on the host.

    Raises:
        TypeError: images that are not float32, labels that are no whole numbers.
        ValueError: no images, pixels outside [0, 1] or not finite, or shapes that do not match.
    """
    tensor = image_tensor(images).cpu()
    low, high = float(tensor.min()), float(tensor.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images: expected pixels in [0, 1], got {low:.4g} to {high:.4g}; noise and radius live in [0, 1] pixel units, "
            "and normalisation belongs inside the model"
        )
    true = _check.int_vector("labels", labels, len(tensor))
    if int(true.min()) < 0:
        raise ValueError(f"labels: expected at least 0, got {true.min()}")
    return tensor, torch.from_numpy(true.copy())


def check_model(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, device: torch.device
) -> int:
    """Shows a few images to the model and returns its number of classes.

    Raises:
        ValueError: it fails, gives no finite logits (B, K), gives probabilities, or the labels do not fit K.
    """
    shown = images[: min(64, len(images))].to(device)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            logits = model(shown)
    except (RuntimeError, TypeError, IndexError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ValueError(
            f"model: failed on images of shape {tuple(shown.shape)}: {type(error).__name__}: {first}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    if (
        not isinstance(logits, torch.Tensor)
        or logits.ndim != 2
        or len(logits) != len(shown)
        or logits.shape[1] < 2
    ):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"model: expected logits of shape ({len(shown)}, classes), got {got}")
    values = logits.double()
    if not bool(torch.isfinite(values).all()):
        raise ValueError("model: expected finite logits, got NaN or infinity on clean images")
    if bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < 1e-4).all()):
        raise ValueError(
            "model: expected logits, got rows of probabilities (at least 0, with sum 1): take the softmax out of the model, "
            "or return its logarithm"
        )
    classes = int(logits.shape[1])
    if int(labels.max()) >= classes:
        raise ValueError(
            f"labels: expected 0 to {classes - 1}, as the model has {classes} classes, got {labels.max()}"
        )
    return classes


def clean_accuracy(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, device: torch.device
) -> float:
    """The share of right predictions on the first images, without noise; the model's mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            parts = torch.split(images[:CLEAN_IMAGES], 128)
            found = torch.cat([model(part.to(device)).argmax(1).cpu() for part in parts])
    finally:
        for module, training in modes:
            module.training = training
    return float((found == labels[:CLEAN_IMAGES]).double().mean())


def warn_near_chance(accuracy: float, labels: torch.Tensor) -> None:
    """Warns where the accuracy is what the most common label alone would give.

    Warns:
        UserWarning: it is at most three standard deviations above that.
    """
    shown = labels[:CLEAN_IMAGES].numpy()
    common = float(np.bincount(shown).max()) / shown.size
    if accuracy <= common + 3 * math.sqrt(common * (1 - common) / shown.size):
        warnings.warn(
            f"after an epoch the model is right on {accuracy:.1%} of {shown.size} clean training images, and always "
            f"guessing the most common label on {common:.1%}: labels that do not match the images, a learning rate that is "
            "too large or too small, or a normalisation that is not inside the model?",
            stacklevel=3,
        )
