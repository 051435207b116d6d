# SPDX-License-Identifier: MIT
"""The demonstration's network and its training with Gaussian noise (Cohen et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

_MEAN, _DEVIATION = 0.3053, 0.3761  # of the pixels of the digits


class DigitsNetwork(nn.Module):
    """Two convolutions and two linear layers: (B, 1, 8, 8) images in [0, 1] -> (B, 10) logits.

    The normalisation is the first step of the network, so that noise and radius are in [0, 1] pixel
    units.
    """

    def __init__(self) -> None:
        """Draws the weights from torch's global generator."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, 10) of images (B, 1, 8, 8) in [0, 1], noise on top allowed."""
        logits: torch.Tensor = self.layers((images - _MEAN) / _DEVIATION)
        return logits


def train(
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    sigma: float,
    epochs: int,
    seed: int,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> DigitsNetwork:
    """Trains a network on noisy images; the same numbers on every run and for any thread setting.

    Cross-entropy at x + sigma * normal, one fresh draw an image and epoch, AdamW with a one-cycle
    step size. Runs on one thread with its own generator; torch's generator, thread count and
    algorithm setting come back as they were.

    Args:
        images: (N, 1, 8, 8) float32 in [0, 1].
        labels: (N,) int64 in 0..9.
        sigma: standard deviation of the noise in pixel units, >= 0.
        epochs: passes over the data, >= 1.
        seed: seed of weights, order and noise.
        batch_size: images a step.
        progress: called as progress(epochs done, epochs) after each epoch.

    Returns:
        The network in eval mode.
    """
    with _reproducible(seed):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.from_numpy(images), torch.from_numpy(labels)
        network = DigitsNetwork()
        steps = epochs * -(-len(x) // batch_size)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
        for epoch in range(epochs):
            for rows in torch.split(torch.randperm(len(x), generator=generator), batch_size):
                clean = x[rows]
                noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
                loss = nn.functional.cross_entropy(network(noisy), y[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
            if progress is not None:
                progress(epoch + 1, epochs)
    return network.eval()


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Deterministic algorithms, one thread, a seeded generator; all restored afterwards."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]), one_thread():
        try:
            torch.use_deterministic_algorithms(True)
            torch.manual_seed(seed)
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread, and gives the caller's number back afterwards.

    A network this small gains little from a second thread, and on a busy machine the threads spend
    most of the time waiting for each other.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)
