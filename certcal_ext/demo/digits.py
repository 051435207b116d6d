# SPDX-License-Identifier: MIT
"""The embedded data set: 1,797 handwritten digits of 8 x 8 pixels (UCI, by way of scikit-learn)."""

from __future__ import annotations

from importlib import resources

import numpy as np
from numpy.typing import NDArray

_WHITE = 16


def load_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The images and labels in their original order.

    Returns:
        Images (1797, 1, 8, 8) float32 in [0, 1], exact multiples of 1/16, and labels (1797,) int64
        in 0..9.

    Example:
        >>> images, labels = load_digits()
        >>> images.shape, labels.shape
        ((1797, 1, 8, 8), (1797,))
    """
    archive = resources.files("certcal_ext.demo") / "digits.npz"
    with archive.open("rb") as file, np.load(file, allow_pickle=False) as held:
        images = held["images"].astype(np.float32) / np.float32(_WHITE)
        return images[:, None], held["labels"].astype(np.int64)
