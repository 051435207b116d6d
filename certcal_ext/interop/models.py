# SPDX-License-Identifier: MIT
"""Models of other libraries as certcal takes them: images in [0, 1] in, logits out, all the rest inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    import torch
    from torch import nn
except ImportError as error:  # pragma: no cover
    raise ImportError('models need torch: pip install "certcal_ext[torch]"') from error

from certcal_ext import _check
from certcal_ext.nets import Normalise

__all__ = ["HuggingFaceClassifier", "Normalized", "from_hugging_face", "normalized"]

#: Numbers of Pillow's filters, as image processors store them, and what torch calls them.
_FILTERS = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}


class Normalized(nn.Module):
    """A model with its normalisation in front.

    Args:
        model: from normalised images to logits; or to an object that has them as ``logits``.
        mean: of the pixels in [0, 1], one number or one a channel.
        deviation: the same, above 0.
    """

    def __init__(self, model: nn.Module, mean: Any, deviation: Any) -> None:
        super().__init__()
        self.normalise = Normalise(mean, deviation)
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, K) logits of images (B, C, H, W) in [0, 1], noise on top allowed."""
        return _logits(self.model(self.normalise(images)))


def normalized(model: nn.Module, mean: Any, deviation: Any) -> Normalized:
    """Puts the normalisation that a model was trained with inside it.

    Noise and radius are then in the units of pixels in [0, 1], as everywhere in certcal. The transforms of timm
    (``model.pretrained_cfg``) and torchvision (``weights.transforms()``) say which mean and deviation these are; crop and
    resize images before they are certified.

    Args:
        model: from normalised images (B, C, H, W) to logits (B, K).
        mean: of the pixels, one number or one a channel.
        deviation: the same, above 0.

    Returns:
        The module.

    Raises:
        TypeError: ``model`` is no ``torch.nn.Module``.
        ValueError: a number that is not finite, a deviation that is not above 0, or lengths that differ.

    Example:
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        >>> model = normalized(inner, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        >>> model(torch.rand(5, 3, 2, 2)).shape
        torch.Size([5, 2])
    """
    _require_module(model)
    made = Normalized(model, mean, deviation)
    sizes = {made.normalise.mean.numel(), made.normalise.deviation.numel()}
    if len(sizes - {1}) > 1:
        raise ValueError(
            f"mean, deviation: expected one number a channel in both, got {sorted(sizes)}"
        )
    return made.eval()


