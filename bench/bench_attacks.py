# SPDX-License-Identifier: MIT
"""How strong the attacks are at equal gradient count, and whether any passes a certified bound.

Strength (attacks_strength.py): every attack and the peers on the demo's network, plain and smoothed, for several seeds of
data split, weights and noise, and on a network for Fashion-MNIST. Soundness (attacks_soundness.py): every attack at five
radii against the certificates, by votes and by scores.

Run with: python bench/bench_attacks.py [--quick] [--images 1200] [--seeds 3] [--parts FOLDER] [--figure]
About 20 minutes of one core. What is done lies in the folder of parts, and a run that was stopped goes on from there; give
another folder to start afresh. Fashion-MNIST is read from the folder that CERTCAL_SHARED names. The figure is drawn from
bench/results/attacks.json; --figure does only that.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from attacks_soundness import FRESH, Size, certified, soundness
from attacks_strength import SIGMA, digits, fashion, ours, over_seeds, strength
from harness import RESULTS, write

from certcal_ext.attacks import Attack, PlainVictim, SmoothedVictim
from certcal_ext.attacks.geometry import Ball

RADII = (0.05, 0.1, 0.15, 0.2, 0.25)
QUICK_RADII = (0.1, 0.25)
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "attacks_against_bound.svg"


def soundness_attacks(
    radii: tuple[float, ...], steps: int, draws: int
) -> dict[float, dict[str, Attack]]:
    """Those of the strength runs, with fewer steps, and fewer noises for the targets of the guided one."""
    found = {}
    for radius in radii:
        here = ours(radius, "l2", steps)
        guided = here.pop("cce-guided")
        found[radius] = here | {"cce-guided": dataclasses.replace(guided, draws=draws)}
    return found


def all_strength(quick: bool, seeds: int, device: str, parts: Path) -> dict[str, Any]:
    """One entry a network, victim and norm: a list over seeds, each from disk where it was done before."""
    images, draws, fresh_draws, steps = (40, 8, 300, 12) if quick else (400, 16, 1000, 20)
    found: dict[str, Any] = {}
    cases = [
        (network, smooth, norm, radius, seed)
        for seed in range(seeds)
        for network, smooth, norm, radius in (
            ("digits", False, "l2", 0.3),
            ("digits", False, "linf", 0.03),
            ("digits", True, "l2", 0.3),
            ("fashion", False, "l2", 0.3),
        )
        if network == "digits" or (seed == 0 and not quick)
    ]
    for network, smooth, norm, radius, seed in cases:
        title = f"{network}, {'smoothed' if smooth else 'plain'}, {norm}"
        path = parts / f"strength-{title.replace(', ', '-')}-{seed}.json"
        if not path.exists():
            data = (
                digits(images, seed)
                if network == "digits"
                else fashion(1000, 20000, 4, device, seed)
            )
            victim = fresh = PlainVictim(data[0].to(device))
            if smooth:
                victim = SmoothedVictim(data[0], sigma=SIGMA, draws=draws, seed=5 + seed)
                fresh = victim.with_draws(fresh_draws, first_draw=FRESH)
            case = strength(
                f"{title}, seed {seed}", data, victim, fresh, Ball(norm, radius), steps, device
            )
            path.write_text(json.dumps(case))
        found.setdefault(title, []).append(json.loads(path.read_text()))
    return {
        title: {"over_seeds": over_seeds(cases), "seeds": cases} for title, cases in found.items()
    }


def all_soundness(quick: bool, images: int, parts: Path) -> dict[str, Any]:
    """The demo's network at every radius."""
    radii = QUICK_RADII if quick else RADII
    size = Size(1000, 8, 300, 3000, 10) if quick else Size()
    network, x, labels = digits(images)
    scene = certified(network, x, labels, SIGMA, size.n, parts)
    attacks = soundness_attacks(radii, 6 if quick else 10, 64 if quick else 256)
    return soundness(scene, attacks, size, parts)


def draw(measured: dict[str, Any]) -> None:
    """Clean metric, best attack and bound by radius, for both kinds of confidence."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    colours = {"bound": "#c2470a", "attack": "#16202c", "clean": "#0068a8"}
    settings = {"svg.hashsalt": "certcal_ext", "font.size": 9, "axes.grid": True, "grid.color": "#e3e7ec",
                "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
    with matplotlib.rc_context(settings):
        drawing = Figure(figsize=(7.2, 5.2), layout="constrained")
        axes = drawing.subplots(2, 2, sharex=True, sharey="row")
        for column, kind in enumerate(("votes", "scores")):
            rows = measured["soundness"][kind]["rows"]
            radii = [row["radius"] for row in rows]
            for line, metric in enumerate(("ece", "brier")):
                ax = axes[line, column]
                for part, label, marker in (
                    ("bound", "certified bound", "s"),
                    ("attack", "strongest attack", "o"),
                    ("clean", "no attack", "D"),
                ):
                    values = [row[f"{part}_{metric}"] for row in rows]
                    ax.plot(
                        radii, values, color=colours[part], marker=marker, markersize=4, label=label
                    )
                ax.label_outer()
            axes[0, column].set_title(f"confidence by {kind}")
            axes[1, column].set_xlabel("radius")
        for line, name in enumerate(("calibration error", "Brier score")):
            axes[line, 0].set_ylabel(name)
            axes[line, 0].set_ylim(bottom=0)  # last, as the axis is shared
        drawing.legend(
            *axes[0, 0].get_legend_handles_labels(),
            loc="outside upper center",
            ncols=3,
            frameon=False,
        )
        drawing.savefig(FIGURE, metadata={"Date": None, "Creator": None}, facecolor="white")
    # The writer leaves blanks at the ends of lines.
    text = FIGURE.read_text(encoding="utf-8")
    FIGURE.write_text("\n".join(map(str.rstrip, text.splitlines())) + "\n", encoding="utf-8")
    print(f"{FIGURE.name} written")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--images", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parts", type=Path, default=None)
    parser.add_argument("--figure", action="store_true")
    chosen = parser.parse_args()
    if chosen.figure:
        draw(json.loads((RESULTS / "attacks.json").read_text())["measurements"])
        return
    torch.set_num_threads(1)  # networks this small gain nothing from a second thread
    quick = chosen.quick
    name = f"certcal-attacks{'-quick' if quick else ''}"
    parts = chosen.parts or Path(tempfile.gettempdir()) / name
    parts.mkdir(parents=True, exist_ok=True)
    measured = {
        "strength": all_strength(
            quick, chosen.seeds or (1 if quick else 3), chosen.device, parts
        ),
        "soundness": all_soundness(quick, chosen.images or (60 if quick else 1200), parts),
    }  # fmt: skip
    if not quick:
        write("attacks", "python bench/bench_attacks.py", measured)
        draw(measured)


if __name__ == "__main__":
    main()
