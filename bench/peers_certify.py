# SPDX-License-Identifier: MIT
"""Whole certifications against the bare forward passes and against the classic loop, with the same model and precision.

The bare forward pass is the model alone, as often and on as many images as a certification needs. The classic loop is the
one of Cohen, Rosenfeld and Kolter: an image at a time is repeated, noise is drawn and added, the predictions go to the host
and are counted there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from harness import paired
from numpy.typing import NDArray
from peers_common import SIGMA, Bench, cuda
from scipy.stats import beta
from torch import nn

import certcal_ext as cc

ALPHA = 1e-3


# ---- two models as in the literature; their weights are random, which costs the same ---------------------------------


class Residual(nn.Module):
    """x + body(x), where the shape of x is changed if need be."""

    def __init__(self, body: list[nn.Module], before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else convolution(before, after, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def convolution(before: int, after: int, size: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(after))


def basic_block(before: int, after: int, stride: int) -> nn.Module:
    body = [convolution(before, after, 3, stride), nn.ReLU(), convolution(after, after, 3)]
    return Residual(body, before, after, stride)


def bottleneck(before: int, width: int, stride: int) -> nn.Module:
    body = [
        convolution(before, width, 1), nn.ReLU(),
        convolution(width, width, 3, stride), nn.ReLU(),
        convolution(width, 4 * width, 1),
    ]  # fmt: skip
    return Residual(body, before, 4 * width, stride)


def head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def resnet50(width: int = 64, blocks: tuple[int, ...] = (3, 4, 6, 3)) -> nn.Module:
    """He et al. (2016), table 1, with the stride in the 3x3 convolution; 1000 classes."""
    layers: list[nn.Module] = [convolution(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(bottleneck(channels, width * 2**stage, stride))
            channels = 4 * width * 2**stage
    return nn.Sequential(*layers, *head(channels, 1000))


def cifar_resnet(depth: int = 110) -> nn.Module:
    """He et al. (2016), section 4.2, with projections as shortcuts; 10 classes."""
    layers: list[nn.Module] = [convolution(3, 16, 3), nn.ReLU()]
    channels = 16
    for stage in range(3):
        for block in range((depth - 2) // 6):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(basic_block(channels, 16 * 2**stage, stride))
            channels = 16 * 2**stage
    return nn.Sequential(*layers, *head(channels, 10))


# ---- one certification, three ways -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What is certified: samples x (n0 + n) noisy images of some model.

    Attributes:
        overhead: most of the bare forward pass that a certification may take on top, or None without a goal.
        faster: how many times as fast as the classic loop it should be, or None.
    """

    name: str
    make_model: Callable[[], nn.Module]
    pixels: int
    classes: int
    dtype: torch.dtype
    samples: int
    n0: int
    n: int
    batch: int
    classic_batch: int
    overhead: float | None
    faster: float | None


SETTINGS = (
    Setting(
        "ResNet-50 class, bfloat16, 224 px, channels_last",
        resnet50, 224, 1000, torch.bfloat16, 4, 256, 4096, 256, 256, 0.03, 1.3,
    ),
    Setting(
        "CIFAR ResNet-110, float32, 32 px, channels_last",
        cifar_resnet, 32, 10, torch.float32, 4, 1000, 20_000, 1000, 1000, None, 3.0,
    ),
)  # fmt: skip


def classic_counts(
    model: nn.Module, image: torch.Tensor, classes: int, draws: int, batch: int
) -> NDArray[np.int64]:
    counts = np.zeros(classes, dtype=np.int64)
    with torch.no_grad():
        while draws > 0:
            size = min(batch, draws)
            draws -= size
            images = image.repeat((size, 1, 1, 1))
            noise = torch.randn_like(images) * SIGMA
            for prediction in model(images + noise).argmax(1).cpu().numpy():
                counts[prediction] += 1
    return counts


def classic_loop(
    model: nn.Module, images: torch.Tensor, setting: Setting
) -> list[tuple[int, int, float]]:
    """Of each image the class, its votes and the lower bound on its probability."""
    found = []
    s = setting
    for image in images:
        chosen = int(classic_counts(model, image, s.classes, s.n0, s.classic_batch).argmax())
        votes = int(classic_counts(model, image, s.classes, s.n, s.classic_batch)[chosen])
        lower = float(beta.ppf(ALPHA, votes, s.n - votes + 1)) if votes else 0.0
        found.append((chosen, votes, lower))
    return found


def bare_passes(model: nn.Module, batch: torch.Tensor, setting: Setting) -> None:
    images = setting.samples * (setting.n0 + setting.n)
    with torch.no_grad():
        for first in range(0, images, setting.batch):
            model(batch[: min(setting.batch, images - first)])


def certification(bench: Bench, setting: Setting, device: str) -> None:
    """Adds the two rows of a setting."""
    torch.manual_seed(0)
    model: Any = setting.make_model().eval().to(device, setting.dtype)
    model = model.to(memory_format=torch.channels_last)
    images = torch.rand(setting.samples, 3, setting.pixels, setting.pixels, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    given = images.to(setting.dtype)
    batch = given[:1].repeat((setting.batch, 1, 1, 1))
    batch = batch.contiguous(memory_format=torch.channels_last)
    smooth = cc.SmoothedClassifier(model, setting.classes, SIGMA)

    def finished(run: Callable[[], Any]) -> Any:
        result = run()
        if device == "cuda":
            cuda.synchronize()
        return result

    def ours() -> Any:
        return smooth.certify(
            images, n0=setting.n0, n=setting.n, alpha=ALPHA, batch_size=setting.batch
        )

    def bare() -> None:
        bare_passes(model, batch, setting)

    def classic() -> list[tuple[int, int, float]]:
        return classic_loop(model, given, setting)

    check(finished(ours), finished(classic), setting)
    name, runs = f"certification, {setting.name}", bench.runs(5)
    pair = paired(lambda: finished(ours), lambda: finished(bare), runs)
    goal = None if setting.overhead is None else 1 / (1 + setting.overhead)
    draws: dict[str, Any] = {
        "images": setting.samples * (setting.n0 + setting.n),
        "batch": setting.batch,
    }
    bench.add(name, "the bare forward pass", pair, goal, **draws)
    pair = paired(lambda: finished(ours), lambda: finished(classic), runs)
    bench.add(name, "the classic loop", pair, setting.faster, **draws)


def check(ours: cc.Certificates, classic: list[tuple[int, int, float]], setting: Setting) -> None:
    """Both count votes of one distribution: shares within six standard errors, where both chose one class."""
    predictions, votes = (ours.table[name].to_numpy() for name in ("predicted", "votes"))
    compared = 0
    for row, (chosen, count, _) in enumerate(classic):
        if predictions[row] == chosen:
            compared += 1
            error = abs(int(votes[row]) - count) / setting.n
            assert error < 6 / (2 * setting.n) ** 0.5, (row, int(votes[row]), count)
    assert compared > 0, "the two ways chose different classes for every image"


def cuda_certification(bench: Bench) -> None:
    for setting in SETTINGS:
        certification(bench, setting, "cuda")
