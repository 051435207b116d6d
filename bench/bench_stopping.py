# SPDX-License-Identifier: MIT
"""Fewer draws: certified metrics of adaptive runs against the full run of 100,000 draws a sample, and against plain runs.

Draws are replayed from the stored CIFAR-10 counts (shared folder, sigma 0.25), in an order that the seed fixes. Every
draw but those that select the class is counted, planning draws too; the full and the plain runs have those as well.

Run with: python bench/bench_stopping.py [--quick] [--demo] [--log FILE] [--votes FILE]

``--demo`` also counts 100,000 draws of 500 images of the demonstration (50 million forward passes), and runs on the model.

The settings were chosen on the CIFAR-10 counts. ``--log`` names a certification log of another model at sigma 0.25 and
100,000 draws, and only checks them on it and in fresh orders of the CIFAR-10 counts. ``--votes`` names an .npz file that
``--demo`` writes its full counts to; alone, it only asks how few draws any plan could take on them. Both keep
the other stored results.
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
from harness import RESULTS, environment, write
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array
from scipy.special import ndtr, ndtri
from scipy.stats import binom

import certcal_ext as cc
from certcal_ext.intervals.clopper_pearson import Interval, clopper_pearson, probit
from certcal_ext.stopping.adaptive import AdaptiveResult, ReplayedVotes, run_adaptive
from certcal_ext.stopping.forecast import Outcomes, cells, solve_cells
from certcal_ext.stopping.plans import what_more_draws_buy
from certcal_ext.stopping.rules import Stopping, split_interval

SIGMA, ALPHA, N = 0.25, 1e-3, 100_000
RADII = (SIGMA / 4, SIGMA / 2, SIGMA, 2 * SIGMA)
#: Goals: how many times fewer draws, at each radius; and how near to the full run.
FEWER, NEAR, SAME = (10, 10, 10, 4), 0.005, 0.99
MOST = 25_000.0
#: Orders that no setting was chosen on.
FRESH = range(10, 15)


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
    for name, source, seeds in (("fresh orders", data, FRESH), ("log", other, range(3))):
        print(f"\n{name}, {source.votes.size:,} samples, {len(seeds)} orders\n\n{HEADER}")
        found[name] = []
        for radius in RADII:
            runs = [
                source.compare_run(source.adaptive((radius,), s, max_draws=MOST))[0] for s in seeds
            ]
            found[name].append(show(f"adaptive, {name}", runs))
            same = round(max(run["draws"] for run in runs))
            plain = [source.plain(radius, same, s) for s in seeds]
            found[name].append(show(f"plain n = {same:,}, {name}", plain))
    return found


class Oracle:
    """The fewest draws of any plan of one Clopper-Pearson interval a sample that knows the vote probabilities.

    The full counts stand for the probabilities; no draws go to planning. Each sample chooses its number of draws, how alpha
    is split between the ends, or not to be drawn at all. Means over the binomial votes meet the goals; the
    ECE is the largest of its means under the sign vectors, which is at most its mean, so the answer errs low.
    """

    QUANTILES = 31
    SPLITS = (0.5, 0.95, 0.9999)
    DRAWS = tuple(round(50 * 2 ** (step / 2)) for step in range(22))

    def __init__(self, data: Study, radius: float) -> None:
        self._data, self._right = data, data.correct[:, None, None]
        levels = (np.arange(self.QUANTILES) + 0.5) / self.QUANTILES
        choices = [(n, split) for n in self.DRAWS for split in self.SPLITS]
        self._cost = np.array([n for n, _ in choices] + [N, 0]) / N / data.votes.size
        ends = []
        for n, split in choices:
            counts = binom.ppf(levels, n, data.votes[:, None] / N).astype(np.int64)
            ends.append(split_interval(counts.reshape(-1), n, ALPHA, split))
        ends.append(
            clopper_pearson(np.repeat(data.votes, self.QUANTILES), N, ALPHA)
        )  # the full run, as it was
        shape = (len(ends), data.votes.size, self.QUANTILES)
        lower, upper = (
            np.stack(end).reshape(shape).swapaxes(0, 1)
            for end in zip(*(probit(*pair) for pair in ends), strict=True)
        )
        self._outcomes = Outcomes.shifted(lower, upper, radius / SIGMA, 15)
        self._full = data.full[radius]

    def _mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(G, J) means over the votes where certified, and 0 for no draws."""
        means = (values * self._outcomes.certified).mean(axis=2)
        return np.hstack([means, np.zeros((len(means), 1))])

    def _ece(self, signs: NDArray[np.int8]) -> NDArray[np.float64]:
        wrong, right = (self._outcomes.ece_term(c, signs) for c in (0, 1))
        return self._mean(np.where(self._right, right, wrong))

    def _worst(self, use: NDArray[np.float64]) -> tuple[float, NDArray[np.int8]]:
        o, sums = self._outcomes, np.zeros((3, 2, 15, 15))
        for c in (0, 1):
            rows = self._data.correct == c
            part = Outcomes(
                o.lower[rows],
                o.upper[rows],
                o.certified[rows],
                o.first[rows],
                o.last[rows],
                o.edges,
            )
            weight = np.broadcast_to(use[rows, :-1, None] / self.QUANTILES, part.lower.shape)
            sums += cells(weight, c, part)
        return solve_cells(sums)

    def least_draws(self, keep_hard: bool) -> float:
        """Draws a sample on average.

        Args:
            keep_hard: whether missing hard samples may take at most ``NEAR`` off a metric.
        """
        o, size = self._outcomes, self._data.votes.size
        count = self._mean(np.ones(o.lower.shape))
        brier = self._mean(np.where(self._right, (1.0 - o.lower) ** 2, o.upper**2))
        brier_full, ece_full = self._full.metrics()
        full_run = np.zeros(count.shape)
        full_run[:, -2] = 1.0
        _, signs = self._worst(full_run)
        ece = self._ece(signs)
        full = self._full.certified[:, None]
        rows = [(np.where(full, 1.0 - count, count), (1.0 - SAME) * size)]
        for total, value in ((brier, brier_full), (ece, ece_full)):
            rows += [(sign * (total - value * count) - NEAR * count, 0.0) for sign in (1, -1)]
            if keep_hard:
                worth = full * (total - value)[:, -2:-1]
                rows.append(((1.0 - np.minimum(count, 1.0)) * worth, NEAR * float(full.sum())))
        one_each = csr_array(
            (np.ones(count.size), np.arange(count.size), np.arange(size + 1) * count.shape[1])
        )
        while True:
            table = csr_array(np.stack([row.reshape(-1) for row, _ in rows]))
            found = linprog(
                np.tile(self._cost, size),
                table,
                [limit for _, limit in rows],
                one_each,
                np.ones(size),
                method="highs",
            )
            value, signs = self._worst(found.x.reshape(count.shape))
            if value <= ece_full + 1.01 * NEAR:
                return float(found.fun) * N
            rows.append((self._ece(signs) - (ece_full + NEAR) * count, 0.0))


