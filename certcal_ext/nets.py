# SPDX-License-Identifier: MIT
"""Standard networks to start from: a small CNN and residual networks for images of 8 to 64 pixels.

Each takes images in [0, 1]; normalisation is its first step, so that noise and radius are in pixel units. None looks at
other images of the batch (group instead of batch normalisation): outputs are the same in training and in
evaluation mode, for every batch size and for any number of processes.
"""

from __future__ import annotations

import math
from typing import Any

try:
    import torch
    from torch import nn
except ImportError as error:  # pragma: no cover
    raise ImportError('networks need torch: pip install "certcal_ext[torch]"') from error

from certcal_ext import _check

__all__ = [
    "Normalise",
    "ResNet",
    "SmallCnn",
    "digits_cnn",
    "resnet8",
    "resnet20",
    "resnet110",
    "small_cnn",
]


class Normalise(nn.Module):
    """(x - mean) / deviation, channel by channel or with one number for all.

    Args:
        mean: one number, or one a channel.
        deviation: the same, each above 0.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, mean: Any = 0.5, deviation: Any = 0.25) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("deviation", deviation)):
            tensor = torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
            if not bool(torch.isfinite(tensor).all()) or (name != "mean" and (tensor <= 0).any()):
                raise ValueError(
                    f"{name}: expected finite numbers (deviations above 0), got {value}"
                )
            self.register_buffer(name, tensor)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) normalised images."""
        return (images - self.mean) / self.deviation


class SmallCnn(nn.Module):
    """Two strided convolutions and two linear layers.

    Args:
        channels: channels of an image.
        size: height and width of an image, at least 4.
        classes: number K of classes.
        width: channels of the first convolution; the second has twice as many.
        hidden: width of the hidden linear layer.
        mean: of the pixels, for the normalisation.
        deviation: of the pixels.

    Raises:
        TypeError: an argument that is no whole number.
        ValueError: an argument out of range.

    Example:
        >>> network = SmallCnn(channels=1, size=28, classes=10)
        >>> network(torch.zeros(2, 1, 28, 28)).shape, sum(p.numel() for p in network.parameters())
        (torch.Size([2, 10]), 52266)
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        classes: int = 10,
        *,
        width: int = 8,
        hidden: int = 64,
        mean: Any = 0.5,
        deviation: Any = 0.25,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("channels", channels, 1),
            ("size", size, 4),
            ("classes", classes, 2),
            ("width", width, 1),
            ("hidden", hidden, 1),
        ):
            _check.whole_number(name, value, least)
        side = math.ceil(math.ceil(size / 2) / 2)
        self.layers = nn.Sequential(
            Normalise(mean, deviation),
            nn.Conv2d(channels, width, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * side * side, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1], noise on top allowed."""
        logits: torch.Tensor = self.layers(images)
        return logits


class _Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False),
            _norm(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            _norm(outside),
        )
        same = stride == 1 and inside == outside
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), _norm(outside))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.first(x) + self.shortcut(x))


def _norm(channels: int) -> nn.GroupNorm:
    """Groups of at least four channels, eight at most."""
    groups = max(g for g in range(1, 9) if channels % g == 0 and (g == 1 or channels // g >= 4))
    return nn.GroupNorm(groups, channels)


class ResNet(nn.Module):
    """The residual network of CIFAR-10, 6 n + 2 layers, with group normalisation; for 28 and 32 pixels.

    Args:
        depth: 6 n + 2 layers, such as 8, 20 or 110.
        channels: channels of an image.
        classes: number K of classes.
        width: channels of the first of the three stages.
        mean: of the pixels, for the normalisation; one number or one a channel.
        deviation: of the pixels.

    Raises:
        TypeError: an argument that is no whole number.
        ValueError: an argument out of range, or another depth.

    Source:
        He et al., "Deep residual learning for image recognition" (CVPR 2016), section 4.2; Wu and He, "Group
        normalization" (ECCV 2018).

    Example:
        >>> ResNet(8, channels=3)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int = 20,
        channels: int = 3,
        classes: int = 10,
        *,
        width: int = 16,
        mean: Any = 0.5,
        deviation: Any = 0.25,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("depth", depth, 8),
            ("channels", channels, 1),
            ("classes", classes, 2),
            ("width", width, 1),
        ):
            _check.whole_number(name, value, least)
        if (depth - 2) % 6:
            raise ValueError(f"depth: expected 6 n + 2, such as 8, 20 or 110, got {depth}")
        layers: list[nn.Module] = [
            Normalise(mean, deviation),
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            _norm(width),
            nn.ReLU(),
        ]
        inside = width
        for stage in range(3):
            outside = width * 2**stage
            for block in range((depth - 2) // 6):
                layers.append(_Block(inside, outside, 2 if stage and not block else 1))
                inside = outside
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, classes)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1], noise on top allowed."""
        logits: torch.Tensor = self.layers(images)
        return logits


def small_cnn() -> SmallCnn:
    """52,266 weights for 28 x 28 grey images and 10 classes, such as Fashion-MNIST."""
    return SmallCnn(1, 28, 10, mean=0.286, deviation=0.353)


def digits_cnn() -> SmallCnn:
    """9,786 weights for the 8 x 8 digits of ``load_digits``."""
    return SmallCnn(1, 8, 10, width=12, mean=0.3053, deviation=0.3761)


def resnet8() -> ResNet:
    """8 layers for 28 x 28 grey images and 10 classes."""
    return ResNet(8, 1, 10, mean=0.286, deviation=0.353)


def resnet20() -> ResNet:
    """20 layers for 28 x 28 grey images and 10 classes."""
    return ResNet(20, 1, 10, mean=0.286, deviation=0.353)


def resnet110() -> ResNet:
    """110 layers for 32 x 32 colour images and 10 classes: the base classifier of most papers on smoothing."""
    return ResNet(110, 3, 10)
