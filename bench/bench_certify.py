# SPDX-License-Identifier: MIT
"""Certification of a small MLP on CIFAR-shaped images against the classic per-image loop.

The peer does what the field's reference scripts do for each image: repeat it, add ``randn_like * sigma``, forward, argmax,
count in NumPy, n0 and then n draws. Both run the same model at the same batch size on the same threads.

Run with: python bench/bench_certify.py [--quick]
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import torch
from harness import paired, show, write
from numpy.typing import NDArray

import certcal_ext as cc
from certcal_ext.smoothing.noise import write_noise
from certcal_ext.smoothing.sampling import Sampler

SIGMA, CLASSES, BATCH = 0.25, 10, 1000


def small_mlp(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(3 * 32 * 32, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, CLASSES),
    ).eval()


def classic_counts(model: torch.nn.Module, image: torch.Tensor, draws: int) -> NDArray[np.int64]:
    counts = np.zeros(CLASSES, np.int64)
    with torch.no_grad():
        left = draws
        while left > 0:
            size = min(BATCH, left)
            left -= size
            batch = image.repeat((size, 1, 1, 1))
            noise = torch.randn_like(batch) * SIGMA
            predictions = model(batch + noise).argmax(1).numpy()
            counts += np.bincount(predictions, minlength=CLASSES)
    return counts


def classic_certify(model: torch.nn.Module, images: torch.Tensor, n0: int, n: int) -> list[Any]:
    results = []
    for image in images:
        chosen = int(classic_counts(model, image, n0).argmax())
        results.append((chosen, int(classic_counts(model, image, n)[chosen])))
    return results


def shares(model: torch.nn.Module, image: torch.Tensor, runs: int) -> dict[str, float]:
    """Seconds per draw of our noise and of the bare forward pass, the floor of any loop."""
    out = torch.empty(1, BATCH, image.numel())
    ids = torch.zeros(1, dtype=torch.int64)
    flat = image.reshape(1, -1)
    with torch.inference_mode():
        pair = paired(
            lambda: write_noise(flat, SIGMA, 0, ids, 0, out), lambda: model(out[0]), runs, warmup=3
        ).summary()
    return {
        "noise_seconds_per_draw": pair["ours_seconds"]["median"] / BATCH,
        "forward_seconds_per_draw": pair["peer_seconds"]["median"] / BATCH,
    }


def scores_beside_votes(
    model: torch.nn.Module, images: torch.Tensor, n: int, runs: int
) -> dict[str, Any]:
    """What it costs to count scores in the same passes; their votes must be the same."""
    sampler = Sampler(model, CLASSES, SIGMA, 0, BATCH)
    ids = np.arange(len(images))
    classes = np.zeros(len(images), np.int64)
    with torch.inference_mode():
        votes = sampler.gather(images, ids, 0, n)
        scores = sampler.gather(images, ids, 0, n, classes)
        assert (votes.votes == scores.votes).all()
        assert scores.scores is not None
        assert (scores.scores.counts.sum(axis=1) == n).all()
        pair = paired(
            lambda: sampler.gather(images, ids, 0, n),
            lambda: sampler.gather(images, ids, 0, n, classes),
            runs,
        )
    summary = pair.summary()["peer_over_ours"]
    print(f"  votes and scores take {summary['median']:.3f} times what votes take")
    return dict(summary)


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    n0, n, samples = (100, 2000, 2) if quick else (100, 20_000, 8)
    warnings.filterwarnings("ignore", message=".*abstain.*")  # an untrained model does
    model = small_mlp(seed=0)
    images = torch.rand(samples, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    smooth = cc.SmoothedClassifier(model, num_classes=CLASSES, sigma=SIGMA)

    def ours() -> cc.Certificates:
        return smooth.certify(images, n0=n0, n=n, batch_size=BATCH)

    # The two draw different noise: their vote shares must agree to 6 standard errors of a difference.
    certificates = ours()
    table = certificates.table
    for (chosen, votes), predicted, mine in zip(
        classic_certify(model, images, n0, n),
        table["predicted"].to_pylist(),
        table["votes"].to_pylist(),
        strict=True,
    ):
        if chosen == predicted:
            assert abs(votes - mine) < 6 * np.sqrt(n / 2), (votes, mine)

    pair = paired(ours, lambda: classic_certify(model, images, n0, n), runs=3 if quick else 15)
    summary = show(f"certify, MLP, 3x32x32, n = {n:,}", pair, at_least=5)
    scores = scores_beside_votes(model, images, n, runs=3 if quick else 15)
    parts = shares(model, images[0], runs=5 if quick else 51)
    floor = parts["forward_seconds_per_draw"] * samples * (n0 + n)
    summary |= parts | {
        "samples": samples,
        "n": n,
        "batch": BATCH,
        "seconds_of_bare_forward": floor,
        "ours_over_bare_forward": summary["ours_seconds"]["median"] / floor,
        "scores_over_votes": scores,
    }
    print(f"  ours takes {summary['ours_over_bare_forward']:.2f} times the bare forward pass")
    if not quick:
        write("certify", "python bench/bench_certify.py", {"mlp": summary})


if __name__ == "__main__":
    main()