def demo_rows(data: Study) -> list[dict[str, Any]]:
    """The demonstration in fresh orders."""
    print(f"\nDemo, fresh orders\n\n{HEADER}")
    return [
        show(
            "adaptive, this radius",
            [data.compare_run(data.adaptive((r,), s, max_draws=MOST))[0] for s in FRESH],
        )
        for r in RADII
    ]


def oracle(data: Study) -> list[dict[str, float]]:
    """The fewest draws at each radius."""
    print(
        "\n| R / sigma | fewest draws | fewer | keeping hard samples | fewer |\n|---|---|---|---|---|"
    )
    rows = []
    for radius in RADII:
        known = Oracle(data, radius)
        least, kept = (known.least_draws(keep_hard) for keep_hard in (False, True))
        print(
            f"| {radius / SIGMA:g} | {least:,.0f} | {N / least:.1f} x | {kept:,.0f} | {N / kept:.1f} x |"
        )
        rows.append(
            {"radius_over_sigma": radius / SIGMA, "least_draws": least, "keeping_hard": kept}
        )
    return rows


def add_to_results(name: str, command: str, found: Any) -> None:
    """Keeps the other stored results, which may be of another commit."""
    path = RESULTS / "stopping.json"
    record = json.loads(path.read_text())
    record["measurements"][name] = {
        "command": command,
        "environment": environment(),
        "found": found,
    }
    path.write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--log")
    parser.add_argument("--votes")
    options = parser.parse_args()
    quick = options.quick
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("CERTCAL_SHARED", default)) / "data" / "cifar10_cohen_resnet110"
    stored = np.load(folder / f"sigma_0.25_n_{N}.npz")
    counts = stored["counts"].astype(np.int64)
    selected = counts.argmax(1)
    data = Study(counts[np.arange(len(counts)), selected], selected == stored["label"])
    seeds = range(1 if quick else 3)
    if options.log is not None:
        add_to_results(
            "held_out", "python bench/bench_stopping.py --log FILE", held_out(data, options.log)
        )
    if options.votes is not None and not options.demo:
        with np.load(options.votes) as kept:
            digits = Study(kept["votes"], kept["correct"])
        found_digits = {"fresh orders": demo_rows(digits), "oracle": oracle(digits)}
        add_to_results("demo_check", "python bench/bench_stopping.py --votes FILE", found_digits)
    if options.log is not None or (options.votes is not None and not options.demo):
        return
    print("Worst of the seeds; Brier and ECE are certified ones, minus those of the full run.\n")
    found: dict[str, Any] = {"cifar10": study(data, seeds, (RADII[:3], RADII))}
    if not quick:
        found["sequence"] = sequences(data)
    found["forecast"] = forecasts(data)
    command = "python bench/bench_stopping.py"
    if options.demo:
        digits, on_model = demo(seeds)
        if options.votes is not None:
            np.savez(options.votes, votes=digits.votes, correct=digits.correct)
        found["demo"] = on_model + study(digits, seeds, (RADII[:3], RADII))
        command += " --demo"
    if not quick:
        write("stopping", command, found)


if __name__ == "__main__":
    main()
