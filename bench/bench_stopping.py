# SPDX-License-Identifier: MIT
"""Fewer draws: certified metrics of adaptive runs against the full run of 100,000 draws a sample, and against plain runs.

Draws are replayed from the stored CIFAR-10 counts (shared folder, sigma 0.25), in an order that the seed fixes. Every
draw but those that select the class is counted, planning draws too; the full and the plain runs have those as well.

Run with: python bench/bench_stopping.py [--quick] [--demo] [--log FILE] [--votes FILE] [--oracle]

Each part replaces its own entries of bench/results/stopping.json and keeps the others:

* without options, the CIFAR-10 counts in the orders that the settings were chosen on;
* ``--demo`` counts 100,000 draws of 500 images of the demonstration (50 million forward passes), and runs on the model;
  with ``--votes`` the counts are kept in that .npz file;
* ``--log`` names a certification log of another model at sigma 0.25 and 100,000 draws: it, and the CIFAR-10 counts, in
  fresh orders;
* ``--votes`` alone runs on the demonstration's counts in fresh orders;
* ``--oracle`` with ``--votes`` asks how few draws any plan could take (``stopping_oracle.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import RESULTS, environment
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

import certcal_ext as cc
from certcal_ext.intervals.clopper_pearson import Interval, clopper_pearson
from certcal_ext.stopping.adaptive import AdaptiveResult, ReplayedVotes, run_adaptive
from certcal_ext.stopping.plans import what_more_draws_buy
from certcal_ext.stopping.rules import Stopping

SIGMA, ALPHA, N = 0.25, 1e-3, 100_000
RADII = (SIGMA / 4, SIGMA / 2, SIGMA, 2 * SIGMA)
#: Goals: how many times fewer draws, at each radius; and how near to the full run.
FEWER, NEAR, SAME = (10, 10, 10, 4), 0.005, 0.99
MOST = 25_000.0
#: Orders that no setting was chosen on; more of the demonstration, which is small.
FRESH, FRESH_DEMO = range(30, 33), range(30, 50)


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

    def one_radius(self, radius: float, seeds: range) -> list[dict[str, Any]]:
        """Runs for this radius alone that may take what the goal allows."""
        most = N / FEWER[RADII.index(radius)]
        runs = [self.adaptive((radius,), s, max_draws=most) for s in seeds]
        return [self.compare_run(run)[0] for run in runs]

    def plain(self, radius: float, draws: int, seed: int) -> dict[str, Any]:
        rows = np.arange(self.votes.size)
        counts = ReplayedVotes(self.votes, N, seed).votes(rows, 0, draws)
        values = Values.of(clopper_pearson(counts, draws, ALPHA), self.correct, radius)
        entry = {"radius_over_sigma": radius / SIGMA, "draws": float(draws), "fewer": N / draws}
        return entry | compare(values, self.full[radius])


HEADER = (
    "| run | R / sigma | draws | fewer | median | Brier | ECE | Brier, common | ECE, common | same decisions | "
    "orders within 0.005, 99 % |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def within(entry: dict[str, Any]) -> bool:
    """Whether a run is as near to the full one as the goal asks for."""
    return max(abs(entry["brier"]), abs(entry["ece"])) <= NEAR and entry["same_decisions"] >= SAME


def show(name: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Prints the worst of the orders, and gives all of them."""
    worst = {
        key: max((e[key] for e in entries), key=abs)
        for key in ("brier", "ece", "common_brier", "common_ece")
    }
    draws, same = max(e["draws"] for e in entries), min(e["same_decisions"] for e in entries)
    median = float(np.median([e["draws"] for e in entries]))
    ratio = entries[0]["radius_over_sigma"]
    fewer = FEWER[[r / SIGMA for r in RADII].index(ratio)]
    kept = sum(within(e) for e in entries)
    print(
        f"| {name} | {ratio:g} | {draws:,.0f} | {N / draws:.1f} x | {N / median:.1f} x | "
        f"{worst['brier']:+.4f} | {worst['ece']:+.4f} | "
        f"{worst['common_brier']:+.4f} | {worst['common_ece']:+.4f} | {100 * same:.2f} % | {kept} of {len(entries)} |",
        flush=True,
    )
    return {
        "run": name,
        "radius_over_sigma": ratio,
        "within": kept == len(entries),
        "orders_within": kept,
        "fewer_than_goal": round(N / draws, 6) < fewer,
        "median_draws": median,
        "seeds": entries,
    }


def study(
    data: Study, seeds: range, joint_radii: tuple[tuple[float, ...], ...]
) -> list[dict[str, Any]]:
    """Adaptive runs a radius, joint runs, and plain runs of as many draws."""
    print(HEADER)
    rows = []
    for radius in RADII:
        runs = data.one_radius(radius, seeds)
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
    from certcal_ext.smoothing.classifier import SmoothedClassifier

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


