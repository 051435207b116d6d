# SPDX-License-Identifier: MIT
"""The CUDA launchers against their CPU twins, to the bit, on the device.

The kernels' indexing, barriers and sums are also checked without a GPU, by
``csrc/tests/test_cuda_kernels.cpp``; what only this file can show is the device's own arithmetic,
memory and streams.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from on_cuda import ON_DEVICE, Array, Launches, core, cuda, on_device, on_host

SIZES = [0, 1, 31, 32, 33, 255, 256, 257, 100_003]
CLASSES = [1, 2, 3, 8, 9, 10, 33, 64, 65, 257, 1000]

pytestmark = ON_DEVICE


@pytest.fixture(params=["default stream", "own stream"])
def stream(request: pytest.FixtureRequest) -> Any:
    """The stream that a test launches on."""
    if request.param == "default stream":
        return cuda.default_stream()
    return cuda.Stream()


def noise_on_both(
    images: Array, draws: int, stream: Any, offset: int = 0, first_draw: int = 7
) -> tuple[Array, Array]:
    batch, elements = images.shape
    ids = np.arange(batch, dtype=np.int64) * (2**40) + 3
    seed = 2**63 + 12345
    expected = np.empty((batch, draws, elements), np.float32)
    core.add_noise(images, expected, 0.37, seed, ids, first_draw)
    storage = torch.full((offset + expected.size + 8,), 9.0, device="cuda")
    out = storage[offset : offset + expected.size].view(batch, draws, elements)
    with Launches(stream, images, ids) as (handle, device):
        core.add_noise(device[0], out, 0.37, seed, device[1], first_draw, stream=handle)
    assert bool((storage[:offset] == 9.0).all())
    assert bool((storage[offset + expected.size :] == 9.0).all())
    return on_host(out), expected


@pytest.mark.parametrize("elements", SIZES)
@pytest.mark.parametrize("draws", [1, 7, 8, 17])
def test_noise_has_the_bits_of_the_cpu(elements: int, draws: int, stream: Any) -> None:
    images = np.random.default_rng(elements).random((2, elements), np.float32)
    actual, expected = noise_on_both(images, draws, stream)
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("offset", [1, 2, 3, 4])
def test_noise_into_memory_of_any_alignment(offset: int) -> None:
    images = np.random.default_rng(offset).random((3, 3072), np.float32)
    actual, expected = noise_on_both(images, 9, cuda.default_stream(), offset)
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def test_noise_of_many_draws_and_at_the_end_of_the_draw_range() -> None:
    images = np.random.default_rng(0).random((1, 3072), np.float32)
    last = 2**32 - 3000
    actual, expected = noise_on_both(images, 3000, cuda.default_stream(), first_draw=last)
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def test_noise_may_be_taken_in_any_pieces() -> None:
    images = on_device(np.random.default_rng(1).random((2, 257), np.float32))
    ids = on_device(np.array([4, 5], np.int64))
    whole = torch.empty(2, 20, 257, device="cuda")
    core.add_noise(images, whole, 0.5, 3, ids, 0)
    for cut in range(21):
        for first, last in ((0, cut), (cut, 20)):
            piece = torch.empty(2, last - first, 257, device="cuda")
            core.add_noise(images, piece, 0.5, 3, ids, first)
            assert torch.equal(piece, whole[:, first:last])


def test_noise_beyond_two_to_the_31_elements() -> None:
    draws, elements = 2**18 + 5, 2**13
    needed = draws * elements * 4 + 2**30
    if cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free device memory")
    images = np.random.default_rng(2).random((1, elements), np.float32)
    ids = np.array([1], np.int64)
    out = torch.empty(1, draws, elements, device="cuda")
    core.add_noise(on_device(images), out, 1.0, 0, on_device(ids), 0)
    for first in (0, 2**18 - 2, draws - 3):
        expected = np.empty((1, 3, elements), np.float32)
        core.add_noise(images, expected, 1.0, 0, ids, first)
        np.testing.assert_array_equal(on_host(out[:, first : first + 3]), expected)


def random_logits(batch: int, draws: int, classes: int, dtype: str) -> Array:
    """Multiples of 1/8, so that ties are common; some rows with NaN or infinity, some with both."""
    rng = np.random.default_rng(batch + 10 * draws + 100 * classes)
    logits = (rng.integers(-64, 64, (batch, draws, classes)) / 8).astype(dtype)
    rows = logits.reshape(-1, classes)
    for value in (np.nan, np.inf, -np.inf):
        chosen = np.flatnonzero(rng.random(len(rows)) < 0.05)
        rows[chosen, rng.integers(0, classes, chosen.size)] = value
    return logits


def check_votes(logits: Array, stream: Any, margin: float = 0.2) -> None:
    batch, draws, classes = logits.shape
    for marked in (False, True):
        counts = np.full((batch, classes), 3, np.int64)
        ties = np.zeros((batch, draws), np.uint8)
        faults = np.array([1, 2], np.int64)
        margins = margin * (1 + np.arange(batch) % 3)
        with Launches(stream, logits, counts, ties, faults, margins) as (handle, device):
            marks = device[2] if marked else None
            core.count_votes(device[0], device[1], marks, device[4], device[3], stream=handle)
        core.count_votes(logits, counts, ties if marked else None, margins, faults)
        np.testing.assert_array_equal(on_host(device[1]), counts)
        np.testing.assert_array_equal(on_host(device[2]), ties)
        np.testing.assert_array_equal(on_host(device[3]), faults)


def check_scores(logits: Array, bins: int, stream: Any) -> None:
    batch, _, classes = logits.shape
    some_class: Array = np.random.default_rng(5).integers(0, classes, (batch,))
    for chosen in (None, some_class):
        histogram = np.full((batch, bins), 3, np.int64)
        sums = np.full((batch, 2), 5, np.int64)
        faults = np.array([1, 2], np.int64)
        classes_or_zeros: Array = np.zeros(batch, np.int64) if chosen is None else chosen
        with Launches(stream, logits, histogram, sums, faults, classes_or_zeros) as (
            handle,
            device,
        ):
            of_class = None if chosen is None else device[4]
            core.score_histogram(device[0], of_class, *device[1:4], stream=handle)
        core.score_histogram(logits, chosen, histogram, sums, faults)
        np.testing.assert_array_equal(on_host(device[1]), histogram)
        np.testing.assert_array_equal(on_host(device[2]), sums)
        np.testing.assert_array_equal(on_host(device[3]), faults)
        check_one_pass(logits, chosen, bins, stream)


def check_one_pass(logits: Array, chosen: Array | None, bins: int, stream: Any) -> None:
    """Votes and scores of one pass."""
    batch, draws, classes = logits.shape
    words = [
        np.full((batch, classes), 3, np.int64),
        np.zeros((batch, draws), np.uint8),
        np.full((batch, bins), 3, np.int64),
        np.full((batch, 2), 5, np.int64),
        np.array([1, 2], np.int64),
    ]
    classes_or_zeros: Array = np.zeros(batch, np.int64) if chosen is None else chosen
    margins = 0.2 * (1 + np.arange(batch) % 3)
    with Launches(stream, logits, classes_or_zeros, *words, margins) as (handle, device):
        of_class = None if chosen is None else device[1]
        core.count_votes_and_scores(
            device[0], of_class, *device[2:4], device[7], *device[4:7], stream=handle
        )
    core.count_votes_and_scores(logits, chosen, *words[:2], margins, *words[2:])
    for mine, expected in zip(device[2:7], words, strict=True):
        np.testing.assert_array_equal(on_host(mine), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("draws", SIZES)
def test_votes_and_scores_of_any_number_of_draws(draws: int, dtype: str, stream: Any) -> None:
    for batch, classes in ((1, 2), (3, 10)):
        logits = random_logits(batch, draws, classes, dtype)
        check_votes(logits, stream)
        check_scores(logits, 100, stream)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", SIZES)
def test_votes_and_scores_of_any_number_of_samples(batch: int, dtype: str, stream: Any) -> None:
    logits = random_logits(batch, 1, 10, dtype)
    check_votes(logits, stream)
    check_scores(logits, 7, stream)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", CLASSES)
def test_votes_and_scores_of_any_number_of_classes(classes: int, dtype: str, stream: Any) -> None:
    for batch, draws in ((1, 1), (3, 33), (257, 2)):
        logits = random_logits(batch, draws, classes, dtype)
        check_votes(logits, stream)
        check_scores(logits, 1000, stream)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_votes_and_scores_of_100_000_classes(dtype: str, stream: Any) -> None:
    logits = random_logits(2, 9, 100_000, dtype)
    check_votes(logits, stream, margin=0.0)
    check_scores(logits, 50, stream)
    check_scores(logits, 4096, stream)


@pytest.mark.parametrize("scale", [0.01, 1.0, 20.0, 1000.0])
def test_scores_of_arbitrary_logits(scale: float) -> None:
    logits = np.random.default_rng(6).normal(size=(4, 5001, 33)) * scale
    check_scores(logits, 1000, cuda.default_stream())
    check_scores(logits.astype(np.float32), 1000, cuda.default_stream())


def test_votes_beyond_two_to_the_31_logits() -> None:
    draws, classes = 2**21 + 3, 1024
    needed = 2 * draws * classes * 4
    if cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free device memory")
    logits = torch.zeros(1, draws, classes, device="cuda")
    votes = torch.arange(draws, device="cuda") % classes
    logits[0, torch.arange(draws, device="cuda"), votes] = 1.0
    counts = torch.zeros(1, classes, dtype=torch.int64, device="cuda")
    faults = torch.zeros(2, dtype=torch.int64, device="cuda")
    core.count_votes(logits, counts, None, 0.0, faults)
    assert torch.equal(counts[0], torch.bincount(votes, minlength=classes))
    assert faults.tolist() == [0, 0]


def test_device_operations_can_be_captured_in_a_graph() -> None:
    images = on_device(np.random.default_rng(7).random((2, 3072), np.float32))
    ids = on_device(np.array([0, 1], np.int64))
    noisy = torch.zeros(2, 16, 3072, device="cuda")
    counts = torch.zeros(2, 3072, dtype=torch.int64, device="cuda")
    faults = torch.zeros(2, dtype=torch.int64, device="cuda")
    cuda.synchronize()
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        handle = int(cuda.current_stream().cuda_stream)
        core.add_noise(images, noisy, 1.0, 0, ids, 0, stream=handle)
        core.count_votes(noisy, counts, None, 0.0, faults, stream=handle)
    for _ in range(3):
        graph.replay()
    cuda.synchronize()
    expected = np.zeros((2, 3072), np.int64)
    host = np.empty((2, 16, 3072), np.float32)
    core.add_noise(on_host(images), host, 1.0, 0, np.array([0, 1], np.int64), 0)
    core.count_votes(host, expected, None, 0.0, np.zeros(2, np.int64))
    np.testing.assert_array_equal(on_host(counts), 3 * expected)


def test_tensors_must_lie_on_one_device() -> None:
    logits = torch.zeros(1, 2, 3, device="cuda")
    counts = torch.zeros(1, 3, dtype=torch.int64)
    faults = torch.zeros(2, dtype=torch.int64, device="cuda")
    with pytest.raises(ValueError, match="counts"):
        core.count_votes(logits, counts, None, 0.0, faults)