class HuggingFaceClassifier(nn.Module):
    """An image classifier with the steps of its image processor in front.

    Args:
        model: returns an object with ``logits``.
        mean: of the pixels, or None: no normalisation.
        deviation: of the pixels.
        size: (height, width) that images are brought to, or None: they stay as they are.
        shortest: whether ``size`` is of the shorter side, and the other keeps its proportion.
        crop: (height, width) of a crop from the middle, or None.
        mode: of ``torch.nn.functional.interpolate``.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Any = None,
        deviation: Any = None,
        size: tuple[int, int] | None = None,
        shortest: bool = False,
        crop: tuple[int, int] | None = None,
        mode: str = "bilinear",
    ) -> None:
        super().__init__()
        self.model = model
        self.normalise = nn.Identity() if mean is None else Normalise(mean, deviation)
        self.size, self.shortest, self.crop, self.mode = size, shortest, crop, mode

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, K) logits of images (B, C, H, W) in [0, 1], noise on top allowed."""
        return _logits(self.model(self.normalise(self._cropped(self._resized(images)))))

    def _resized(self, images: torch.Tensor) -> torch.Tensor:
        if self.size is None:
            return images
        height, width = images.shape[-2:]
        wanted = self.size
        if self.shortest:
            least = min(height, width)
            wanted = (height * self.size[0] // least, width * self.size[0] // least)
        if wanted == (height, width):
            return images
        smooth = self.mode in ("bilinear", "bicubic")
        return nn.functional.interpolate(images, wanted, mode=self.mode, antialias=smooth)

    def _cropped(self, images: torch.Tensor) -> torch.Tensor:
        if self.crop is None:
            return images
        height, width = images.shape[-2:]
        if height < self.crop[0] or width < self.crop[1]:
            raise ValueError(
                f"images: expected at least {self.crop[0]} x {self.crop[1]} pixels before the crop, "
                f"got {height} x {width}"
            )
        top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
        return images[..., top : top + self.crop[0], left : left + self.crop[1]]


def from_hugging_face(model: nn.Module, processor: Any = None) -> HuggingFaceClassifier:
    """An image classifier of the transformers library, with what its image processor does inside the model.

    Resizing, cropping from the middle and normalisation move into the model, so that noise and radius are those of the
    image as it is given: (B, C, H, W), pixels in [0, 1]. The library is not imported: any object with these attributes will
    do. Note that the noise is resized too: certify images at the resolution that an attacker changes.

    Args:
        model: returns an object with ``logits``, such as ``AutoModelForImageClassification`` gives.
        processor: has ``image_mean`` and ``image_std`` and, where they apply, ``do_normalize``, ``do_resize``, ``size``
            (``{"height": ..., "width": ...}`` or ``{"shortest_edge": ...}``), ``resample``, ``do_center_crop`` and
            ``crop_size``; None: the model takes images in [0, 1] as they are.

    Returns:
        The module, in evaluation mode.

    Raises:
        TypeError: ``model`` is no ``torch.nn.Module``.
        ValueError: a size or filter that is not known, or a processor that does not scale pixels to [0, 1].

    Source:
        This project; attributes as in the image processors of transformers.

    Example:
        >>> from types import SimpleNamespace
        >>> class Tiny(nn.Module):
        ...     def forward(self, pixel_values):
        ...         return SimpleNamespace(logits=pixel_values.mean((2, 3)))
        >>> processor = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.25] * 3)
        >>> from_hugging_face(Tiny(), processor)(torch.full((1, 3, 4, 4), 0.75))
        tensor([[1., 1., 1.]])
    """
    _require_module(model)
    if processor is None:
        return HuggingFaceClassifier(model).eval()
    if getattr(processor, "do_rescale", True) is False:
        raise ValueError(
            "processor: expected one that scales pixels to [0, 1] (do_rescale), as certcal's images are"
        )
    mean, deviation = None, None
    if getattr(processor, "do_normalize", True):
        mean, deviation = (getattr(processor, name, None) for name in ("image_mean", "image_std"))
        if mean is None or deviation is None:
            raise ValueError("processor: expected image_mean and image_std, as it normalises")
    size, shortest = None, False
    stored = getattr(processor, "size", None)
    if getattr(processor, "do_resize", stored is not None):
        size, shortest = _size("size", stored)
    crop = None
    if getattr(processor, "do_center_crop", False):
        crop, _ = _size("crop_size", getattr(processor, "crop_size", None))
    number = getattr(processor, "resample", 2)
    number = 2 if number is None else int(number)
    if size is not None and number not in _FILTERS:
        raise ValueError(
            f"processor: resample: expected one of {', '.join(map(str, _FILTERS))}, got {number}"
        )
    mode = _FILTERS.get(number, "bilinear")
    return HuggingFaceClassifier(model, mean, deviation, size, shortest, crop, mode).eval()


def _size(name: str, stored: Any) -> tuple[tuple[int, int], bool]:
    """(height, width), and whether it is of the shorter side only."""
    if isinstance(stored, int) and not isinstance(stored, bool):
        side = _check.whole_number(f"processor.{name}", stored, 1)
        return (side, side), False
    if not isinstance(stored, Mapping) and hasattr(stored, "__dict__"):
        stored = vars(stored)
    if isinstance(stored, Mapping):
        stored = {key: value for key, value in stored.items() if value is not None}
        if {"height", "width"} <= stored.keys():
            height, width = (
                _check.whole_number(f"processor.{name}.{key}", stored[key], 1)
                for key in ("height", "width")
            )
            return (height, width), False
        if set(stored) == {"shortest_edge"}:
            side = _check.whole_number(f"processor.{name}", stored["shortest_edge"], 1)
            return (side, side), True
    raise ValueError(
        f"processor: {name}: expected height and width, or shortest_edge, got {stored!r}"
    )


def _logits(output: Any) -> torch.Tensor:
    """The logits themselves, or those of an object that has them."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor):
        raise TypeError(
            f"model: expected logits, or an object that has them, got {type(output).__name__}"
        )
    return logits


def _require_module(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
