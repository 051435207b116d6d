# SPDX-License-Identifier: MIT
"""Fewer draws: certified metrics of adaptive runs against the full run of 100,000 draws a sample, and against plain runs.

Draws are replayed from the stored CIFAR-10 counts (shared folder, sigma 0.25), in an order that the seed fixes. Every
draw but those that select the class is counted, planning draws too; the full and the plain runs have those as well.

Run with: python bench/bench_stopping.py [--quick] [--demo]

``--demo`` also counts 100,000 draws of 500 images of the demonstration (50 million forward passes), and runs on the model.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import write
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

import certcal_ext as cc
from certcal_ext.adaptive import AdaptiveResult, ReplayedVotes, run_adaptive
from certcal_ext.draw_plans import what_more_draws_buy
from certcal_ext.intervals import Interval, clopper_pearson
from certcal_ext.stopping import Stopping

SIGMA, ALPHA, N = 0.25, 1e-3, 100_000
RADII = (SIGMA / 4, SIGMA / 2, SIGMA, 2 * SIGMA)
#: Goals: how many times fewer draws, at each radius; and how near to the full run.
FEWER, NEAR, SAME = (10, 10, 10, 4), 0.005, 0.99
MOST = 25_000.0


@dataclass(frozen=True)
class Values:
    """Certified metrics of some intervals at a radius."""

    certified: NDArray[np.bool_]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    correct: NDArray[np.bool_]

    @classmethod
    def of(cls, ends: Interval, correct: NDArray[np.bool_], radius: float) -> Values:
        shift = radius / SIGMA
        z_lower, z_upper = ndtri(ends.lower), ndtri(ends.upper)
        return cls(z_lower > shift, ndtr(z_lower - shift), ndtr(z_upper + shift), correct)

    def metrics(self, rows: NDArray[np.bool_] | None = None) -> tuple[float, float]:
        rows = self.certified if rows is None else rows
        arrays = self.correct[rows], self.lower[rows], self.upper[rows]
        return cc.certified_brier(*arrays).value, cc.certified_ece(*arrays).value


def compare(run: Values, full: Values) -> dict[str, float]:
    """Differences to the full run; "common": over the samples that both certify."""
    both = run.certified & full.certified
    brier, ece = (a - b for a, b in zip(run.metrics(), full.metrics(), strict=True))
    common = [a - b for a, b in zip(run.metrics(both), full.metrics(both), strict=True)]
    return {
        "brier": brier,
        "ece": ece,
        "common_brier": common[0],
        "common_ece": common[1],
        "same_decisions": float(np.mean(run.certified == full.certified)),
        "certified": int(run.certified.sum()),
    }


class Study:
    """One set of stored votes."""

    def __init__(self, votes: NDArray[np.int64], correct: NDArray[np.bool_]) -> None:
        self.votes, self.correct = votes, correct
        ends = clopper_pearson(votes, N, ALPHA)
        self.full = {r: Values.of(ends, correct, r) for r in RADII}

    def compare_run(self, result: AdaptiveResult) -> list[dict[str, Any]]:
        ends = Interval(result.lower, result.upper)
        draws = result.draws_total / self.votes.size
        return [
            {"radius_over_sigma": r / SIGMA, "draws": draws, "fewer": N / draws}
            | compare(Values.of(ends, self.correct, r), self.full[r])
            for r in result.stopping.radii
        ]

    def adaptive(self, radii: tuple[float, ...], seed: int, **rules: Any) -> AdaptiveResult:
        source = ReplayedVotes(self.votes, N, seed)
        return run_adaptive(source, self.correct, SIGMA, ALPHA, Stopping(radii=radii, **rules))

    def plain(self, radius: float, draws: int, seed: int) -> dict[str, Any]:
        rows = np.arange(self.votes.size)
        counts = ReplayedVotes(self.votes, N, seed).votes(rows, 0, draws)
        values = Values.of(clopper_pearson(counts, draws, ALPHA), self.correct, radius)
        entry = {"radius_over_sigma": radius / SIGMA, "draws": float(draws), "fewer": N / draws}
        return entry | compare(values, self.full[radius])


HEADER = (
    "| run | R / sigma | draws | fewer | Brier | ECE | Brier, common | ECE, common | same decisions | within 0.005, 99 % |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def show(name: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Prints the worst of the seeds, and gives all of them."""
    worst = {
        key: max((e[key] for e in entries), key=abs)
        for key in ("brier", "ece", "common_brier", "common_ece")
    }
    draws, same = max(e["draws"] for e in entries), min(e["same_decisions"] for e in entries)
    ratio = entries[0]["radius_over_sigma"]
    fewer = FEWER[[r / SIGMA for r in RADII].index(ratio)]
    within = max(abs(worst["brier"]), abs(worst["ece"])) <= NEAR and same >= SAME
    print(
        f"| {name} | {ratio:g} | {draws:,.0f} | {N / draws:.1f} x | {worst['brier']:+.4f} | {worst['ece']:+.4f} | "
        f"{worst['common_brier']:+.4f} | {worst['common_ece']:+.4f} | {100 * same:.2f} % | {'yes' if within else 'no'} |",
        flush=True,
    )
    return {
        "run": name,
        "radius_over_sigma": ratio,
        "within": within,
        "fewer_than_goal": N / draws < fewer,
        "seeds": entries,
    }


