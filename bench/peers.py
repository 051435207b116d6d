# SPDX-License-Identifier: MIT
"""The operations and whole certifications against what one would write with torch, SciPy and NumPy, on the CPU and on CUDA.

Each result is checked first; then both run in turn, and the median and range of the run-by-run ratios are kept. On CUDA,
times come from events, and bandwidths and limits are peers too: zeros written to the output for the write bandwidth, the sum
of the logits for the read bandwidth. Leaves bench/results/NAME.json, NAME.svg and NAME.png.

Run with: python bench/peers.py [--quick] [--name peers]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from typing import Any

import torch
from harness import paired, timed, write
from peers_certify import cuda_certification
from peers_common import (
    NOISE_OPERATIONS,
    SCORE_OPERATIONS,
    SIGMA,
    VOTE_OPERATIONS,
    VOTES,
    Bench,
    CertifyProblem,
    Work,
    check_noise,
    check_scores,
    core,
    cuda,
)
from peers_cuda import cuda_noise, cuda_votes, measure_cuda
from peers_picture import draw

import certcal_ext as cc
from certcal_ext.smoothing.noise import write_noise


def measure_cpu(bench: Bench) -> None:
    """The two roofs: a copy beyond the caches, read and write counted, and fma of a matrix product."""
    source, target = torch.ones(2**26), torch.empty(2**26)
    best = min(timed(lambda: target.copy_(source)) for _ in range(10))
    a = torch.rand(1536, 1536)
    product = min(timed(lambda: a @ a) for _ in range(8))
    bench.machine |= {
        "copy_bytes_per_second": 2 * 4 * 2**26 / best,
        "matrix_product_operations_per_second": 2 * 1536**3 / product,
    }


def cpu_noise(bench: Bench) -> None:
    draws = 100 if bench.quick else 1000
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    flat, ids = image.reshape(1, -1), torch.zeros(1, dtype=torch.int64)
    out = torch.empty(1, draws, flat.numel())
    buffer = torch.empty(draws, flat.numel())

    def ours() -> None:
        write_noise(flat, SIGMA, 0, ids, 0, out)

    def torch_pipeline() -> torch.Tensor:
        batch = image.repeat((draws, 1, 1, 1))
        return batch + torch.randn_like(batch) * SIGMA

    ours()
    check_noise(out, flat)
    check_noise(torch_pipeline(), image)
    scalar = torch.empty(1, 8, flat.numel())
    core.add_noise(flat, scalar, SIGMA, 0, ids, 0, simd="scalar")
    assert torch.equal(scalar, out[:, :8])
    work = Work(4.0 * out.numel() + 4.0 * flat.numel(), float(NOISE_OPERATIONS * out.numel()))
    name, runs = f"noise, {draws} draws of 3x32x32", bench.runs(41)
    pair = paired(ours, torch_pipeline, runs, warmup=3)
    bench.add(name, "torch repeat + randn_like * sigma + add", pair, 10, work)
    pair = paired(ours, lambda: buffer.normal_(), runs, warmup=3)
    bench.add(name, "torch normal_ alone", pair, 2.5)
    pair = paired(
        lambda: cc.add_noise(image, SIGMA, draws=range(draws)), torch_pipeline, runs, warmup=3
    )
    bench.add(name + ", new output", "torch repeat + randn_like * sigma + add", pair, None)


def cpu_votes(bench: Bench) -> None:
    for rows, classes, goal in ((10**5, 10, 8), (10**4, 1000, 2)):
        count = rows // 10 if bench.quick else rows
        logits = 3 * torch.randn(1, count, classes, generator=torch.Generator().manual_seed(1))
        flat = logits[0]
        shape, size = f"{count:,} x {classes:,}", flat.numel()

        def torch_votes(x: torch.Tensor = flat, k: int = classes) -> torch.Tensor:
            return torch.bincount(x.argmax(1), minlength=k)

        def torch_scores(x: torch.Tensor = flat) -> torch.Tensor:
            return torch.histogram(torch.softmax(x, 1).max(1).values, 100, range=(0.0, 1.0)).hist

        def our_votes(x: torch.Tensor = logits) -> Any:
            return cc.count_votes(x)

        def our_scores(x: torch.Tensor = logits) -> Any:
            return cc.score_histogram(x, bins=100)

        assert torch.equal(our_votes()[0], torch_votes())
        check_scores(our_scores().counts[0], torch_scores())
        pair = paired(our_votes, torch_votes, bench.runs(41), warmup=3)
        work = Work(4.0 * size, float(VOTE_OPERATIONS * size))
        bench.add(f"votes, {shape}", "torch argmax + bincount", pair, goal, work)
        pair = paired(our_scores, torch_scores, bench.runs(21), warmup=3)
        work = Work(4.0 * size, float(SCORE_OPERATIONS * size))
        peer = "torch softmax + max + histogram"
        bench.add(f"score histogram, {shape}", peer, pair, 5, work)


def cpu_certify(bench: Bench, problem: CertifyProblem) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no sample is certified")
        tables, _, _ = problem.kernel()
        problem.check(tables, problem.curve().certified_brier)
        shape = f"{problem.correct.size:,} x {problem.radii.size} radii"
        pair = paired(problem.curve, problem.scipy, bench.runs(5))
        more: dict[str, Any] = {"groups": problem.groups.confidence.size, "votes": VOTES}
        peer = "SciPy ndtr + NumPy bincount"
        bench.add(f"certify, {shape}", peer, pair, 10, problem.work, **more)
        pair = paired(problem.kernel, problem.scipy_grouped, bench.runs(9))
        bench.add(f"certify, {shape}, groups given", peer + ", grouped as ours", pair, None, **more)


# ---- all ------------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description="Python peers of the operations.")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing is written")
    parser.add_argument("--name", default="peers", help="of the files in bench/results")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*abstain.*")
    load, started = os.getloadavg(), time.time()
    problem = CertifyProblem.make(*((10**4, 8) if asked.quick else (10**6, 64)))
    devices = {"cpu": Bench(asked.quick)}
    measure_cpu(devices["cpu"])
    cpu_noise(devices["cpu"])
    cpu_votes(devices["cpu"])
    cpu_certify(devices["cpu"], problem)
    if cuda.is_available() and core.cuda_status()["compiled"]:
        devices["cuda"] = Bench(asked.quick)
        measure_cuda(devices["cuda"])
        halves = cuda_noise(devices["cuda"], torch.bfloat16, goals=True)
        cuda_noise(devices["cuda"], torch.float32, goals=not halves)
        cuda_votes(devices["cuda"])
        cuda_certification(devices["cuda"])
    else:
        print("CUDA: skipped, torch or this build of certcal_ext has none, or there is no device")
    measurements: dict[str, Any] = {
        name: {"machine": bench.machine, "rows": bench.rows} for name, bench in devices.items()
    }
    measurements["load_average"] = {"before": load, "after": os.getloadavg()}
    measurements["seconds"] = time.time() - started
    if not asked.quick:
        write(asked.name, f"python bench/peers.py --name {asked.name}", measurements)
        draw(asked.name, measurements)
    return 0


if __name__ == "__main__":
    sys.exit(main())
