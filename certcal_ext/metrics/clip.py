# SPDX-License-Identifier: MIT
"""How a model reports its confidences: rounded to its floating-point format and, in that, clipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check

#: The floating-point formats that a deployed model may clip in.
DTYPES = ("float64", "float32")

_Wide = np.longdouble
_Floats = NDArray[np.float64]
_Losses = NDArray[np.longdouble]


@dataclass(frozen=True)
class Clip:
    """How the deployed model reports a confidence z: min(max(fl(z), fl(clip)), fl(1 - clip)), in floating point.

    Where the rounded 1 - clip differs between the ways of writing it in float32, each loss is charged the costlier one.

    Attributes:
        clip: above 0 and below 0.5; None: nothing is clipped.
        dtype: "float64" or "float32", the format that is computed in.
    """

    clip: float | None = None
    dtype: str = "float64"

    @classmethod
    def of(cls, clip: Any = None, dtype: Any = "float64") -> Clip:
        """The two options, checked.

        Raises:
            TypeError: ``clip`` is no number.
            ValueError: it is out of range, or vanishes in ``dtype``; or ``dtype`` is none of ``DTYPES``.
        """
        _check.choice("dtype", dtype, DTYPES)
        if clip is None:
            return cls(None, dtype)
        limit = _check.real_number("clip", clip)
        if not 0 < limit < 0.5:
            raise ValueError(f"clip: expected a number above 0 and below 0.5, got {clip}")
        result = cls(limit, dtype)
        if not (result.least > 0 and result.most[1] < 1):
            raise ValueError(
                f"clip: expected a number that does not vanish in {dtype}, where 1 - clip is {result.most[1]:g}, got {clip}"
            )
        return result

    @property
    def least(self) -> float:
        """The smallest confidence that is reported."""
        return 0.0 if self.clip is None else float(np.dtype(self.dtype).type(self.clip))

    @property
    def most(self) -> tuple[float, float]:
        """The largest one, by the way of writing it that gives the smaller and the larger number."""
        if self.clip is None:
            return 1.0, 1.0
        kind = np.dtype(self.dtype).type
        ends = float(kind(1.0 - self.clip)), float(kind(1) - kind(self.clip))
        return min(ends), max(ends)

    def reported(self, right: NDArray[np.uint8], low: _Floats, high: _Floats) -> _Floats:
        """(N,) the reported confidence of largest loss: of right samples that for ``low``, of wrong ones for ``high``."""
        right_most, wrong_most = self.most
        chosen = right != 0
        rounded = np.where(chosen, low, high).astype(self.dtype).astype(np.float64)
        return np.clip(rounded, self.least, np.where(chosen, right_most, wrong_most))

    def losses(self, right: NDArray[np.uint8], low: _Floats, high: _Floats) -> _Losses:
        """(N,) the largest losses in nats, rounded up; infinite where they are unbounded.

        The logarithm is that of ``longdouble``, computed one by one: the vectorised one of float64 may depend on where in
        the array a number stands, and then a sum would depend on the order.
        """
        reported = self.reported(right, low, high).astype(_Wide)
        with np.errstate(divide="ignore"):
            # log1p(-u) instead of log(1 - u): 1 - u would be rounded.
            values = -np.where(right != 0, np.log(reported), np.log1p(-reported))
        # Logarithms of a C library are right to about one unit in the last place; eight are added. abs: no -0.
        return np.asarray(np.abs(values) * (1 + 8 * np.finfo(_Wide).eps))

    @property
    def largest(self) -> float:
        """The largest loss that a sample can have, rounded up; infinite where nothing is clipped."""
        ends = np.array([0.0, 1.0])
        return float(
            rounded_up_from_wide(self.losses(np.array([1, 0], np.uint8), ends, ends)).max()
        )


def rounded_up_from_wide(values: _Losses) -> _Floats:
    """Float64 at or above each value."""
    return np.nextafter(values.astype(np.float64), np.inf)
