# SPDX-License-Identifier: MIT
"""Noise, votes, scores and the fused bound against what one would write with torch, SciPy and NumPy, on the CPU and on CUDA.

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
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from harness import Pair, paired, show, timed, write
from numpy.typing import NDArray
from peers_picture import draw
from scipy.special import ndtr

import certcal_ext as cc
from certcal_ext import _core
from certcal_ext._threads import num_threads
from certcal_ext.curve import Groups, group_rows
from certcal_ext.noise import write_noise

SIGMA, BINS, VOTES = 0.25, 15, 100_000
Floats = NDArray[np.float64]
core: Any = _core
cuda: Any = torch.cuda

# Operations per element, counted beside the C++ benchmarks (bench_noise.cpp, bench_votes.cpp, bench_certify.cpp).
NOISE_OPERATIONS, VOTE_OPERATIONS, SCORE_OPERATIONS, PHI_OPERATIONS = 53, 3, 34, 31


@dataclass
class Work:
    """What one call has to move and to compute, whoever does it."""

    bytes: float
    operations: float


@dataclass
class Bench:
    """The rows of one device."""

    quick: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        operation: str,
        peer: str,
        pair: Pair,
        goal: float | None,
        work: Work | None = None,
        **more: Any,
    ) -> None:
        summary = show(f"{operation} against {peer}", pair, goal)
        row: dict[str, Any] = {"operation": operation, "peer": peer, "goal": goal, **summary}
        row["reached"] = goal is None or summary["peer_over_ours"]["median"] >= goal
        if work is not None:
            seconds = summary["ours_seconds"]["median"]
            row["bytes"], row["operations"] = work.bytes, work.operations
            row["gigabytes_per_second"] = work.bytes / seconds / 1e9
            row["gigaoperations_per_second"] = work.operations / seconds / 1e9
            row["copy_share"] = work.bytes / seconds / self.machine["copy_bytes_per_second"]
        self.rows.append(row | more)

    def runs(self, full: int) -> int:
        return 3 if self.quick else full


# ---- the problems --------------------------------------------------------------------------------------------------


def vote_counts(samples: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Votes that look like a trained model's: many near certainty, a long tail down."""
    rng = np.random.default_rng(seed)
    top = rng.binomial(VOTES, rng.beta(3, 0.6, samples))
    votes = np.zeros((samples, 2), np.int64)
    votes[:, 0], votes[:, 1] = top, VOTES - top
    return votes, (rng.random(samples) > np.maximum(top, VOTES - top) / VOTES).astype(np.int64)


@dataclass
class CertifyProblem:
    certificates: cc.Certificates
    radii: Floats
    groups: Groups
    correct: NDArray[np.uint8]
    work: Work

    @classmethod
    def make(cls, samples: int, radii: int) -> CertifyProblem:
        votes, labels = vote_counts(samples, seed=0)
        made = cc.Certificates.from_counts(votes, labels, sigma=SIGMA)
        asked = np.linspace(0, 0.9, radii)
        columns = [made.table[name].to_numpy() for name in ("p_lower", "p_upper", "confidence")]
        groups = group_rows(*columns)
        pairs = sum(int((groups.probit_lower > radius / SIGMA).sum()) for radius in asked)
        words = radii * (2 * BINS * BINS * 5 + BINS * 4 + 4)
        return cls(
            made,
            asked,
            groups,
            made.table["correct"].to_numpy().view(np.uint8),
            Work(
                9.0 * samples + 24.0 * groups.confidence.size + 8.0 * words,
                samples + 2.0 * PHI_OPERATIONS * pairs,
            ),
        )

    def curve(self) -> cc.Curve:
        fresh = cc.Certificates(self.certificates.table, self.certificates.provenance)
        return fresh.curve(self.radii, bins=BINS)  # nothing cached

    def outputs(self) -> list[NDArray[np.int64]]:
        r = self.radii.size
        shapes: list[tuple[int, ...]] = [(r, 2, BINS, BINS, 5), (r, BINS, 4), (r, 4)]
        return [np.zeros(shape, np.int64) for shape in shapes]

    def kernel(self) -> list[NDArray[np.int64]]:
        outputs, g = self.outputs(), self.groups
        edges = np.linspace(0, 1, BINS + 1)
        columns = (g.confidence, g.probit_lower, g.probit_upper)
        shifts = self.radii / SIGMA
        core.certify(
            g.group, self.correct, *columns, shifts, edges, False, *outputs, threads=num_threads()
        )
        return outputs

    def scipy(self) -> list[tuple[float, list[Floats]]]:
        """Per radius, each sample by itself: a mask, two ndtr, two searchsorted, the sums."""
        rows = self.groups.group
        lower, upper = self.groups.probit_lower[rows], self.groups.probit_upper[rows]
        return self._pipeline(lower, upper, self.correct.astype(bool), None)

    def scipy_grouped(self) -> list[tuple[float, list[Floats]]]:
        """The same with our own idea: samples with the same votes are counted once."""
        g = self.groups
        size = g.confidence.size
        times = np.bincount(2 * g.group + self.correct, minlength=2 * size).astype(float)
        lower, upper = np.repeat(g.probit_lower, 2), np.repeat(g.probit_upper, 2)
        return self._pipeline(lower, upper, np.tile([False, True], size), times)

    def _pipeline(
        self, lower: Floats, upper: Floats, correct: NDArray[np.bool_], times: Floats | None
    ) -> list[tuple[float, list[Floats]]]:
        edges, results = np.linspace(0, 1, BINS + 1), []
        for radius in self.radii:
            inside = lower > radius / SIGMA
            c, weight = correct[inside], None if times is None else times[inside]
            low, high = ndtr(lower[inside] - radius / SIGMA), ndtr(upper[inside] + radius / SIGMA)
            square = np.where(c, (1 - low) ** 2, high**2)
            a = np.maximum(np.searchsorted(edges, low) - 1, 0)
            b = np.maximum(np.searchsorted(edges, high) - 1, 0)
            cell = (c * BINS + a) * BINS + b
            terms = (weight, low, high) if weight is None else (weight, weight * low, weight * high)
            sums = [np.bincount(cell, t, minlength=2 * BINS * BINS).astype(float) for t in terms]
            results.append((float(np.average(square, weights=weight)), sums))
        return results

    def check(self, tables: NDArray[np.int64], brier: Floats) -> None:
        """Counts of cells equal, sums and Brier scores within 1e-9 a sample."""
        grouped = self.scipy_grouped()
        for r, (score, (count, low, high)) in enumerate(self.scipy()):
            table = tables[r].reshape(-1, 5)
            sums = (table[:, 1] * 2.0**-26 + table[:, 2] * 2.0**-52, low)
            uppers = (table[:, 3] * 2.0**-26 + table[:, 4] * 2.0**-52, high)
            np.testing.assert_array_equal(table[:, 0], count)
            np.testing.assert_array_equal(grouped[r][1][0], count)
            for mine, theirs in (sums, uppers):
                np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)
            assert abs(score - brier[r]) < 1e-9, (r, score, brier[r])


