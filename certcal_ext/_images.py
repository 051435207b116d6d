# SPDX-License-Identifier: MIT
"""What comes in to be certified, a tensor or a loader, checked and cut into groups."""

from __future__ import annotations

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
class Part:
    """Some samples of the data set, checked."""

    images: torch.Tensor  # (G, C, H, W) float32
    labels: NDArray[np.int64] | None  # (G,)
    ids: NDArray[np.int64]  # (G,)


def parts(
    images: Any, labels: Any, sample_ids: Any, num_classes: int, group_size: int
) -> Iterator[Part]:
    """Cuts a tensor, or each batch of a loader, into groups."""
    start = 0
    if sample_ids is not None:
        require_distinct(_check.int_vector("sample_ids", sample_ids))
    for batch, true in _batches(images, labels):
        tensor = checked_images(batch)
        size = tensor.shape[0]
        checked = None if true is None else checked_labels(true, size, num_classes)
        ids = np.arange(start, start + size, dtype=np.int64)
        if sample_ids is not None:
            ids = _sliced_ids(sample_ids, start, size)
        start += size
        for first in range(0, size, group_size):
            group = slice(first, first + group_size)
            yield Part(tensor[group], None if checked is None else checked[group], ids[group])
    if sample_ids is not None and len(sample_ids) != start:
        raise ValueError(
            f"sample_ids: expected {start} entries, one an image, got {len(sample_ids)}"
        )


def known_size(images: Any) -> int | None:
    """How many images there are, where that can be told before they are read."""
    try:
        return len(images.dataset if hasattr(images, "dataset") else images)
    except TypeError:
        return None


def _batches(images: Any, labels: Any) -> Iterator[tuple[Any, Any]]:
    import torch

    if isinstance(images, (torch.Tensor, np.ndarray)):
        yield images, labels
        return
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
            stacklevel=5,
        )
    return tensor


def checked_labels(labels: Any, size: int, num_classes: int) -> NDArray[np.int64]:
    """(size,) classes in [0, num_classes)."""
    true = _check.int_vector("labels", labels, size)
    good = (true >= 0) & (true < num_classes)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"labels: expected values in [0, {num_classes}), got {true[row]} in row {row}"
        )
    return true


def checked_ids(sample_ids: Any, size: int) -> NDArray[np.int64]:
    """(size,) whole numbers, at least 0, each once."""
    ids = _sliced_ids(sample_ids, 0, size)
    if len(sample_ids) != size:
        raise ValueError(
            f"sample_ids: expected {size} entries, one an image, got {len(sample_ids)}"
        )
    require_distinct(ids)
    return ids


def require_distinct(ids: NDArray[np.int64]) -> None:
    """Refuses numbers that name two samples the same: both would get the same noise.

    Raises:
        ValueError: a number comes more than once.
    """
    unique, counts = np.unique(ids, return_counts=True)
    if unique.size != ids.size:
        most = int(counts.argmax())
        raise ValueError(
            f"sample_ids: expected each number once, as it names the sample's noise, got {unique[most]} {counts[most]} times"
        )


def _sliced_ids(sample_ids: Any, start: int, size: int) -> NDArray[np.int64]:
    ids = _check.int_vector("sample_ids", sample_ids)[start : start + size]
    if len(ids) != size:
        raise ValueError(
            f"sample_ids: expected one entry an image, got {len(sample_ids)} for at least {start + size}"
        )
    if ids.size and int(ids.min()) < 0:
        raise ValueError(f"sample_ids: expected at least 0, got {int(ids.min())}")
    return ids
