# SPDX-License-Identifier: MIT
"""The CUDA part of peers.py: times from events, bandwidths as further peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from harness import Pair
from peers_common import (
    NOISE_OPERATIONS,
    SCORE_OPERATIONS,
    SIGMA,
    VOTE_OPERATIONS,
    Bench,
    Work,
    check_noise,
    check_scores,
    core,
    cuda,
)

from certcal_ext.smoothing.noise import write_noise


def device_seconds(function: Callable[[], Any], launches: int) -> float:
    """Seconds per call, from events around some calls in a row."""
    start, stop = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    start.record()
    for _ in range(launches):
        function()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1000 / launches


def paired_on_device(
    ours: Callable[[], Any], peer: Callable[[], Any], runs: int, launches: int = 10
) -> Pair:
    for function in (ours, peer):
        device_seconds(function, 3)
    pair = Pair([], [])
    for _ in range(runs):
        pair.ours.append(device_seconds(ours, launches))
        pair.peer.append(device_seconds(peer, launches))
    return pair


def measure_cuda(bench: Bench) -> None:
    source, target = torch.ones(2**28, device="cuda"), torch.empty(2**28, device="cuda")
    best = min(device_seconds(lambda: target.copy_(source), 5) for _ in range(9))
    a = torch.rand(8192, 8192, device="cuda")
    product = min(device_seconds(lambda: a @ a, 2) for _ in range(5))  # float32, not TF32
    bench.machine |= {
        "device": cuda.get_device_name(),
        "copy_bytes_per_second": 2 * 4 * 2**28 / best,
        "matrix_product_operations_per_second": 2 * 8192**3 / product,
    }


def cuda_noise(bench: Bench, dtype: torch.dtype, goals: bool) -> bool:
    """Whether this build writes the dtype; the goals are those of bfloat16."""
    draws = 1000 if bench.quick else 10_000
    image = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    flat, ids = image.reshape(8, -1).cuda(), torch.arange(8).cuda()
    out = torch.empty(8, draws, flat.shape[1], device="cuda", dtype=dtype)
    ours, few = partial(write_noise, flat, SIGMA, 0, ids, 0, out), partial(check_noise, dtype=dtype)
    try:
        ours()
    except (TypeError, ValueError):
        return False

    def torch_pipeline(x: torch.Tensor) -> torch.Tensor:
        batch = x.unsqueeze(1).repeat((1, draws, 1))
        return batch + torch.randn_like(batch) * SIGMA

    given = flat.to(dtype)  # the peer works in the dtype all along
    few(out[:, :500], flat.unsqueeze(1))
    few(torch_pipeline(given)[:, :500], given.unsqueeze(1))
    expected = torch.empty(8, 16, flat.shape[1])
    core.add_noise(flat.cpu(), expected, SIGMA, 0, ids.cpu(), 0)
    assert torch.equal(expected.to(dtype), out[:, :16].cpu())

    width = out.element_size()
    operations = NOISE_OPERATIONS + (0 if dtype == torch.float32 else 1)
    work = Work(float(width * out.numel()) + 4.0 * flat.numel(), float(operations * out.numel()))
    kind = str(dtype).removeprefix("torch.")
    name, runs = f"noise, {kind}, 8 x {draws:,} draws of 3x32x32", bench.runs(21)
    pair = paired_on_device(ours, lambda: torch_pipeline(given), runs)
    bench.add(name, "torch, eager", pair, 4 if goals else None, work)
    try:
        compiled = torch.compile(torch_pipeline)
        few(compiled(given)[:, :500], given.unsqueeze(1))
    except Exception as error:  # no Triton, no compiler: not ours to fail for
        bench.machine["torch_compile"] = f"skipped: {type(error).__name__}: {error}".splitlines()[0]
        print(f"noise against torch.compile {bench.machine['torch_compile']}")
    else:
        pair = paired_on_device(ours, lambda: compiled(given), runs)
        bench.add(name, "torch.compile", pair, 1.5 if goals else None)
    pair = paired_on_device(ours, lambda: out.zero_(), runs)
    peer = "write bandwidth (zeros to the output)"
    bench.add(name, peer, pair, 0.5 if goals else None)
    return True


def cuda_votes(bench: Bench) -> None:
    for rows, classes, goal in ((10**7, 10, None), (4 * 10**5, 1000, 0.8)):
        count = rows // 10 if bench.quick else rows
        logits = torch.randn(1, count, classes, device="cuda")
        counts = torch.zeros(1, classes, dtype=torch.int64, device="cuda")
        faults = torch.zeros(2, dtype=torch.int64, device="cuda")
        try:
            half = logits.bfloat16()
            core.count_votes(half[:, :1].contiguous(), counts, None, 0.0, faults)
        except TypeError:
            pass  # this build reads float32 and float64 only
        else:
            logits = half
            cuda.synchronize()
            counts.zero_()
        histogram = torch.zeros(1, 100, dtype=torch.int64, device="cuda")
        sums = torch.zeros(1, 2, dtype=torch.int64, device="cuda")
        handle = int(cuda.current_stream().cuda_stream)

        def our_votes(
            x: Any = logits, to: Any = counts, bad: Any = faults, on: int = handle
        ) -> None:
            core.count_votes(x, to, None, 0.0, bad, stream=on)

        def our_scores(
            x: Any = logits, to: Any = histogram, s: Any = sums, bad: Any = faults, on: int = handle
        ) -> None:
            core.score_histogram(x, None, to, s, bad, stream=on)

        def torch_votes(x: torch.Tensor = logits, k: int = classes) -> torch.Tensor:
            return torch.bincount(x[0].argmax(1), minlength=k)

        def torch_scores(x: torch.Tensor = logits) -> torch.Tensor:
            return torch.histc(torch.softmax(x[0].float(), 1).amax(1), 100, 0.0, 1.0)

        our_votes()
        # bfloat16 has ties, and torch may take any of the largest; the first is ours.
        host = np.argmax(logits[0].float().cpu().numpy(), axis=1)
        np.testing.assert_array_equal(counts[0].cpu().numpy(), np.bincount(host, minlength=classes))
        our_scores()
        check_scores(histogram[0], torch_scores())
        words = logits.view(torch.int16 if logits.dtype == torch.bfloat16 else torch.int32)
        numbers = words.view(torch.float32) if words.numel() % 2 == 0 else words
        name = str(logits.dtype).removeprefix("torch.")
        shape, size = f"{name}, {count:,} x {classes:,}", logits.numel()
        width, runs = logits.element_size(), bench.runs(21)
        work = Work(float(width * size), float(VOTE_OPERATIONS * size))
        pair = paired_on_device(our_votes, torch_votes, runs)
        bench.add(f"votes, {shape}", "torch argmax + bincount", pair, None, work)
        pair = paired_on_device(our_votes, lambda x=numbers: x.sum(), runs)  # type: ignore[misc]
        bench.add(f"votes, {shape}", "read bandwidth (sum of the logits)", pair, goal)
        work = Work(float(width * size), float(SCORE_OPERATIONS * size))
        pair = paired_on_device(our_scores, torch_scores, runs)
        bench.add(f"score histogram, {shape}", "torch softmax + amax + histc", pair, None, work)