def check_noise(
    noisy: torch.Tensor, image: torch.Tensor, dtype: torch.dtype = torch.float32
) -> None:
    """Mean and variance of z to six standard errors, and to what rounding to the dtype can move them."""
    z = (noisy.double() - image.double()) / SIGMA
    n, rounding = z.numel(), 4 * torch.finfo(dtype).eps
    assert abs(float(z.mean())) < 6 / n**0.5 + rounding, float(z.mean())
    assert abs(float(z.square().mean()) - 1) < 6 * (2 / n) ** 0.5 + rounding, float(z.var())


def check_scores(ours: Any, theirs: Any) -> None:
    """At most a few in 10^4 scores lie so near to an edge that two roundings put them on either side."""
    distance = int((ours.cpu().long() - theirs.cpu().long()).abs().sum())
    assert distance <= 2 + 4e-4 * int(theirs.sum()), distance


# ---- CPU -------------------------------------------------------------------------------------------------------------


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


# ---- CUDA ------------------------------------------------------------------------------------------------------------


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


def cuda_certify(bench: Bench, problem: CertifyProblem) -> None:
    g = problem.groups
    edges = np.linspace(0, 1, BINS + 1)
    inputs = [
        torch.from_numpy(np.ascontiguousarray(a)).cuda()
        for a in (
            g.group, problem.correct, g.confidence, g.probit_lower, g.probit_upper,
            problem.radii / SIGMA,
        )
    ]  # fmt: skip
    outputs = [torch.from_numpy(a).cuda() for a in problem.outputs()]
    edges_device = torch.from_numpy(edges).cuda()
    workspace = torch.zeros(g.confidence.size, 2, dtype=torch.int64, device="cuda")
    handle = int(cuda.current_stream().cuda_stream)

    def ours() -> None:
        workspace.zero_()
        core.certify(
            *inputs, edges, False, *outputs,
            stream=handle, edges_device=edges_device, workspace=workspace,
        )  # fmt: skip

    ours()
    for mine, expected in zip(outputs, problem.kernel(), strict=True):
        np.testing.assert_array_equal(mine.cpu().numpy(), expected)
    times = [device_seconds(ours, 10) for _ in range(bench.runs(21) + 1)][1:]
    name = f"certify, {problem.correct.size:,} x {problem.radii.size} radii"
    pair = Pair(times, [1e-3] * len(times))
    more: dict[str, Any] = {"groups": g.confidence.size, "votes": VOTES}
    bench.add(name, "the limit of 1 ms", pair, 1, problem.work, **more)


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
        cuda_certify(devices["cuda"], problem)
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
