# SPDX-License-Identifier: MIT
"""The demonstration from data to certificates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from certcal_ext.demo.digits import load_digits

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates

RADII = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7)
"""Radii of the printed table, l2 norm in [0, 1] pixel units."""

PAGE_RADIUS = 0.1
"""The radius of the report's headline: most images are certified there, and some of them wrong."""


@dataclass(frozen=True)
class DemoSettings:
    """What the demonstration does.

    Attributes:
        images: held-out images to certify, at least 1.
        training_images: images to train on, at least 1. Few, so that the network makes mistakes:
            one that is always right has no calibration error to speak of.
        epochs: passes over the training images.
        sigma: standard deviation of the noise, in training and in certification, [0, 1] pixel
            units.
        n0: draws an image to select its class.
        n: draws an image to estimate its confidence.
        alpha: largest probability that an image's interval fails.
        seed: seed of the split, the training and the certification.
    """

    images: int = 500
    training_images: int = 100
    epochs: int = 120
    sigma: float = 0.25
    n0: int = 100
    n: int = 10_000
    alpha: float = 1e-3
    seed: int = 0

    @classmethod
    def quick(cls, seed: int = 0) -> DemoSettings:
        """A run of a few seconds, for a first look: fewer images, draws and epochs."""
        return cls(images=60, epochs=40, n=1_000, seed=seed)


@dataclass(frozen=True)
class DemoResult:
    """What came out of it.

    Attributes:
        certificates: one row a held-out image.
        images: (N, 1, 8, 8) float32, these images in the same order.
        settings: the settings.
        clean_accuracy: share of held-out images that the network, without noise, gets right.
        seconds_training: wall time of the training.
        seconds_certifying: wall time of the certification.
    """

    certificates: Certificates
    images: NDArray[np.float32]
    settings: DemoSettings
    clean_accuracy: float
    seconds_training: float
    seconds_certifying: float


def run_demo(
    settings: DemoSettings | None = None,
    *,
    progress: bool = False,
) -> DemoResult:
    """Trains the network and certifies held-out images.

    Args:
        settings: what to do; None is ``DemoSettings()``.
        progress: whether to show on stderr how far it is.

    Returns:
        The certificates and what it took.

    Raises:
        ImportError: torch is missing.
        ValueError: a setting is out of range.

    Example:
        >>> result = run_demo(DemoSettings.quick())
        >>> len(result.certificates)
        60
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError('the demo needs torch: pip install "certcal_ext[all]"') from error
    from certcal_ext._progress import reporting
    from certcal_ext.demo.model import one_thread, train
    from certcal_ext.smoothing.classifier import SmoothedClassifier

    settings = settings or DemoSettings()
    images, labels = load_digits()
    for name in ("images", "training_images", "epochs"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name}: expected a number >= 1, got {getattr(settings, name)}")
    used = settings.images + settings.training_images
    if used > len(images):
        raise ValueError(
            f"images, training_images: expected at most {len(images)} together, got {used}"
        )
    order = np.random.Generator(np.random.PCG64(settings.seed)).permutation(len(images))
    held_out, training = np.sort(order[: settings.images]), np.sort(order[settings.images : used])

    started = time.perf_counter()
    with reporting(progress, "training", "epochs") as report:
        network = train(
            images[training],
            labels[training],
            sigma=settings.sigma,
            epochs=settings.epochs,
            seed=settings.seed,
            progress=report,
        )
    trained = time.perf_counter()
    x, y = torch.from_numpy(images[held_out]), torch.from_numpy(labels[held_out])
    with torch.inference_mode():
        clean_accuracy = float((network(x).argmax(1) == y).double().mean())
    smooth = SmoothedClassifier(network, num_classes=10, sigma=settings.sigma, seed=settings.seed)
    with one_thread():
        certificates = smooth.certify(
            x,
            y,
            n0=settings.n0,
            n=settings.n,
            alpha=settings.alpha,
            sample_ids=torch.from_numpy(held_out),
            progress=progress,
        )
    return DemoResult(
        certificates=certificates,
        images=images[held_out],
        settings=settings,
        clean_accuracy=clean_accuracy,
        seconds_training=trained - started,
        seconds_certifying=time.perf_counter() - trained,
    )
