# SPDX-License-Identifier: MIT
"""Models of other libraries as certcal takes them: images in [0, 1] in, logits out, all the rest inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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

#: Steps that some processors have and this module has not: attribute, and the values at which it does nothing.
_NOT_MODELLED: dict[str, tuple[Any, ...]] = {
    "crop_pct": (None, 1, 1.0),
    "include_top": (None, False),
    "do_flip_channel_order": (None, False),
    "rescale_offset": (None, False),
    "offset": (None, False),
    "do_pad": (None, False),
    "do_thumbnail": (None, False),
    "do_align_long_axis": (None, False),
    "do_crop_margin": (None, False),
    "do_random_crop": (None, False),
    "do_image_splitting": (None, False),
    "do_color_quantize": (None, False),
    "do_grayscale": (None, False),
}
_WAY_OUT = "do what it does in a module of your own, in front of the model"

#: Processors resize whole numbers and round twice, by half a 255th each; the rest is for the filters.
_ROUNDING = 3.0 / 255.0


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
        return _logits(self.model(self.prepared(images)))

    def prepared(self, images: torch.Tensor) -> torch.Tensor:
        """What the model itself is given of images (B, C, H, W) in [0, 1]."""
        prepared: torch.Tensor = self.normalise(self._cropped(self._resized(images)))
        return prepared

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

    Steps that are not modelled are refused by name. A processor that can be called is compared with the module, on random
    images of three shapes, and refused where they differ by more than the rounding of pixels: what a model gets is then what
    its processor would have given it.

    Args:
        model: returns an object with ``logits``, such as ``AutoModelForImageClassification`` gives.
        processor: has ``image_mean`` and ``image_std`` and, where they apply, ``do_normalize``, ``do_resize``, ``size``
            (``{"height": ..., "width": ...}`` or ``{"shortest_edge": ...}``), ``resample``, ``do_center_crop`` and
            ``crop_size``; or has such an object as ``image_processor``; None: the model takes images in [0, 1] as they are.

    Returns:
        The module, in evaluation mode.

    Raises:
        TypeError: ``model`` is no ``torch.nn.Module``.
        ValueError: a size or filter that is not known, a step that is not modelled, or a processor that gives something else
            than the module, or that fails on an image.

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
    processor = getattr(processor, "image_processor", processor)
    _require_modelled(processor)
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
        if size is not None and (size[0] < crop[0] or size[1] < crop[1]):
            raise ValueError(
                f"processor: crop_size: expected at most the size {size} that images are brought to, got {crop}"
            )
    number = getattr(processor, "resample", 2)
    number = 2 if number is None else int(number)
    if size is not None and number not in _FILTERS:
        raise ValueError(
            f"processor: resample: expected one of {', '.join(map(str, _FILTERS))}, got {number}"
        )
    mode = _FILTERS.get(number, "bilinear")
    made = HuggingFaceClassifier(model, mean, deviation, size, shortest, crop, mode).eval()
    if callable(processor):
        _require_same(processor, made)
    return made


def _require_modelled(processor: Any) -> None:
    if getattr(processor, "do_rescale", True) is False:
        raise ValueError(
            "processor: expected one that scales pixels to [0, 1] (do_rescale), as certcal's images are"
        )
    factor = getattr(processor, "rescale_factor", None)
    if factor is not None and abs(factor * 255 - 1) > 1e-6:
        raise ValueError(f"processor: rescale_factor: expected 1/255, got {factor}")
    for name, idle in _NOT_MODELLED.items():
        value = getattr(processor, name, None)
        if name == "crop_pct" and not getattr(processor, "do_resize", True):
            continue  # it is of the resizing
        if value not in idle:
            raise ValueError(
                f"processor: {name} = {value!r} is a step that is not modelled; {_WAY_OUT}"
            )


def _require_same(processor: Any, made: HuggingFaceClassifier) -> None:
    """Raises where a processor gives something else than the module, on random images of other shapes."""
    random = np.random.default_rng(0)
    side = max((*(made.size or (64, 64)), *(made.crop or (1, 1))))
    shapes = [(side + side // 3, side + side // 3), (side + side // 8, 2 * side)]
    if made.size is not None:
        shapes.append((max(side // 3, 1), max(side // 3, 1)))
    for height, width in shapes:
        # Away from 0 and 255, so that a filter that overshoots is not cut off.
        image = random.integers(64, 192, (height, width, 3), dtype=np.uint8)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            wanted = made.prepared(pixels)
        try:
            given = processor([image], return_tensors="pt")["pixel_values"]
            given = torch.as_tensor(given[0] if isinstance(given, list) else given).float()
            given = given.reshape(1, *given.shape[-3:])
        except Exception as error:
            raise ValueError(
                f"processor: it was to be compared on an image of {height} x {width}, and failed: {error}"
            ) from error
        words = (
            f"processor: on an image of {height} x {width} pixels {type(processor).__name__} gives"
        )
        if given.shape != wanted.shape:
            raise ValueError(
                f"{words} the shape {tuple(given.shape[1:])}, and its attributes say {tuple(wanted.shape[1:])}; {_WAY_OUT}"
            )
        units = getattr(made.normalise, "deviation", torch.ones(1)).min()
        apart = (given - wanted).abs()
        if not bool((apart <= _ROUNDING / units).all()):
            raise ValueError(
                f"{words} other pixels than its attributes say (mean difference {float(apart.mean()):.2g}); {_WAY_OUT}"
            )


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
