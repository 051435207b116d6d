# SPDX-License-Identifier: MIT
"""Sums of fractions as whole numbers, so that they are exact and do not depend on the order of the samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Fixed = NDArray[np.int64]


def fraction_bits(samples: int) -> int:
    """How many bits of a fraction the terms keep, so that a sum of N of them, each at most 1, stays below 2^62.

    Terms are rounded to multiples of 2^-bits in the direction that raises the worst case, and their sums are exact: the
    result does not depend on the order of the samples and is at most 2^-bits too large.
    """
    return min(52, 62 - samples.bit_length())


def fixed_floor(values: NDArray[np.float64], bits: int) -> Fixed:
    """In units of 2^-bits, rounded down."""
    return np.floor(np.ldexp(values, bits)).astype(np.int64)


def fixed_ceil(values: NDArray[np.float64], bits: int) -> Fixed:
    """In units of 2^-bits, rounded up."""
    return np.ceil(np.ldexp(values, bits)).astype(np.int64)


def running_sums(values: Fixed) -> Fixed:
    """The sums of the first 0, 1, ..., all values."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(values)))
