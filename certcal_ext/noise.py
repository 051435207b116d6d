# SPDX-License-Identifier: MIT
"""Gaussian noise that is a pure function of (seed, sample, draw, element)."""

from __future__ import annotations

from typing import Any

import numpy as np

from certcal_ext import _check, _tensors
from certcal_ext._load import core
from certcal_ext._threads import num_threads

MAX_SEED = 2**64 - 1
MAX_DRAWS = 2**32


def add_noise(
    x: Any,
    sigma: float,
    seed: int = 0,
    sample_ids: Any = None,
    draws: range = range(1),
) -> Any:
    """Adds Gaussian noise: ``out[b, d] = x[b] + sigma * z(seed, sample_ids[b], draws[d])``.

    Each draw comes from Philox4x32-10 with counter (element block, draw, sample id) and key ``seed``, through a Box-Muller
    transform of IEEE-fixed operations. It does not depend on batch size, device, threads, or on which draws were taken
    before, so any draw of any certificate can be replayed. The result is not clipped.

    Args:
        x: (B, ...) float32 array or tensor (CPU or CUDA), at least one axis after the first; not changed.
        sigma: standard deviation, in units of x; finite and at least 0.
        seed: 0 to 2^64 - 1.
        sample_ids: (B,) integers, at least 0, that name the samples; by default their positions 0, ..., B - 1.
        draws: a ``range`` with step 1 within [0, 2^32).

    Returns:
        (B, len(draws), ...) float32, of the kind of ``x`` and on its device.

    Raises:
        TypeError: x is not float32, or an argument has the wrong kind.
        ValueError: an argument out of range, or of another shape.

    Source:
        Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); Cohen et al. (ICML 2019), SampleUnderNoise.

    Example:
        >>> import numpy as np
        >>> x = np.zeros((2, 1, 8, 8), dtype=np.float32)
        >>> noisy = add_noise(x, 0.25, seed=0, draws=range(0, 10))
        >>> noisy.shape
        (2, 10, 1, 8, 8)
        >>> bool((add_noise(x, 0.25, seed=0, draws=range(4, 6)) == noisy[:, 4:6]).all())
        True
    """
    images = _tensors.prepared("x", x, ("float32",))
    if images.ndim < 2:
        raise ValueError(
            f"x: expected shape (B, ...) with at least two axes, got {tuple(images.shape)}"
        )
    deviation = _check.real_number("sigma", sigma)
    if deviation < 0:
        raise ValueError(f"sigma: expected at least 0, got {sigma}")
    key = _check.whole_number("seed", seed, 0, MAX_SEED)
    if not isinstance(draws, range):
        raise TypeError(f"draws: expected a range, got {type(draws).__name__}")
    if draws.step != 1 or draws.start < 0 or max(draws.start, draws.stop) > MAX_DRAWS:
        raise ValueError(f"draws: expected a range with step 1 within [0, 2^32), got {draws}")
    batch = int(images.shape[0])
    ids = np.arange(batch) if sample_ids is None else sample_ids
    ids = _tensors.int64_vector_at("sample_ids", ids, batch, images)
    if batch and int(ids.min()) < 0:
        raise ValueError(f"sample_ids: expected at least 0, got {int(ids.min())}")
    out = _tensors.empty_like_place(images, (batch, len(draws), *images.shape[1:]), "float32")
    elements = int(np.prod(images.shape[1:]))
    write_noise(
        images.reshape(batch, elements),
        deviation,
        key,
        ids,
        draws.start,
        out.reshape(batch, len(draws), elements),
    )
    return out


def write_noise(
    images: Any, sigma: float, seed: int, sample_ids: Any, first_draw: int, out: Any
) -> None:
    """The same without checks, into ``out`` (B, D, E) from ``images`` (B, E) on one device."""
    core.add_noise(
        _tensors.handed_over(images),
        _tensors.handed_over(out),
        sigma,
        seed,
        _tensors.handed_over(sample_ids),
        first_draw,
        threads=num_threads(),
        stream=_tensors.current_stream(images),
    )
