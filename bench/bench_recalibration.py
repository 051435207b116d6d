# SPDX-License-Identifier: MIT
"""Certified recalibration on published CIFAR-10 certificates: fitted on one half, certified on the other.

For each source and radius, over several splits: every kind of map, ordinary isotonic regression and temperature of the
confidences without an attack as the baselines, and the constant confidence as the floor. Then maps fitted at one radius and
certified at others, the trade-off between both scores, and what the place of the jumps between fitted positions changes.

Run with: python bench/bench_recalibration.py [--quick]; the folder of shared files is CERTCAL_SHARED, default ../shared.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import timed, write
from numpy.typing import NDArray

import certcal_ext as cc
from certcal_ext.recalibration.fit import (
    KINDS,
    fit_isotonic,
    fit_recalibration,
    fit_temperature,
    fit_tradeoff,
    isotonic_blocks,
)
from certcal_ext.recalibration.maps import RecalibrationMap, StepMap
from certcal_ext.recalibration.report import recalibration_report, split_halves, tradeoff_maps

RADII = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
SCORES = (
    "certified_brier",
    "certified_ece",
    "skill",
    "certified_auroc",
    "brier",
    "ece",
    "auroc",
    "resolution",
)
MAIN = "cohen_counts_n_100000"

Half = tuple[NDArray[Any], ...]  # correct, lower, upper, confidence
Fit = Callable[[Half], RecalibrationMap]


def sources() -> dict[str, cc.Certificates]:
    folder = Path(
        os.environ.get("CERTCAL_SHARED", Path(__file__).resolve().parents[1].parent / "shared")
    )
    logs = folder / "data" / "certify_logs"
    counts = folder / "data" / "cifar10_cohen_resnet110" / "sigma_0.25_n_100000.npz"
    return {
        MAIN: cc.Certificates.from_npz(counts),
        "cohen_log": cc.Certificates.from_cohen_log(
            logs / "cifar10_cohen_resnet110_sigma_0.25.tsv", sigma=0.25, n=100_000, alpha=1e-3
        ),
        "smoothadv_log": cc.Certificates.from_cohen_log(
            logs / "cifar10_smoothadv_resnet110_sigma_0.25.tsv", sigma=0.25, n=100_000, alpha=1e-3
        ),
    }


def halves(certificates: cc.Certificates, radius: float, seed: int) -> tuple[Half, Half]:
    """The samples certified at the radius, those to fit on and those to certify on."""
    chosen = certificates.at(radius)
    fitting = split_halves(chosen.index, seed)
    columns = (chosen.correct, chosen.lower, chosen.upper, chosen.confidence)
    return tuple(c[fitting] for c in columns), tuple(c[~fitting] for c in columns)


def fits() -> dict[str, Fit]:
    """Every way to a map; the ``clean`` ones look at the confidences without an attack only."""

    def of_kind(kind: str) -> Fit:
        return lambda half: fit_recalibration(kind, *half[:3])

    def of_share(share: float) -> Fit:
        return lambda half: fit_tradeoff(*half, share=share)

    named = {kind: of_kind(kind) for kind in KINDS}
    named |= {f"tradeoff_{share:g}": of_share(share) for share in (0.2, 0.5)}
    named["clean_isotonic"] = lambda half: fit_isotonic(half[0], half[3], half[3])
    named["clean_temperature"] = lambda half: fit_temperature(half[0], half[3], half[3], loss="log")
    return named


def summarised(reports: list[Any]) -> dict[str, Any]:
    """Mean and spread over the splits."""

    def over(values: list[float]) -> dict[str, float]:
        return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}

    record: dict[str, Any] = {
        "n": over([r.n for r in reports]),
        "constant_brier": over([r.constant_brier for r in reports]),
        "kinds": sorted({r.kind for r in reports}),
    }
    for when in ("before", "after"):
        record[when] = {
            name: over([getattr(getattr(r, when), name) for r in reports]) for name in SCORES
        }
    record["brier_cut"] = over(
        [1 - r.after.certified_brier / r.before.certified_brier for r in reports]
    )
    record["ece_cut"] = over([1 - r.after.certified_ece / r.before.certified_ece for r in reports])
    return record


def reports_of(certificates: cc.Certificates, radius: float, seeds: range, fit: Fit) -> list[Any]:
    splits = [halves(certificates, radius, seed) for seed in seeds]
    return [recalibration_report(fit(fitting), *held) for fitting, held in splits]


def line(name: str, record: dict[str, Any]) -> str:
    before, after = record["before"], record["after"]

    def arrow(score: str) -> str:
        return f"{before[score]['mean']:.4f} -> {after[score]['mean']:.4f}"

    return (
        f"  {name:18s} certified Brier {arrow('certified_brier')} ({record['brier_cut']['mean']:+.0%}), ECE "
        f"{arrow('certified_ece')} ({record['ece_cut']['mean']:+.0%}); floor {record['constant_brier']['mean']:.4f}; "
        f"resolution {arrow('resolution')}, AUROC {after['auroc']['mean']:.3f}, Brier {arrow('brier')}"
    )


def all_maps(made: dict[str, cc.Certificates], seeds: range) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for source, certificates in made.items():
        for radius in RADII:
            print(f"{source}, R = {radius:g}, mean of {len(seeds)} splits")
            for name, fit in fits().items():
                record = summarised(reports_of(certificates, radius, seeds, fit))
                results.setdefault(source, {}).setdefault(f"{radius:g}", {})[name] = record
                print(line(name, record))
    return results


def across_radii(certificates: cc.Certificates, seeds: range) -> dict[str, Any]:
    """Fitted at one radius, or at several at once, and certified at all: certified Brier, ECE, resolution."""
    joint = (0.05, 0.1, 0.25)
    groups: dict[str, tuple[float, ...]] = {f"{r:g}": (r,) for r in RADII[:5]}
    groups["+".join(f"{r:g}" for r in joint)] = joint
    results: dict[str, Any] = {}
    print("fitted at (rows) and certified at (columns): certified Brier / ECE, and resolution")
    for name, fitted_at in groups.items():
        row: dict[str, Any] = {}
        for radius in RADII[:5]:
            reports = []
            for seed in seeds:
                parts = [halves(certificates, r, seed)[0] for r in fitted_at]
                together = tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))
                held = halves(certificates, radius, seed)[1]
                reports.append(recalibration_report(fit_isotonic(*together[:3]), *held))
            row[f"{radius:g}"] = summarised(reports)
        results[name] = row
        cells = [
            f"{c['after']['certified_brier']['mean']:.4f}/{c['after']['certified_ece']['mean']:.4f} "
            f"({c['after']['resolution']['mean']:.4f})"
            for c in row.values()
        ]
        print(f"  {name:14s}", *cells)
    return results


def tradeoff(certificates: cc.Certificates, seeds: range) -> dict[str, Any]:
    """Maps that are best for a mix of both scores, and mixes of the certified optimum with the identity."""
    families = {"objective": SHARES, "identity": (0.8, 0.9, 0.95)}
    results: dict[str, Any] = {}
    for radius in (0.1, 0.25, 0.5):
        print(f"trade-off, R = {radius:g}")
        for family, shares in families.items():
            for share in shares:

                def fit(half: Half, share: float = share, family: str = family) -> RecalibrationMap:
                    return tradeoff_maps(*half, shares=[share], family=family)[0]

                record = summarised(reports_of(certificates, radius, seeds, fit))
                at = results.setdefault(f"{radius:g}", {}).setdefault(family, {})
                at[f"{share:g}"] = record
                print(line(f"{family} {share:g}", record))
    return results


class LinearMap(StepMap):
    """Straight lines between blocks, for this comparison only: the ends of blocks and their levels."""

    def _values(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(z, self.jumps, self.levels[1:])


def jumps(certificates: cc.Certificates, seeds: range) -> dict[str, Any]:
    """Where between two blocks the map jumps."""

    def early(half: Half) -> RecalibrationMap:
        blocks = isotonic_blocks(*half[:3])
        return StepMap(
            tuple(np.nextafter(blocks.last[:-1], 1.0)), tuple(blocks.right / blocks.total)
        )

    def late(half: Half) -> RecalibrationMap:
        blocks = isotonic_blocks(*half[:3])
        return StepMap(tuple(blocks.first[1:]), tuple(blocks.right / blocks.total))

    def linear(half: Half) -> RecalibrationMap:
        blocks = isotonic_blocks(*half[:3])
        places = np.stack((blocks.first, blocks.last), 1).ravel()
        levels = np.repeat(blocks.right / blocks.total, 2)
        keep = np.append(True, np.diff(places) > 0)
        return LinearMap(tuple(places[keep]), (levels[0], *levels[keep]))

    ways: dict[str, Fit] = {
        "middle": lambda half: fit_isotonic(*half[:3]),
        "early": early,
        "late": late,
        "linear": linear,
    }
    results: dict[str, Any] = {}
    for radius in (0.0, 0.05, 0.1):
        print(f"place of the jumps, R = {radius:g}")
        for name, fit in ways.items():
            record = summarised(reports_of(certificates, radius, seeds, fit))
            results.setdefault(f"{radius:g}", {})[name] = record
            print(line(name, record))
    return results


def fit_times(size: int) -> dict[str, float]:
    """Seconds for one fit of ``size`` samples, the median of three."""
    random = np.random.default_rng(0)
    lower = random.random(size) * 0.9
    upper = np.minimum(1.0, lower + 0.3 * random.random(size))
    correct = random.random(size) < (lower + upper) / 2
    times = {
        kind: statistics.median(
            timed(lambda k=kind: fit_recalibration(k, correct, lower, upper)) for _ in range(3)
        )
        for kind in ("isotonic", "temperature", "platt", "beta")
    }
    print(
        f"seconds to fit {size:,} samples: " + ", ".join(f"{k} {t:.3g}" for k, t in times.items())
    )
    return times


def compact(value: Any, name: str = "") -> Any:
    """For the file: five decimals, the spread of the certified scores only, and no ``before`` (the identity's ``after``)."""
    if isinstance(value, dict):
        if "mean" in value and not name.startswith("certified") and not name.endswith("_cut"):
            return compact(value["mean"])
        return {key: compact(part, key) for key, part in value.items() if key != "before"}
    if isinstance(value, list):
        return [compact(part) for part in value]
    return round(value, 5) if isinstance(value, float) else value


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    seeds = range(2 if quick else 10)
    made = sources()
    if quick:
        made = {MAIN: made[MAIN]}
    maps = all_maps(made, seeds)
    for name in ("isotonic", "tradeoff_0.5"):
        goal = maps[MAIN]["0.25"][name]
        assert goal["brier_cut"]["min"] >= 0.25, goal
        assert goal["ece_cut"]["min"] > 0.5, goal
    measurements = {
        "splits": len(seeds),
        "maps": maps,
        "across_radii": across_radii(made[MAIN], seeds),
        "tradeoff": tradeoff(made[MAIN], seeds),
        "jumps": jumps(made[MAIN], seeds),
        "seconds_for_100000_samples": fit_times(10_000 if quick else 100_000),
    }
    if not quick:
        write("recalibration", "python bench/bench_recalibration.py", compact(measurements))


if __name__ == "__main__":
    main()
