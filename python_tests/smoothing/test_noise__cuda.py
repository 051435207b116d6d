# SPDX-License-Identifier: MIT
"""Noise on a CUDA device in every dtype and layout, against the CPU, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from on_cuda import ON_DEVICE, Launches, core, cuda, on_device

from certcal_ext import add_noise
from certcal_ext.smoothing import torch_ops

pytestmark = ON_DEVICE

NOISE_DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WORDS = {2: torch.int16, 4: torch.int32}


# Pixels by channels: every vector width, what is left over, and channels without a kernel of their own.
@pytest.mark.parametrize("dtype", NOISE_DTYPES)
@pytest.mark.parametrize(
    ("pixels", "channels"),
    [
        *((1, 1), (4, 1), (8, 1), (257, 1), (1024, 1)),
        *((0, 3), (1, 3), (4, 3), (8, 3), (31, 3), (257, 3), (1024, 3), (50_176, 3), (50_177, 3)),
        *((64, 2), (64, 4), (9, 700)),
    ],
)
@pytest.mark.parametrize("draws", [1, 9])
@pytest.mark.parametrize("offset", [0, 1, 8])
def test_noise_of_every_dtype_and_layout_has_the_bits_of_the_cpu(
    pixels: int, channels: int, dtype: Any, draws: int, offset: int
) -> None:
    elements = pixels * channels
    images = np.random.default_rng(elements).random((2, elements), np.float32)
    images[:, ::7] *= np.float32(1e-7)  # subnormal in float16
    images[:, 3::11] *= np.float32(7e4)  # near and beyond its largest value
    ids = np.array([3, 2**40], np.int64)
    expected = torch.empty(2, draws, elements, dtype=dtype)
    core.add_noise(images, expected, 0.25, 99, ids, 5, channels=channels)
    storage = torch.full((offset + expected.numel() + 8,), 9.0, device="cuda", dtype=dtype)
    out = storage[offset : offset + expected.numel()].view(expected.shape)
    with Launches(cuda.current_stream(), images, ids) as (handle, device):
        core.add_noise(device[0], out, 0.25, 99, device[1], 5, stream=handle, channels=channels)
    words = WORDS[out.element_size()]
    assert torch.equal(out.cpu().view(words), expected.view(words))
    assert bool((storage[:offset] == 9.0).all())
    assert bool((storage[offset + expected.numel() :] == 9.0).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_is_rounded_as_on_the_cpu(dtype: Any) -> None:
    """Sigma 0 gives the image back: floats of every exponent, ties and their neighbours."""
    upper = np.arange(1, 0x7F80, dtype=np.uint32)[:, None] << 16
    lower = np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF], "u4")
    values = (upper | lower).reshape(1, -1).view(np.float32)
    for image in (values, -values):
        source = on_device(image)
        out = torch.empty(1, 1, image.size, dtype=dtype, device="cuda")
        core.add_noise(source, out, 0.0, 0, on_device(np.array([0], np.int64)), 0)
        expected = torch.from_numpy(image).to(dtype)
        assert torch.equal(out.cpu().view(torch.int16).flatten(), expected.view(torch.int16)[0])


@pytest.mark.parametrize("dtype", NOISE_DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_public_noise_and_operators_on_the_device(dtype: Any, layout: Any) -> None:
    x = torch.rand(3, 3, 32, 32).contiguous(memory_format=layout)
    expected = add_noise(x, 0.25, draws=range(9), dtype=dtype)
    device = x.cuda(), torch.arange(3, device="cuda")
    for noisy in (
        add_noise(device[0], 0.25, draws=range(9), dtype=dtype),
        torch_ops.add_noise(device[0], 0.25, sample_ids=device[1], draws=range(9), dtype=dtype),
    ):
        assert torch.equal(noisy.cpu(), expected)
        assert noisy.stride() == expected.stride()
    logits = torch.randn(3, 33, 10)
    for got, want in zip(
        (*torch_ops.count_votes(logits.cuda()), *torch_ops.score_histogram(logits.cuda())),
        (*torch_ops.count_votes(logits), *torch_ops.score_histogram(logits)),
        strict=True,
    ):
        assert torch.equal(got.cpu(), want)
