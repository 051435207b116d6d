# SPDX-License-Identifier: MIT
"""Draws docs/figures/*.svg from the published CIFAR-10 counts (CERTCAL_SHARED) and from bench/results.

python tools/make_figures.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

import certcal_ext as cc
from certcal_ext.certificates.validity import failing_intervals

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
SHARED = Path(os.environ.get("CERTCAL_SHARED", ROOT.parent / "shared"))
COUNTS = SHARED / "data" / "cifar10_cohen_resnet110" / "sigma_0.25_n_100000.npz"
CLEAN, WORST, FLOOR, GREY = "#0068a8", "#c2470a", "#007a5a", "#5a6775"
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "certcal",
    "font.size": 10.5,
    "axes.grid": True,
    "grid.color": "#e3e7ec",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def save(name: str) -> None:
    path = ROOT / "docs" / "figures" / f"{name}.svg"
    path.parent.mkdir(exist_ok=True)
    plt.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close()
    print(path.relative_to(ROOT))


def percent(axes: Axes, axis: str = "y") -> None:
    getattr(axes, f"{axis}axis").set_major_formatter(lambda value, _: f"{100 * value:.4g} %")


def exact_against_estimates(made: cc.Certificates) -> None:
    """The certified ECE by radius, and what approximate solvers find."""
    stored = json.loads((RESULTS / "baselines.json").read_text())
    radii = np.linspace(0, 0.9, 91)
    curve = made.curve(radii)
    _, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.plot(radii, curve.certified_ece, color=WORST, linewidth=2, label="exact worst case")
    axes.plot(radii, curve.ece, color=CLEAN, linestyle="--", linewidth=2, label="without attack")
    measured = [row for row in stored["measurements"]["rows"] if row["images"] == 10_000]
    at = [row["radius"] for row in measured]
    names = ("admm_best", "admm_worst", "dece", "brier_worst")
    values = {name: [row[name]["value"] for row in measured] for name in names}
    lows, highs = values["admm_worst"], values["admm_best"]
    axes.vlines(at, lows, highs, color=GREY, linewidth=6, alpha=0.45, label="ADMM, four starts")
    for name, label, marker in (
        ("dece", "gradient ascent (DECE)", "s"),
        ("brier_worst", "at the Brier-worst confidences", "^"),
    ):
        axes.scatter(at, values[name], color=GREY, marker=marker, s=22, zorder=3, label=label)
    axes.set(
        xlabel="l2 radius of the attack",
        ylabel="expected calibration error",
        xlim=(0, 0.9),
        ylim=(0, None),
    )
    percent(axes)
    axes.legend()
    save("exact_against_estimates")


def reliability(made: cc.Certificates) -> None:
    """A reliability diagram without attack and in the worst case."""
    chosen = made.at(0.05)
    edges = np.linspace(0, 1, 16)
    worst = cc.certified_ece(chosen.correct, chosen.lower, chosen.upper)
    _, axes = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    for z, colour, label in (
        (chosen.confidence, CLEAN, "without attack"),
        (worst.worst_confidence, WORST, "worst case at radius 0.05"),
    ):
        bins = np.searchsorted(edges[1:-1], z)
        held = np.bincount(bins, minlength=15)
        keep = held > 0
        mean = np.bincount(bins, z, 15)[keep] / held[keep]
        right = np.bincount(bins, chosen.correct, 15)[keep] / held[keep]
        axes.vlines(mean, np.minimum(mean, right), np.maximum(mean, right), color=colour, alpha=0.5)
        axes.scatter(mean, right, s=15 + 200 * held[keep] / held.sum(), color=colour, label=label)
    axes.set(
        xlabel="confidence",
        ylabel="share of right predictions",
        xlim=(-0.02, 1.02),
        ylim=(-0.03, 1.03),
    )
    axes.legend()
    save("reliability")


def certified(made: cc.Certificates) -> None:
    """What a certificate says: intervals of single images, and the bound that follows for all of them."""
    radius = 0.1
    chosen = made.at(radius)
    ranked = np.argsort(chosen.confidence, kind="stable")
    levels = np.linspace(chosen.confidence.min(), 1, 36)
    order = ranked[np.searchsorted(chosen.confidence[ranked], levels)]
    place = np.arange(order.size)
    _, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.7), layout="constrained")
    left.vlines(
        place,
        chosen.lower[order],
        chosen.upper[order],
        color=WORST,
        linewidth=4,
        alpha=0.55,
        label=f"certified under attacks of size {radius:g}",
    )
    for correct, marker, label in ((1, "o", "right, without attack"), (0, "X", "wrong")):
        rows = chosen.correct[order] == correct
        left.scatter(
            place[rows],
            chosen.confidence[order][rows],
            color=CLEAN,
            marker=marker,
            s=18 if correct else 42,
            zorder=3,
            label=label,
        )
    left.set(
        xlabel="certified images, one for each level of confidence",
        ylabel="confidence",
        ylim=(0, 1.02),
        xticks=[],
    )
    left.legend(loc="lower right")
    radii = np.linspace(0, 0.5, 51)
    bound = made.bound("ece", radii, delta=1e-3)
    assert bound.joint is not None
    right.plot(radii, bound.joint, color=WORST, linewidth=2, label="bound, with 99.9 %")
    right.plot(radii, bound.plain, color=CLEAN, linestyle="--", linewidth=2, label="without attack")
    right.fill_between(radii, bound.joint, 0.3, color=WORST, alpha=0.08, linewidth=0)
    right.text(0.25, 0.255, "no attack of this size gets here", color=WORST, ha="center")
    right.set(
        xlabel="l2 size of the attack on every image",
        ylabel="expected calibration error",
        xlim=(0, 0.5),
        ylim=(0, 0.3),
    )
    percent(right)
    right.legend(loc="center right", bbox_to_anchor=(1, 0.42))
    save("certified")


def recalibration(made: cc.Certificates) -> None:
    """Certified scores against resolution at two radii."""
    _, panels = plt.subplots(1, 2, figsize=(8.2, 3.4), layout="constrained")
    for axes, radius in zip(panels, (0.05, 0.25), strict=True):
        split = cc.recalibrate_split(made, radius)
        curve = split.resolution_curve(radius)
        report = split.reports([radius])[0]
        assert report is not None
        order = np.argsort(curve.resolution, kind="stable")
        axes.plot(
            curve.resolution[order],
            curve.certified_brier[order],
            color=WORST,
            marker=".",
            label="certified",
        )
        axes.plot(
            curve.resolution[order],
            curve.brier[order],
            color=CLEAN,
            linestyle="--",
            label="without attack",
        )
        before = report.before
        axes.scatter(
            before.resolution,
            before.certified_brier,
            color=WORST,
            marker="D",
            zorder=3,
            label="as it is",
        )
        axes.axhline(
            curve.constant_brier,
            color=FLOOR,
            linestyle=":",
            linewidth=2,
            label="a constant confidence",
        )
        axes.set(
            xlabel="resolution",
            ylabel="Brier score",
            title=f"radius {radius:g}",
            xlim=(0, 1.05 * max(curve.resolution.max(), before.resolution)),
            ylim=(0, 1.1 * max(curve.constant_brier, before.certified_brier)),
        )
    panels[0].legend(loc="lower left")
    save("recalibration")


def joint_validity() -> None:
    """What joint validity costs: the binomial count against N."""
    sizes = np.unique(np.geomspace(100, 100_000, 60).astype(int))
    _, axes = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    for alpha, colour in ((1e-3, WORST), (1e-4, CLEAN), (1e-5, FLOOR)):
        cost = [2 * failing_intervals(int(n), alpha, 1e-3) / n for n in sizes]
        axes.plot(sizes, cost, color=colour, label=f"alpha = {alpha:g}")
    axes.set(xscale="log", xlabel="samples N", ylabel="largest addition to the ECE", ylim=(0, None))
    percent(axes)
    axes.legend(title="binomial count, delta = 0.001")
    save("joint_validity")


def risk(made: cc.Certificates) -> None:
    """Risk against coverage, without attack and in the worst case."""
    chosen = made.at(0.05)
    _, axes = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    plain = cc.risk_coverage(chosen.correct, chosen.confidence)
    worst = cc.certified_risk_coverage(chosen.correct, chosen.lower, chosen.upper)
    for curve, colour, label in (
        (plain, CLEAN, "without attack"),
        (worst, WORST, "worst case at radius 0.05"),
    ):
        order = np.argsort(curve.coverage_at_worst, kind="stable")
        axes.plot(curve.coverage_at_worst[order], curve.risk[order], color=colour, label=label)
    axes.axhline(worst.constant, color=FLOOR, linestyle=":", linewidth=2, label="accept at random")
    axes.set(
        xlabel="share of samples accepted",
        ylabel="wrong among the accepted",
        xlim=(0, 1),
        ylim=(0, 0.2),
    )
    percent(axes)
    percent(axes, "x")
    axes.legend()
    save("risk_coverage")


def main() -> None:
    if not COUNTS.is_file():
        sys.exit(f"{COUNTS}: the published counts are not there; set CERTCAL_SHARED")
    made = cc.Certificates.from_npz(COUNTS)
    with plt.rc_context(_SETTINGS):
        exact_against_estimates(made)
        certified(made)
        reliability(made)
        recalibration(made)
        joint_validity()
        risk(made)


if __name__ == "__main__":
    main()
