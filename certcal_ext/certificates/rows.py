# SPDX-License-Identifier: MIT
"""Every row of certificates under attack: its interval, and how far correctness and confidence can come apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RowBounds:
    """Every sample under attacks of one radius.

    Attributes:
        radius: l2 radius, in pixel units.
        certified: (N,) bool, whether the prediction is certified.
        lower: (N,) lower ends of the confidence in the row's class under attack, for uncertified samples too.
        upper: (N,) upper ends.
        gap: (N,) the largest possible abs(correctness - confidence), whatever class an attack makes of the sample; None
            without labels.
    """

    radius: float
    certified: NDArray[np.bool_]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    gap: NDArray[np.float64] | None


def largest_gap(
    correct: NDArray[np.uint8],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    image: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]],
    top: bool,
) -> NDArray[np.float64]:
    """(N,) the largest abs(correctness - confidence) that an attack can reach, whatever class it makes the prediction.

    Let A be the row's class, with confidence z in [lower, upper]. While the prediction is A the gap is 1 - z (right) or z
    (wrong). Another class B has at most 1 - z, and if A is right then B is wrong, with a gap of at most 1 - z. If A is
    wrong, B may be right, with a confidence of at least z where the prediction is the class of highest confidence, and of
    at least 0 where it is not.

    Args:
        correct: (N,) whether A is right.
        lower: (N,) lower ends of z.
        upper: (N,) upper ends of z.
        image: outward images, (rounded down, rounded up), of confidences under the recalibration map.
        top: whether the prediction is the class of highest confidence (votes), or is chosen otherwise (scores).

    Returns:
        The gaps, rounded up.
    """
    other = image(np.minimum(np.nextafter(1.0 - lower, 2.0), 1.0))[1]  # of another class, at most
    stays_right = np.nextafter(1.0 - image(lower)[0], 2.0)
    turns_right = stays_right if top else np.ones_like(lower)
    wrong = np.maximum(image(upper)[1], turns_right)
    return np.minimum(np.maximum(np.where(correct != 0, stays_right, wrong), other), 1.0)