def held_out(data: Study, log: str) -> dict[str, Any]:
    """The settings on data that they were not chosen on."""
    made = cc.Certificates.from_cohen_log(log, SIGMA, N, ALPHA)
    drawn = made.select(~made.abstained).table
    # The middle of the counts that the printed radius allows stands for the count.
    votes = np.floor(drawn["confidence"].to_numpy() * N).astype(np.int64)
    other = Study(votes, drawn["correct"].to_numpy().astype(np.bool_))
    found: dict[str, Any] = {}
    for name, source, seeds in (("fresh orders", data, FRESH), ("log", other, FRESH)):
        print(f"\n{name}, {source.votes.size:,} samples, {len(seeds)} orders\n\n{HEADER}")
        found[name] = []
        for radius in RADII:
            runs = source.one_radius(radius, seeds)
            found[name].append(show(f"adaptive, {name}", runs))
            same = round(max(run["draws"] for run in runs))
            plain = [source.plain(radius, same, s) for s in seeds]
            found[name].append(show(f"plain n = {same:,}, {name}", plain))
    return found


def demo_rows(data: Study) -> list[dict[str, Any]]:
    """The demonstration in fresh orders, within the goal's draws and with as many as the tolerance asks for."""
    print(f"\nDemo, {len(FRESH_DEMO)} fresh orders\n\n{HEADER}")
    rows = [show("adaptive, this radius", data.one_radius(r, FRESH_DEMO)) for r in RADII]
    runs = [data.compare_run(data.adaptive((SIGMA,), s, max_draws=MOST))[0] for s in FRESH_DEMO]
    return [*rows, show("adaptive, max_draws 25,000", runs)]


def add_to_results(command: str, parts: dict[str, Any]) -> None:
    """Replaces these parts and keeps the other stored ones, which may be of another commit."""
    path = RESULTS / "stopping.json"
    stored = json.loads(path.read_text())["measurements"] if path.exists() else {}
    made = {"command": command, "environment": environment()}
    stored |= {name: made | {"found": found} for name, found in parts.items()}
    path.write_text(json.dumps({"measurements": stored}, indent=2) + "\n")
    print(f"{', '.join(parts)} written to {path.name}")


def cifar10() -> Study:
    """The stored counts."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("CERTCAL_SHARED", default)) / "data" / "cifar10_cohen_resnet110"
    stored = np.load(folder / f"sigma_0.25_n_{N}.npz")
    counts = stored["counts"].astype(np.int64)
    selected = counts.argmax(1)
    return Study(counts[np.arange(len(counts)), selected], selected == stored["label"])


def digits_of(path: str) -> Study:
    """The demonstration's counts, kept by ``--demo --votes``."""
    with np.load(path) as kept:
        return Study(kept["votes"], kept["correct"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--log")
    parser.add_argument("--votes")
    parser.add_argument("--oracle", action="store_true")
    options = parser.parse_args()
    command, seeds = "python bench/bench_stopping.py", range(1 if options.quick else 3)
    if options.oracle:
        import stopping_oracle

        if options.votes is None:
            parser.error("--oracle: expected the demonstration's counts in --votes")
        print(stopping_oracle.HEADER)
        for entry, name, votes in stopping_oracle.data_sets(digits_of(options.votes)):
            found_least = stopping_oracle.oracles(name, votes)
            add_to_results(f"{command} --votes FILE --oracle", {entry: found_least})
        return
    if options.demo:
        digits, on_model = demo(seeds)
        if options.votes is not None:
            np.savez(options.votes, votes=digits.votes, correct=digits.correct)
        found = on_model + study(digits, seeds, (RADII[:3], RADII))
        add_to_results(f"{command} --demo", {"demo": found})
        return
    if options.votes is not None:
        found_digits = {"fresh orders": demo_rows(digits_of(options.votes))}
        add_to_results(f"{command} --votes FILE", {"demo_check": found_digits})
    data = cifar10()
    if options.log is not None:
        add_to_results(f"{command} --log FILE", {"held_out": held_out(data, options.log)})
    if options.log is not None or options.votes is not None:
        return
    print("Worst of the orders; Brier and ECE are certified ones, minus those of the full run.\n")
    parts: dict[str, Any] = {"cifar10": study(data, seeds, (RADII[:3], RADII))}
    if not options.quick:
        parts["sequence"] = sequences(data)
    parts["forecast"] = forecasts(data)
    if not options.quick:
        add_to_results(command, parts)


if __name__ == "__main__":
    main()
