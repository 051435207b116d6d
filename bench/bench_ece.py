# SPDX-License-Identifier: MIT
"""certified_ece against copying its inputs, against HiGHS, and streamed over 10^8 samples.

Run with: python bench/bench_ece.py [--quick]
"""

from __future__ import annotations

import resource
import sys
from typing import Any

import numpy as np
from harness import paired, show, spread, timed, write
from numpy.typing import NDArray

import certcal_ext as cc

BINS = 15
Problem = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]


def problem(samples: int, seed: int, width: float = 0.3) -> Problem:
    rng = np.random.default_rng(seed)
    confidence = rng.beta(4, 2, samples)
    lower = np.clip(confidence - width * rng.random(samples), 0, 1)
    upper = np.clip(confidence + width * rng.random(samples), 0, 1)
    return rng.random(samples) < confidence, lower, upper


def bench_copy(samples: int, runs: int) -> dict[str, Any]:
    """The whole call, validation and the solution included, beside one copy of its three arrays."""
    correct, lower, upper = problem(samples, seed=0)
    result = cc.certified_ece(correct, lower, upper, bins=BINS)
    bin_of = np.maximum(np.searchsorted(result.edges, result.worst_confidence) - 1, 0)
    plain = np.abs(np.bincount(bin_of, correct - result.worst_confidence)).sum() / samples
    assert abs(plain - result.value) < 1e-6, (plain, result.value)

    def copy() -> None:
        correct.copy(), lower.copy(), upper.copy()

    pair = paired(lambda: cc.certified_ece(correct, lower, upper, bins=BINS), copy, runs, warmup=3)
    summary = show(f"certified_ece, N = {samples:,}, against copying its input", pair)
    times = [a / b for a, b in zip(pair.ours, pair.peer, strict=True)]
    size = correct.nbytes + lower.nbytes + upper.nbytes
    summary |= {
        "ours_over_peer": spread(times),
        "bytes_read": size,
        "gigabytes_per_second": size / summary["ours_seconds"]["median"] / 1e9,
    }
    print(f"  that is {summary['ours_over_peer']['median']:.2f} copies (goal: at most 3)")
    with_worst = [
        timed(lambda: cc.certified_ece(correct, lower, upper).worst_confidence) for _ in range(runs)
    ]
    summary["seconds_with_worst_confidence"] = spread(with_worst)
    return summary


def bench_highs(samples: int, runs: int, time_limit: float) -> dict[str, Any]:
    correct, lower, upper = problem(samples, seed=1, width=0.1)
    exact = cc.certified_ece(correct, lower, upper, bins=BINS)
    referee = cc.certified_ece_milp(correct, lower, upper, bins=BINS, time_limit=time_limit)
    assert referee.bound >= exact.value - 1e-9, (referee.bound, exact.value)
    if referee.optimal:
        assert abs(referee.bound - exact.value) < 1e-6, (referee.bound, exact.value)
    ours = [timed(lambda: cc.certified_ece(correct, lower, upper, bins=BINS)) for _ in range(runs)]
    median = spread(ours)["median"]
    ratio = referee.seconds / median
    print(
        f"certified_ece, N = {samples}: {1e6 * median:.0f} us, HiGHS {referee.seconds:.1f} s "
        f"({referee.status}): {ratio:,.0f} x (goal 10,000)"
    )
    return {
        "samples": samples,
        "ours_seconds": spread(ours),
        "highs_seconds": referee.seconds,
        "highs_status": referee.status,
        "highs_optimal": referee.optimal,
        "highs_bound": referee.bound,
        "exact": exact.value,
        "ratio": ratio,
        "runs": runs,
    }


def bench_stream(samples: int, chunk: int) -> dict[str, Any]:
    """Chunks made on the fly, so memory is that of one chunk; only update() is timed."""
    table = cc.EceTable(bins=BINS)
    correct, lower, upper = problem(chunk, seed=2)
    table.update(correct, lower, upper)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = 0.0
    for part in range(1, samples // chunk):
        shift = part / (10 * samples / chunk)
        moved = np.minimum(lower + shift, 1.0), np.minimum(upper + shift, 1.0)
        seconds += timed(lambda m=moved: table.update(correct, *m))  # type: ignore[misc]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    value = table.certify().value
    assert table.rows == samples // chunk * chunk
    assert 0 < value < 1
    rate = (table.rows - chunk) / seconds
    print(
        f"EceTable, {table.rows:,} samples in chunks: {rate / 1e6:.0f} M samples/s, memory grew by {grown / 1024:.0f} MiB"
    )
    return {
        "samples": table.rows,
        "chunk": chunk,
        "update_seconds": seconds,
        "samples_per_second": rate,
        "peak_memory_growth_kib": grown,
        "chunk_kib": (correct.nbytes + lower.nbytes + upper.nbytes) // 1024,
    }


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    measurements = {
        "copy": bench_copy(10**5 if quick else 10**6, runs=5 if quick else 31),
        "highs": bench_highs(40 if quick else 500, runs=31, time_limit=10 if quick else 600),
        "stream": bench_stream(10**6 if quick else 10**8, chunk=10**5 if quick else 10**6),
    }
    if not quick:
        write("ece", "python bench/bench_ece.py", measurements)


if __name__ == "__main__":
    main()
