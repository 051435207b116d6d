# SPDX-License-Identifier: MIT
"""Certified Brier and ECE at 200 radii for 10,000 samples, against a vectorised SciPy pipeline.

The peer is what one would write: ``ndtri`` once, and per radius a mask, two ``ndtr``, two ``searchsorted``, and the sums of
the ECE table and of the Brier score by ``bincount``. It stops at the tables: their solution, which ours includes, is not
charged to it.

Run with: python bench/bench_radii.py [--quick]
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from harness import paired, show, write
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

import certcal_ext as cc
from certcal_ext import _core

BINS, SIGMA, DRAWS = 15, 0.25, 10_000
Floats = NDArray[np.float64]


def counts(samples: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Votes that look like a trained model's: many near certainty, a long tail down."""
    rng = np.random.default_rng(seed)
    top = rng.binomial(DRAWS, rng.beta(3, 0.6, samples))
    votes = np.zeros((samples, 10), np.int64)
    votes[:, 0] = top
    votes[:, 1] = DRAWS - top
    return votes, (rng.random(samples) > np.maximum(top, DRAWS - top) / DRAWS).astype(np.int64)


def scipy_pipeline(
    correct: NDArray[np.bool_], p_lower: Floats, p_upper: Floats, radii: Floats
) -> list[tuple[float, Floats, Floats, Floats]]:
    probit_lower, probit_upper = ndtri(p_lower), ndtri(p_upper)
    edges = np.linspace(0, 1, BINS + 1)
    results = []
    for radius in radii:
        shift = radius / SIGMA
        inside = probit_lower > shift
        c = correct[inside]
        lower, upper = ndtr(probit_lower[inside] - shift), ndtr(probit_upper[inside] + shift)
        brier = float(np.mean(np.where(c, (1 - lower) ** 2, upper**2))) if c.size else np.nan
        a = np.maximum(np.searchsorted(edges, lower) - 1, 0)
        b = np.maximum(np.searchsorted(edges, upper) - 1, 0)
        cell = (c * BINS + a) * BINS + b
        sums = [
            np.bincount(cell, weights, minlength=2 * BINS * BINS)
            for weights in (None, lower, upper)
        ]
        results.append((brier, *sums))
    return results


def solve(count: Floats, lower: Floats, upper: Floats) -> float:
    """Our solution of the peer's float sums, to compare the two."""
    state = np.zeros((2 * BINS * BINS, 5), np.int64)
    state[:, 0] = count
    for column, total in ((1, lower), (3, upper)):
        state[:, column] = np.floor(total * 2**26)
        state[:, column + 1] = np.round((total * 2**26 - state[:, column]) * 2**26)
    return _core.ece_solve(
        state.reshape(2, BINS, BINS, 5), np.linspace(0, 1, BINS + 1), np.zeros(BINS, np.int8)
    )


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    samples, radii = (
        (1000, np.linspace(0, 0.9, 20)) if quick else (10_000, np.linspace(0, 0.9, 200))
    )
    votes, labels = counts(samples, seed=0)
    certificates = cc.Certificates.from_counts(votes, labels, sigma=SIGMA)
    correct = certificates.table["correct"].to_numpy()
    p_lower, p_upper = (certificates.table[name].to_numpy() for name in ("p_lower", "p_upper"))

    def ours() -> tuple[Floats, Floats]:
        fresh = cc.Certificates(certificates.table, certificates.provenance)  # nothing cached
        curve = fresh.curve(radii, bins=BINS)
        return curve.certified_brier, curve.certified_ece

    brier, ece = ours()
    for r, (peer_brier, *sums) in enumerate(scipy_pipeline(correct, p_lower, p_upper, radii)):
        assert abs(peer_brier - brier[r]) < 1e-9 or np.isnan(brier[r]), (
            radii[r],
            peer_brier,
            brier[r],
        )
        assert abs(solve(*sums) - ece[r]) < 1e-9 or np.isnan(ece[r]), (
            radii[r],
            solve(*sums),
            ece[r],
        )

    pair = paired(
        ours,
        lambda: scipy_pipeline(correct, p_lower, p_upper, radii),
        runs=3 if quick else 21,
        warmup=2,
    )
    summary: dict[str, Any] = show(
        f"Brier and ECE, {len(radii)} radii x {samples:,} samples", pair, at_least=10
    )
    summary |= {
        "samples": samples,
        "radii": len(radii),
        "distinct_counts": len(np.unique(p_lower)),
        "interval_evaluations": int(sum(summary_certified(certificates, radii))),
    }
    if not quick:
        write("radii", "python bench/bench_radii.py", {"radii": summary})


def summary_certified(certificates: cc.Certificates, radii: Floats) -> NDArray[np.int64]:
    """How many (sample, radius) pairs were bounded."""
    return certificates.curve(radii, bins=BINS).certified


if __name__ == "__main__":
    main()
