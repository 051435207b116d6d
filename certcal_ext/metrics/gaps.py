# SPDX-License-Identifier: MIT
"""How far correctness and confidence of a sample can come apart when an attack may change its prediction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: Outward images, (rounded down, rounded up), of probabilities.
Images = Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]


def largest_gap(
    correct: NDArray[np.uint8],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    image: Images,
    top: bool,
    any_class: Images | None = None,
) -> NDArray[np.float64]:
    """(N,) the largest abs(correctness - confidence) that an attack can reach, whatever class it makes the prediction.

    Let A be the row's class, with confidence z in [lower, upper]. While the prediction is A the gap is 1 - z (right) or z
    (wrong). Another class B has at most 1 - z, and if A is right then B is wrong, with a gap of at most 1 - z. If A is
    wrong, B may be right, with a confidence of at least z where the prediction is the class of highest confidence, and of
    at least 0 where it is not.

    Args:
        correct: (N,) whether A is right.
        lower: (N,) lower ends of z; or (N, J), of J probabilities of A, the first of which is what the prediction is the
            largest of.
        upper: likewise, upper ends.
        image: outward images, (rounded down, rounded up), of confidences under the recalibration map.
        any_class: the same for a row of whichever class; None: ``image``, which does not depend on the class.
        top: whether the prediction is the class of highest confidence (votes), or is chosen otherwise (scores).

    Returns:
        The gaps, rounded up.
    """
    of_other = image if any_class is None else any_class
    other = of_other(np.minimum(np.nextafter(1.0 - lower, 2.0), 1.0))[
        1
    ]  # of another class, at most
    stays_right = np.nextafter(1.0 - image(lower)[0], 2.0)
    least = lower if lower.ndim == 1 else np.where(np.arange(lower.shape[1]) == 0, lower, 0.0)
    turns_right = np.nextafter(1.0 - of_other(least)[0], 2.0) if top else np.ones(len(lower))
    wrong = np.maximum(image(upper)[1], turns_right)
    return np.minimum(np.maximum(np.where(correct != 0, stays_right, wrong), other), 1.0)
