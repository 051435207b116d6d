# SPDX-License-Identifier: MIT
"""Looks at data and model before and while hours are spent."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from certcal_ext._images import checked_labels, image_tensor, near_chance
from certcal_ext.model_checks import require_logits
from certcal_ext.model_state import copied_for, kept_as_it_is

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
    return tensor, torch.from_numpy(checked_labels("labels", labels, len(tensor)).copy())


def check_model(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, device: torch.device
) -> int:
    """Shows a few images to the model and returns its number of classes.

    Raises:
        ValueError: it fails, gives no finite logits (B, K), gives probabilities, or the labels do not fit K.
    """
    shown = images[: min(64, len(images))]
    try:
        with kept_as_it_is(model), torch.no_grad():
            model.eval()
            logits = model(copied_for(model, shown.to(device)))
    except (RuntimeError, TypeError, IndexError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ValueError(
            f"model: failed on images of shape {tuple(shown.shape)}: {type(error).__name__}: {first}"
        ) from error
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
    require_logits(values.cpu().numpy())
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
    with kept_as_it_is(model), torch.no_grad():
        model.eval()
        parts = torch.split(images[:CLEAN_IMAGES].to(device), 128)
        found = torch.cat([model(copied_for(model, part)).argmax(1).cpu() for part in parts])
    return float((found == labels[:CLEAN_IMAGES]).double().mean())


def warn_near_chance(accuracy: float, labels: torch.Tensor) -> None:
    """Warns where the accuracy is what the most common label alone would give.

    Warns:
        UserWarning: it is at most three standard deviations above that.
    """
    shown = labels[:CLEAN_IMAGES].numpy()
    common = float(np.bincount(shown).max()) / shown.size
    if near_chance(accuracy, common, shown.size):
        warnings.warn(
            f"after an epoch the model is right on {accuracy:.1%} of {shown.size} clean training images, and always "
            f"guessing the most common label on {common:.1%}: labels that do not match the images, a learning rate that is "
            "too large or too small, or a normalisation that is not inside the model?",
            stacklevel=3,
        )
