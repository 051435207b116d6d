# SPDX-License-Identifier: MIT
"""How far the approximate solvers of the literature stay below the exact certified ECE, on a real model's counts.

CIFAR-10, ResNet-110, sigma 0.25, n = 100,000 (shared folder, ``CERTCAL_SHARED``): all 10,000 test images, and every fifth of
them, which makes 2,000 as in the paper. Run with: python bench/bench_baselines.py [--quick]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from harness import spread, timed, write

import certcal_ext as cc
from certcal_ext.milp.baselines import (
    STARTS,
    LowerEstimate,
    lower_estimate_admm,
    lower_estimate_brier_worst,
    lower_estimate_dece,
)

SHARED = Path(
    os.environ.get("CERTCAL_SHARED", Path(__file__).resolve().parents[1].parent / "shared")
)
COUNTS = SHARED / "data/cifar10_cohen_resnet110/sigma_0.25_n_100000.npz"
RADII = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75)
EVERY = {2000: 5, 10_000: 1}
BINS, ALPHA = 15, 1e-3


def summary(found: LowerEstimate, exact: float) -> dict[str, Any]:
    if not found.value <= exact:
        raise AssertionError(f"an estimate of {found.value} is above the exact value {exact}")
    return {
        "value": found.value,
        "below_exact": exact - found.value,
        "seconds": found.seconds,
        "steps": found.steps,
    }


def measure(cert: cc.Certificates, radius: float, every: int, steps: int) -> dict[str, Any]:
    certified = cert.at(radius)
    mine = certified.index % every == 0
    assert certified.correct is not None
    problem = certified.correct[mine], certified.lower[mine], certified.upper[mine]
    exact = cc.certified_ece(*problem, bins=BINS).value
    seconds = spread([timed(lambda: cc.certified_ece(*problem, bins=BINS)) for _ in range(31)])
    admm = {
        start: summary(lower_estimate_admm(*problem, BINS, steps=steps, starts=[start]), exact)
        for start in STARTS
    }
    return {
        "images": 10_000 // every,
        "radius": radius,
        "certified": int(mine.sum()),
        "exact": exact,
        "exact_seconds": seconds,
        "brier_worst": summary(lower_estimate_brier_worst(*problem, BINS), exact),
        "dece": summary(lower_estimate_dece(*problem, BINS, steps=min(steps, 1000)), exact),
        "admm": admm,
        "admm_best": max(admm.values(), key=lambda run: run["value"]),
        "admm_worst": min(admm.values(), key=lambda run: run["value"]),
        "admm_seconds": sum(run["seconds"] for run in admm.values()),
    }


COLUMNS = (
    "images",
    "R",
    "certified",
    "exact",
    "ADMM, best of 4 starts",
    "ADMM, from the middle",
    "ADMM, worst start",
    "DECE ascent",
    "Brier-worst",
    "exact, ms",
    "ADMM (4 starts), s",
    "DECE, s",
)


def line(row: dict[str, Any]) -> str:
    exact = row["exact"]

    def cell(part: dict[str, Any]) -> str:
        return f"{part['value']:.4f} (-{100 * part['below_exact'] / exact:.1f} %)"

    parts = (row["admm_best"], row["admm"]["middle"], row["admm_worst"])
    cells = [
        f"{row['images']:,}",
        f"{row['radius']:g}",
        f"{row['certified']:,}",
        f"{exact:.4f}",
        *map(cell, (*parts, row["dece"], row["brier_worst"])),
        f"{1e3 * row['exact_seconds']['median']:.2f}",
        f"{row['admm_seconds']:.1f}",
        f"{row['dece']['seconds']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def worst(rows: list[dict[str, Any]], images: int, *path: str) -> dict[str, float]:
    """The row in which a method stays furthest below the exact value."""

    def part(row: dict[str, Any]) -> dict[str, Any]:
        for name in path:
            row = row[name]
        return row

    most = max(
        (row for row in rows if row["images"] == images), key=lambda r: part(r)["below_exact"]
    )
    below = part(most)["below_exact"]
    return {"below_exact": below, "share": below / most["exact"], "radius": most["radius"]}


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    cert = cc.Certificates.from_npz(COUNTS, alpha=ALPHA)
    rows = []
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for images in (2000,) if quick else EVERY:
        for radius in (0.05, 0.5) if quick else RADII:
            rows.append(measure(cert, radius, EVERY[images], steps=100 if quick else 3000))
            print(line(rows[-1]), flush=True)
    if quick:
        return
    methods = {
        "admm_best_of_4_starts": ("admm_best",),
        "admm_from_the_middle": ("admm", "middle"),
        "admm_worst_start": ("admm_worst",),
        "dece": ("dece",),
        "brier_worst": ("brier_worst",),
    }
    furthest = {
        name: {str(images): worst(rows, images, *path) for images in EVERY}
        for name, path in methods.items()
    }
    for name, sets in furthest.items():
        for images, found in sets.items():
            print(
                f"{name}, {images} images: at most {found['below_exact']:.4f} below the exact value "
                f"({100 * found['share']:.0f} %, at R = {found['radius']:g})"
            )
    write(
        "baselines",
        "python bench/bench_baselines.py",
        {
            "counts": "CIFAR-10 ResNet-110, sigma 0.25, n 100,000, alpha 0.001; 2,000: every fifth image",
            "bins": BINS,
            "admm": {"steps_at_most": 3000, "penalty": 0.03, "growth": 1.005, "starts": STARTS},
            "dece": {"steps": 1000, "learning_rate": 0.01, "temperature": 0.01, "starts": 2},
            "furthest_below": furthest,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
