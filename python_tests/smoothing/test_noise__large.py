# SPDX-License-Identifier: MIT
"""More than 2^31 values in one array: places in memory are 64-bit numbers. In half precision that is 4.3 GB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from certcal_ext import _core

NEEDED_GIGABYTES = 12


def available_gigabytes() -> float:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 0.0
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) / 2**20


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_more_than_2_31_values_are_those_of_small_pieces(channels: int) -> None:
    if available_gigabytes() < NEEDED_GIGABYTES:
        pytest.skip(f"fewer than {NEEDED_GIGABYTES} GB of memory are free")
    elements = 3 * 349_527  # not a multiple of any vector
    draws = 2**31 // elements + 3
    images = np.linspace(-1, 1, elements, dtype=np.float32)[None]
    ids = np.array([2**40 + 1])
    out = np.empty((1, draws, elements), np.float16)
    assert out.size > 2**31 > out[:, :-3].size
    _core.add_noise(images, out, 0.5, 7, ids, 11, threads=2, channels=channels)
    # The first draw, those on both sides of 2^31 bytes and of 2^31 values, and the last.
    for draw in {0, 2**30 // elements, 2**30 // elements + 1, draws - 4, draws - 3, draws - 1}:
        alone = np.empty((1, 1, elements), np.float16)
        _core.add_noise(images, alone, 0.5, 7, ids, 11 + draw, channels=channels)
        np.testing.assert_array_equal(out[0, draw], alone[0, 0], err_msg=f"draw {draw}")
