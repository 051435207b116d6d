# SPDX-License-Identifier: MIT
"""Gaussian noise that is a pure function of (seed, sample, draw, element)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from certcal_ext import _check, _tensors
from certcal_ext._load import core
from certcal_ext._threads import num_threads

MAX_SEED = 2**64 - 1
MAX_DRAWS = 2**32

#: What noise can be written in; NumPy has the first two.
PRECISIONS = ("float32", "float16", "bfloat16")


def add_noise(
    x: Any,
    sigma: float,
    seed: int = 0,
    sample_ids: Any = None,
    draws: range = range(1),
    dtype: Any = None,
) -> Any:
    """Adds Gaussian noise: ``out[b, d] = x[b] + sigma * z(seed, sample_ids[b], draws[d])``.

    Each draw comes from Philox4x32-10 with counter (element block, draw, sample id) and key ``seed``, through a Box-Muller
    transform of IEEE-fixed operations. It does not depend on batch size, device, threads, or on which draws were taken
    before, so any draw of any certificate can be replayed. The result is not clipped.

    In half precision the float32 result is rounded to nearest even once more, which is then part of the base classifier:
    the certificate holds for the model after that rounding.

    Args:
        x: (B, ...) float32 array or tensor (CPU or CUDA), at least one axis after the first; not changed.
        sigma: standard deviation, in units of x; finite and at least 0. It is rounded to float32, see ``drawn_sigma``.
        seed: 0 to 2^64 - 1.
        sample_ids: (B,) integers, at least 0, that name the samples; by default their positions 0, ..., B - 1. Equal ids
            get equal noise.
        draws: a ``range`` with step 1 within [0, 2^32).
        dtype: of the result: float32 (also None), float16 or bfloat16, a dtype of NumPy or torch or its name; bfloat16 for
            tensors only.

    Returns:
        (B, len(draws), ...) of ``dtype``, of the kind of ``x`` and on its device. Row-major, but where x is a (B, C, H, W)
        tensor in channels_last memory each draw is so too, and with it ``out.flatten(0, 1)``; the numbers are the same.

    Raises:
        TypeError: x is not float32, another dtype asked for, or an argument of the wrong kind.
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
    channels = interleaved_channels(x)
    images = _tensors.prepared("x", in_memory_order(x, channels), ("float32",))
    if images.ndim < 2:
        raise ValueError(
            f"x: expected shape (B, ...) with at least two axes, got {tuple(images.shape)}"
        )
    precision = _precision(dtype, images)
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
    out = _tensors.empty_like_place(images, (batch, len(draws), *images.shape[1:]), precision)
    elements = int(np.prod(images.shape[1:]))
    write_noise(
        images.reshape(batch, elements),
        deviation,
        key,
        ids,
        draws.start,
        out.reshape(batch, len(draws), elements),
        channels,
    )
    return out if channels == 1 else out.movedim(-1, 2)


def write_noise(
    images: Any,
    sigma: float,
    seed: int,
    sample_ids: Any,
    first_draw: int,
    out: Any,
    channels: int = 1,
    draw_offset: Any = None,
) -> None:
    """The same without checks, into ``out`` (B, D, E) from ``images`` (B, E) on one device.

    Both are in the order of memory: rows of ``channels`` interleaved values, or row-major where that is 1.

    ``draw_offset``, (1,) int64 on that device, is added to ``first_draw``. A GPU reads it when the kernel runs, so that a
    captured graph can be replayed for other draws; draws outside of [0, 2^32) are an error on the CPU and NaN on a GPU.
    """
    core.add_noise(
        _tensors.handed_over(images),
        _tensors.handed_over(out),
        sigma,
        seed,
        _tensors.handed_over(sample_ids),
        first_draw,
        threads=num_threads(),
        stream=_tensors.current_stream(images),
        channels=channels,
        draw_offset=_tensors.handed_over(draw_offset),
    )


def drawn_sigma(sigma: Any) -> float:
    """The standard deviation that noise is drawn with: the float32 next to ``sigma``.

    A certificate speaks of the noise that was drawn. With 0.12 that has a deviation of 0.119999997, so a radius in
    units of 0.12 would be too large in its eighth digit.

    Raises:
        TypeError: no number.
        ValueError: not above 0, or too small or too large for float32.

    Example:
        >>> drawn_sigma(0.12)
        0.11999999731779099
    """
    given = _check.positive_number("sigma", sigma)
    with np.errstate(over="ignore"):
        drawn = float(np.float32(given))
    if not np.finfo(np.float32).tiny <= drawn < np.inf:
        raise ValueError(f"sigma: expected a number that float32 has, got {sigma}")
    return drawn


def interleaved_channels(x: Any) -> int:
    """C where x is a (B, C, H, W) tensor in channels_last memory, and 1 where it is anything else."""
    if not _tensors.is_tensor(x) or x.ndim != 4 or x.is_contiguous():
        return 1
    channels_last = sys.modules["torch"].channels_last
    return int(x.shape[1]) if x.is_contiguous(memory_format=channels_last) else 1


def in_memory_order(x: Any, channels: int) -> Any:
    """``x`` itself, or with its channels moved to the end where they are interleaved."""
    return x if channels == 1 else x.movedim(1, -1)


def _precision(dtype: Any, images: Any) -> str:
    """The name of the dtype of the result."""
    if dtype is None:
        return "float32"
    names = PRECISIONS if _tensors.is_tensor(images) else PRECISIONS[:2]
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None)
    if name is None:
        name = _check.shown(dtype) if isinstance(dtype, int) else str(dtype)
    name = name.removeprefix("torch.")
    if name not in names:
        kind = "tensor" if _tensors.is_tensor(images) else "NumPy array"
        raise TypeError(
            f"dtype: expected {' or '.join(names)} for a {kind}, got {_check.shown(dtype)}"
        )
    return name
