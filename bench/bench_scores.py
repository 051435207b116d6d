# SPDX-License-Identifier: MIT
"""Widths of certified score confidences on the demo's model, n = 100,000 draws: every interval against Kumar's.

Run with: python bench/bench_scores.py [--quick] [--images 100]
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import harness
import numpy as np
import torch
from numpy.typing import NDArray

import certcal_ext as cc
from certcal_ext.demo.digits import load_digits
from certcal_ext.demo.model import one_thread, train
from certcal_ext.demo.run import DemoSettings
from certcal_ext.intervals.clopper_pearson import Interval, probit
from certcal_ext.intervals.score_cdf import score_band
from certcal_ext.intervals.scores import score_interval

SIGMA, ALPHA = 0.25, 1e-3
RADII = (0.0, SIGMA / 2, SIGMA)
CONFIDENT = 0.99


def demo_scores(images: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Histograms and means of the selected class's softmax score, on the demo's held-out images."""
    pictures, labels = load_digits()
    chosen = DemoSettings()
    order = np.random.Generator(np.random.PCG64(chosen.seed)).permutation(len(pictures))
    held_out = np.sort(order[: chosen.images])[:images]
    training = np.sort(order[chosen.images : chosen.images + chosen.training_images])
    network = train(
        pictures[training], labels[training], sigma=SIGMA, epochs=chosen.epochs, seed=chosen.seed
    )
    smooth = cc.SmoothedClassifier(network, num_classes=10, sigma=SIGMA)
    with one_thread():  # as the demo does
        made = smooth.certify(
            torch.from_numpy(pictures[held_out]),
            torch.from_numpy(labels[held_out]),
            n=n,
            alpha=ALPHA,
            confidence="scores",
            progress=True,
        )
    histogram = np.array(made.table.column("scores").to_pylist())
    return histogram, made.table.column("confidence").to_numpy()


def shifted(ends: Interval, shift: float) -> Interval:
    """A standard certificate: the interval of the mean, moved in probit space."""
    from scipy.special import ndtr

    z = probit(*ends)
    return Interval(ndtr(z.lower - shift), ndtr(z.upper + shift))


def widths(histogram: NDArray[np.int64], mean: NDArray[np.float64]) -> dict[str, Any]:
    n = int(histogram[0].sum())
    standard = {
        name: score_interval(histogram, mean, ALPHA, name)
        for name in ("hoeffding", "bernstein", "betting")
    }
    bands = {
        "cdf, DKW (Kumar et al.)": score_band(histogram, ALPHA, "dkw"),
        "cdf, DKW and binomial": score_band(histogram, ALPHA),
        "cdf, DKW, binomial and mean (default)": score_band(histogram, ALPHA, mean=mean),
    }
    confident = mean >= CONFIDENT
    rows: dict[str, Any] = {}
    ends: dict[str, dict[float, Interval]] = {}
    for name, interval in standard.items():
        ends[f"standard, {name}"] = {r: shifted(interval, r / SIGMA) for r in RADII}
    for name, band in bands.items():
        ends[name] = {r: band.at(r / SIGMA) for r in RADII}
    # Never looser than the standard one with the same kind of bound, beyond the width of a bin and the two slacks.
    slack = 1 / histogram.shape[1] + math.sqrt(math.log(2 / ALPHA) / (2 * n))
    for r in RADII:
        kumar, plain = ends["cdf, DKW (Kumar et al.)"][r], ends["standard, hoeffding"][r]
        assert (kumar.lower >= plain.lower - slack).all()
        assert (kumar.upper <= plain.upper + slack).all()
    for name, at in ends.items():
        rows[name] = {
            f"R = {r / SIGMA:g} sigma": {
                "all": float((at[r].upper - at[r].lower).mean()),
                "confident": float((at[r].upper - at[r].lower)[confident].mean())
                if confident.any()
                else None,
                "largest lower end": float(at[r].lower.max()),
            }
            for r in RADII
        }
    return {"images": len(mean), "confident": int(confident.sum()), "n": n, "widths": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few images and draws")
    parser.add_argument("--images", type=int, default=100)
    given = parser.parse_args()
    images, n = (20, 5000) if given.quick else (given.images, 100_000)
    found = widths(*demo_scores(images, n))
    middle = "R = 0.5 sigma"
    peer = found["widths"]["standard, hoeffding"][middle]
    print(
        f"\n{found['images']} images of the demo, {found['confident']} of them confident (mean >= {CONFIDENT}), n = {n:,}"
    )
    print(
        f"| certificate | mean width at {middle} | against standard Hoeffding | confident | largest lower end at R = 0 |"
    )
    print("|---|---|---|---|---|")
    for name, row in found["widths"].items():
        at = row[middle]
        sure = "-" if at["confident"] is None else f"{at['confident']:.4f}"
        print(
            f"| {name} | {at['all']:.4f} | {at['all'] / peer['all'] - 1:+.0%} | {sure} | "
            f"{row['R = 0 sigma']['largest lower end']:.5f} |"
        )
    if not given.quick:
        harness.write("scores", "python bench/bench_scores.py", found)


if __name__ == "__main__":
    main()
