# SPDX-License-Identifier: MIT
"""What comes in to be certified, a tensor or a loader, checked and cut into groups."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Samples:
    """Images with what is known of them, checked.

    Attributes:
        images: (N, ...) float32.
        labels: (N,) classes, or None.
        ids: (N,) the samples' numbers.
    """

    images: torch.Tensor
    labels: NDArray[np.int64] | None
    ids: NDArray[np.int64]

    @classmethod
    def of(cls, images: Any, labels: Any, sample_ids: Any, num_classes: int) -> Samples:
        """What a user gives, checked: a float32 tensor, integers or None, numbers or None (0, ..., N - 1)."""
        tensor = checked_images(images)
        size = len(tensor)
        true = None if labels is None else checked_labels("labels", labels, size, num_classes)
        return cls(tensor, true, checked_ids(sample_ids, size))

    def __len__(self) -> int:
        """N."""
        return len(self.ids)


def parts(images: Any, labels: Any, sample_ids: Any, num_classes: int) -> Iterator[Samples]:
    """All samples of a tensor, or those of each batch of a loader; arguments and errors as :meth:`Samples.of`."""
    import torch

    if isinstance(images, (torch.Tensor, np.ndarray)):
        yield Samples.of(images, labels, sample_ids, num_classes)
        return
    ids = None if sample_ids is None else _distinct(sample_ids)
    start = 0
    for batch, true in _pairs(images, labels):
        stop = start + len(image_tensor(batch))
        names = np.arange(start, stop) if ids is None else _first(ids, stop)[start:]
        yield Samples.of(batch, true, names, num_classes)
        start = stop
    if ids is not None:
        checked_ids(ids, start)


def known_size(images: Any) -> int | None:
    """How many images there are, where that can be told before they are read."""
    try:
        return len(images.dataset if hasattr(images, "dataset") else images)
    except TypeError:
        return None


def _pairs(images: Any, labels: Any) -> Iterator[tuple[Any, Any]]:
    """The batches of a loader."""
    if not isinstance(images, Iterable):
        raise TypeError(
            f"images: expected a tensor or a DataLoader of pairs, got {type(images).__name__}"
        )
    if labels is not None:
        raise ValueError(
            "images, labels: expected None as labels with a DataLoader, which gives (images, labels) pairs itself, got "
            f"{type(images).__name__} as images"
        )
    for item in images:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(
                f"images: expected a DataLoader of (images, labels) pairs, got {type(item).__name__}"
            )
        yield item[0], item[1]


def image_tensor(images: Any) -> torch.Tensor:
    """A float32 tensor of at least one image; the pixels are not looked at."""
    import torch

    _check.refuse_masked("images", images)
    try:
        tensor = torch.as_tensor(images).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(
            f"images: expected a tensor, got {type(images).__name__}: {error}"
        ) from error
    if tensor.dtype != torch.float32:
        hint = "; divide uint8 images by 255" if tensor.dtype == torch.uint8 else ""
        raise TypeError(
            f"images: expected float32, got {str(tensor.dtype).removeprefix('torch.')}{hint}"
        )
    if tensor.ndim < 2:
        raise ValueError(f"images: expected shape (N, C, H, W), got {tuple(tensor.shape)}")
    if tensor.shape[0] == 0 or tensor[0].numel() == 0:
        raise ValueError(
            f"images: expected at least one image with at least one pixel, got shape {tuple(tensor.shape)}"
        )
    return tensor


def checked_images(images: Any) -> torch.Tensor:
    """A tensor of at least one finite image; pixels outside [0, 1] are warned of."""
    import torch

    tensor = image_tensor(images)
    finite = torch.isfinite(tensor).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        first = int((~finite).nonzero()[0])
        raise ValueError(
            f"images: expected finite pixels, got NaN or infinity in {bad} images, first in image {first}"
        )
    low, high = float(tensor.min()), float(tensor.max())
    if low < 0 or high > 1:
        warnings.warn(
            f"images: expected pixels in [0, 1], got {low:.3g} to {high:.3g}: sigma and radius are then in those units",
            stacklevel=6,
        )
    return tensor


def checked_labels(
    name: str, labels: Any, size: int, num_classes: int | None = None
) -> NDArray[np.int64]:
    """(size,) classes of at least 0, and below num_classes where that is known."""
    true = _check.int_vector(name, labels, size)
    good = (true >= 0) & (true < (np.inf if num_classes is None else num_classes))
    if not good.all():
        row = int(np.argmin(good))
        limit = "at least 0" if num_classes is None else f"values in [0, {num_classes})"
        raise ValueError(f"{name}: expected {limit}, got {true[row]} in row {row}")
    return true


def checked_ids(sample_ids: Any, size: int) -> NDArray[np.int64]:
    """(size,) whole numbers, at least 0, each once; None: 0, ..., size - 1."""
    if sample_ids is None:
        return np.arange(size, dtype=np.int64)
    ids = _distinct(sample_ids)
    if len(_first(ids, size)) != len(ids):
        raise ValueError(f"sample_ids: expected {size} entries, one an image, got {len(ids)}")
    return ids


def _first(ids: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    if len(ids) < size:
        raise ValueError(
            f"sample_ids: expected one entry an image, got {len(ids)} for at least {size}"
        )
    return ids[:size]


def _distinct(sample_ids: Any) -> NDArray[np.int64]:
    """Whole numbers, each once: two samples of one number would get the same noise."""
    ids = _check.int_vector("sample_ids", sample_ids)
    if ids.size and int(ids.min()) < 0:
        raise ValueError(f"sample_ids: expected at least 0, got {int(ids.min())}")
    unique, counts = np.unique(ids, return_counts=True)
    if unique.size != ids.size:
        most = int(counts.argmax())
        raise ValueError(
            f"sample_ids: expected each number once, as it names the sample's noise, got {unique[most]} {counts[most]} times"
        )
    return ids


def warn_near_chance(
    who: str,
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    num_classes: int,
    what: str = "images",
    fewest: int = 30,
) -> None:
    """Warns where predictions are as right as guesses: wrong labels or weights show here, and not after hours.

    Warns:
        UserWarning: of ``fewest`` samples or more (with fewer it is no news), not more are right than 1/K and three standard
            deviations.
    """
    accuracy, chance = float((labels == predicted).mean()), 1 / num_classes
    if near_chance(accuracy, chance, len(labels)) and len(labels) >= fewest:
        warnings.warn(
            f"{who} is right on {accuracy:.1%} of {len(labels)} {what}, near chance for {num_classes} classes: wrong label "
            "order, wrong weights, or a normalisation that is not inside the model?",
            stacklevel=4,
        )


def near_chance(accuracy: float, chance: float, size: int) -> bool:
    """Whether an accuracy on so many samples is at most three standard deviations above chance."""
    return accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / size)
