# SPDX-License-Identifier: MIT
"""Every row of certificates under attack: its interval, and how far correctness and confidence can come apart."""

from __future__ import annotations

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


def shifts(radii: NDArray[np.float64], sigma: float | None) -> NDArray[np.float64]:
    """Radii over sigma, rounded up by more than half a step of the radius; nan where there is no sigma.

    One rounded to nearest could certify a little too much. The second step is for the radius itself: 0.3 as a float64 lies
    below three tenths, and what is said of radius 0.3 has to hold for three tenths.
    """
    up = np.nextafter(np.nextafter(radii / np.float64(sigma or np.nan), np.inf), np.inf)
    return np.where(radii > 0, up, 0.0)