def study(
    data: Study, seeds: range, joint_radii: tuple[tuple[float, ...], ...]
) -> list[dict[str, Any]]:
    """Adaptive runs a radius, joint runs, and plain runs of as many draws."""
    print(HEADER)
    rows = []
    for radius in RADII:
        runs = [data.compare_run(data.adaptive((radius,), s, max_draws=MOST))[0] for s in seeds]
        rows.append(show("adaptive, this radius", runs))
        same = round(max(run["draws"] for run in runs))
        for draws in sorted({same, 10_000, 25_000}):
            rows.append(show(f"plain n = {draws:,}", [data.plain(radius, draws, s) for s in seeds]))
    for radii in joint_radii:
        results = [data.compare_run(data.adaptive(radii, s)) for s in seeds]
        for r, _ in enumerate(radii):
            rows.append(show(f"adaptive, {len(radii)} radii", [entries[r] for entries in results]))
    results = [data.compare_run(data.adaptive(RADII, s, max_draws=MOST)) for s in seeds]
    for r, _ in enumerate(RADII):
        rows.append(
            show("adaptive, 4 radii, max_draws 25,000", [entries[r] for entries in results])
        )
    return rows


def sequences(data: Study) -> list[dict[str, Any]]:
    """Confidence sequences, one seed."""
    results = [data.compare_run(data.adaptive((r,), 0, method="sequence")) for r in RADII]
    return [show("sequence, this radius", entries) for entries in results]


def forecasts(data: Study) -> list[dict[str, Any]]:
    """What more draws would buy, after a run with few."""
    result = data.adaptive(RADII, 0, max_draws=5_000.0)
    print(
        "\n| R / sigma | draws | certified | certified Brier | certified ECE | what it is |\n|---|---|---|---|---|---|"
    )
    rows = []
    for entry in what_more_draws_buy(result):
        e = entry.expected
        kind = "full run, estimate" if entry.factor is None else f"x {entry.factor:g}, estimate"
        kind = "this run" if entry.factor == 1 else kind
        print(
            f"| {e.radius / SIGMA:g} | {e.draws:,.0f} | {e.certified:,.0f} | {e.brier:.4f} | {e.ece:.4f} | {kind} |"
        )
        rows.append({"kind": kind, **vars(e)})
        if entry.factor is None:
            full = data.full[e.radius]
            brier, ece = full.metrics()
            print(
                f"| {e.radius / SIGMA:g} | {N:,} | {full.certified.sum():,} | {brier:.4f} | {ece:.4f} | full run |"
            )
    return rows


def demo(seeds: range) -> tuple[Study, list[dict[str, Any]]]:
    """The demonstration: full counts of 500 images, and one joint run on the model itself."""
    import torch

    from certcal_ext.demo import DemoSettings, load_digits
    from certcal_ext.demo.model import train
    from certcal_ext.smoothing import SmoothedClassifier

    settings = DemoSettings()
    images, labels = load_digits()
    order = np.random.Generator(np.random.PCG64(settings.seed)).permutation(len(images))
    held_out = np.sort(order[: settings.images])
    training = np.sort(order[settings.images : settings.images + settings.training_images])
    network = train(
        images[training], labels[training], sigma=SIGMA, epochs=settings.epochs, seed=settings.seed
    ).eval()
    x = torch.from_numpy(images[held_out])
    smooth = SmoothedClassifier(network, num_classes=10, sigma=SIGMA, seed=settings.seed)
    with smooth.selecting(x, n0=settings.n0, sample_ids=held_out) as chosen:
        rows = np.arange(held_out.size)
        correct = chosen.classes == labels[held_out]
        started = time.perf_counter()
        data = Study(chosen.source.votes(rows, settings.n0, N), correct)
        seconds = time.perf_counter() - started
        started = time.perf_counter()
        rules = Stopping(radii=RADII, max_draws=MOST)
        result = run_adaptive(chosen.source, correct, SIGMA, ALPHA, rules, first_draw=settings.n0)
    print(
        f"\nDemo, {held_out.size} images: the full run took {seconds:.0f} s, four radii on the model "
        f"{time.perf_counter() - started:.0f} s\n"
    )
    print(HEADER)
    return data, [show("on the model, 4 radii", [entry]) for entry in data.compare_run(result)]


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("CERTCAL_SHARED", default)) / "data" / "cifar10_cohen_resnet110"
    stored = np.load(folder / f"sigma_0.25_n_{N}.npz")
    counts = stored["counts"].astype(np.int64)
    selected = counts.argmax(1)
    data = Study(counts[np.arange(len(counts)), selected], selected == stored["label"])
    seeds = range(1 if quick else 3)
    print("Worst of the seeds; Brier and ECE are certified ones, minus those of the full run.\n")
    found: dict[str, Any] = {"cifar10": study(data, seeds, (RADII[:3], RADII))}
    if not quick:
        found["sequence"] = sequences(data)
    found["forecast"] = forecasts(data)
    command = "python bench/bench_stopping.py"
    if "--demo" in sys.argv[1:]:
        digits, on_model = demo(seeds)
        found["demo"] = on_model + study(digits, seeds, (RADII[:3], RADII))
        command += " --demo"
    if not quick:
        write("stopping", command, found)


if __name__ == "__main__":
    main()
