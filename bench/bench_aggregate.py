# SPDX-License-Identifier: MIT
"""Aggregate bounds on published CIFAR-10 votes of which few are used: the truth, the aggregate, today's joint bounds.

Selection draws and estimation draws are taken from the published counts without replacement (multivariate hypergeometric),
so they are as independent as if they had been drawn anew. Several orders; medians and spread.

Run with: python bench/bench_aggregate.py [--quick]; the folder of shared files is CERTCAL_SHARED, default ../shared.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from harness import write
from scipy.special import ndtr, ndtri

import certcal_ext as cc
from certcal_ext.aggregate import (
    Setting,
    VoteHistogram,
    aggregate_accuracy,
    aggregate_brier,
    aggregate_ece,
)
from certcal_ext.intervals.clopper_pearson import clopper_pearson, probit

SELECT, DELTA, ALPHA = 100, 1e-3, 1e-3
SHIFTS = (0.25, 0.5, 1.0)
MANY, FEWER = 99_900, (100, 400, 1000, 2000)


def drawn(sigma: float, n: int, seed: int) -> tuple[Any, Any, Any]:
    """Votes of n draws for the class that others selected, whether it is right, and its share of all draws."""
    shared = Path(
        os.environ.get("CERTCAL_SHARED", Path(__file__).resolve().parents[1].parent / "shared")
    )
    held = np.load(shared / "data" / "cifar10_cohen_resnet110" / f"sigma_{sigma}_n_100000.npz")
    counts = held["counts"].astype(np.int64)
    rng = np.random.default_rng(seed)
    chosen, votes = np.empty(len(counts), np.int64), np.empty(len(counts), np.int64)
    for row, whole in enumerate(counts):
        selection = rng.multivariate_hypergeometric(whole, SELECT)
        chosen[row] = selection.argmax()
        votes[row] = rng.multivariate_hypergeometric(whole - selection, n)[chosen[row]]
    share = counts[np.arange(len(counts)), chosen] / counts.sum(axis=1)
    return votes, chosen == held["label"], share


def fewest_votes(n: int, shift: float) -> int:
    """With which a row is certified."""
    lower = clopper_pearson(np.arange(n + 1), n, ALPHA).lower
    certified = probit(lower, lower).lower > shift
    return int(np.argmax(certified)) if certified.any() else n + 1


def measure(sigma: float, n: int, shift: float, seed: int) -> dict[str, float]:
    """All numbers of one row of the table."""
    votes, correct, share = drawn(sigma, n, seed)
    least = fewest_votes(n, shift)
    counted = votes >= least
    x = ndtri(share)
    certain = x > shift
    lower = np.where(certain, ndtr(x - shift), 0.0)
    upper = np.where(certain, ndtr(x + shift), 1.0)
    ends = correct[counted], lower[counted], upper[counted]
    histogram = VoteHistogram.of(votes, correct, n)
    setting = Setting([histogram], shift, DELTA, "certified", [least])
    started = time.process_time()
    brier, ece = aggregate_brier(setting), aggregate_ece(setting)
    accuracy = aggregate_accuracy(Setting([histogram], shift, DELTA, "all"))
    seconds = time.process_time() - started
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = cc.Certificates.from_votes(
            votes, n, np.zeros(len(votes), np.int64), np.where(correct, 0, 1), sigma, alpha=ALPHA
        )
        today = {
            metric: rows.bound(metric, shift * sigma * (1 - 1e-12), delta=DELTA).joint[0]
            for metric in ("brier", "ece")
        }
    result = {
        "rows": int(counted.sum()),
        "brier_truth": cc.certified_brier(*ends).value,
        "brier": brier.value,
        "brier_today": float(today["brier"]),
        "ece_truth": cc.certified_ece(*ends).value,
        "ece": ece.value,
        "ece_today": float(today["ece"]),
        "accuracy_truth": float((certain & correct).mean()),
        "accuracy": accuracy.value,
        "accuracy_rows": float((counted & correct).mean()),
        "seconds": seconds,
    }
    assert result["brier"] >= result["brier_truth"], result
    assert result["ece"] >= result["ece_truth"], result
    assert result["accuracy"] <= result["accuracy_truth"], result
    return result


def fewer_draws(seed: int) -> list[dict[str, float]]:
    """Scope "all", the same rows: today's joint bounds with almost all 100,000 draws, and aggregate ones with fewer."""
    left, correct, _ = drawn(0.25, MANY, seed)
    rng = np.random.default_rng(1000 + seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = cc.Certificates.from_votes(
            left, MANY, np.zeros(len(left), np.int64), np.where(correct, 0, 1), 0.25, alpha=ALPHA
        )
    found = []
    for shift in (0.25, 1.0):
        line = {"shift": shift}
        for metric in ("brier", "ece"):
            curve = rows.bound(metric, shift * 0.25 * (1 - 1e-12), delta=DELTA, scope="all")
            line[f"{metric}_today_{MANY}"] = float(curve.joint[0])
        for n in FEWER:
            votes = VoteHistogram.of(rng.hypergeometric(left, MANY - left, n), correct, n)
            setting = Setting([votes], shift, DELTA, "all")
            line[f"brier_{n}"] = aggregate_brier(setting).value
            line[f"ece_{n}"] = aggregate_ece(setting).value
        print({name: round(value, 4) for name, value in line.items()}, flush=True)
        found.append(line)
    return found


def main() -> None:
    """Prints the table and writes the results."""
    quick = "--quick" in sys.argv
    orders = 1 if quick else 3
    results = []
    for sigma in (0.25, 0.5):
        for n in (100,) if quick else (50, 100, 400):
            for shift in SHIFTS:
                runs = [measure(sigma, n, shift, seed) for seed in range(orders)]
                middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
                spread = {
                    name: max(run[name] - run[f"{name}_truth"] for run in runs)
                    for name in ("brier", "ece")
                }
                results.append(
                    {"sigma": sigma, "n": n, "shift": shift, **middle, "largest_gap": spread}
                )
                print(
                    f"| {sigma} | {n} | {shift} | {middle['rows']:,.0f} | "
                    + " | ".join(
                        f"{middle[name]:.4f}"
                        for name in (
                            *("brier_truth", "brier", "brier_today"),
                            *("ece_truth", "ece", "ece_today"),
                            *("accuracy_truth", "accuracy", "accuracy_rows"),
                        )
                    )
                    + " |",
                    flush=True,
                )
    if not quick:
        fewer = [fewer_draws(seed) for seed in range(orders)]
        measured = {
            "delta": DELTA,
            "alpha": ALPHA,
            "orders": orders,
            "rows": results,
            "fewer": fewer,
        }
        write("aggregate", "python bench/bench_aggregate.py", measured)


if __name__ == "__main__":
    main()
