# SPDX-License-Identifier: MIT
"""What the peers on the CPU and on CUDA share: measured works, the problem of the fused bound, checks of results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from harness import Pair, show
from numpy.typing import NDArray
from scipy.special import ndtr

import certcal_ext as cc
from certcal_ext import _core
from certcal_ext._threads import num_threads
from certcal_ext.certificates.curve import Groups, group_rows

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
