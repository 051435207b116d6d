# SPDX-License-Identifier: MIT
"""Tables and pictures of the experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiment_plan import Plan

METRICS = {
    "certified_accuracy": "cert. acc.",
    "certified_brier": "CBS",
    "certified_ece": "CCE",
    "skill": "skill",
}
COLOURS = ("#4c566a", "#1f77b4", "#d95f02", "#7570b3", "#1b9e77", "#e7298a")
DASHES = ("-", "--", ":")


def number(value: float, digits: int = 3) -> str:
    return "n/a" if not math.isfinite(value) else f"{value:.{digits}f}"


def pair(cell: dict[str, Any], at: int) -> str:
    """Mean and standard deviation."""
    mean, std = cell["mean"][at], cell["std"][at]
    return number(mean) if not math.isfinite(std) else f"{number(mean)} ± {number(std)}"


def share(cell: dict[str, Any]) -> str:
    std = "" if not math.isfinite(cell["std"]) else f" ± {100 * cell['std']:.1f}"
    return f"{100 * cell['mean']:+.1f}{std} %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def write_markdown(record: dict[str, Any], plan: Plan, path: Path) -> None:
    """All tables in one page."""
    lines = [
        f"# Training experiment, plan `{plan.name}`",
        "",
        f"`{record['command']}`, commit {record['environment']['commit']}, {record['environment']['processor']}. "
        f"Mean ± standard deviation over {len(plan.seeds)} seeds. CBS: certified Brier score, CCE: exact certified ECE, "
        f"{plan.bins} bins; lower is better. Skill is 1 - CBS / (acc (1 - acc)). `all`: over all test images, the others "
        "at their worst.",
        "",
    ]
    for name, part in record["measurements"].items():
        lines += of_data(name, part, plan)
    path.write_text("\n".join(lines).rstrip() + "\n")


def of_data(name: str, part: dict[str, Any], plan: Plan) -> list[str]:
    choice, at = part["choice"], part["choice"]["at"]
    images, draws = part["images"], part["draws"]
    lines = [
        f"## {name}",
        "",
        f"{part['model']}, sigma {part['sigma']:g}; {images['training']:,} training, {images['validation']:,} validation "
        f"and {images['test']:,} test images; n = {draws['n']:,}. Main radius R = {choice['radius']:g}: the largest in the "
        f"plan at which {plan.reference} certifies at least {plan.least_accuracy:.0%} (validation). Of each method the "
        f"candidate with the lowest validation CBS is taken among those within {100 * plan.within:g} points of the best "
        f"certified accuracy ({choice['best']:.3f}); methods marked * have none, and their most accurate one is taken.",
        "",
    ]
    star = {n: n if c["within"] else f"{n} *" for n, c in choice["runs"].items()}
    for confidence, found in part["measures"].items():
        lines += [f"### Confidence by {confidence}, R = {choice['radius']:g}", ""]
        head = [
            "method",
            *METRICS.values(),
            "CBS all",
            "CCE all",
            "CBS cut",
            "CCE cut",
            "cert. acc. gain",
        ]
        rows = []
        for method, cells in found["plain"].items():
            cuts = part["compared"][confidence].get(method)
            rows.append(
                [
                    star[method],
                    *(pair(cells[m], at) for m in METRICS),
                    *(pair(cells[f"certified_{m}_all"], at) for m in ("brier", "ece")),
                    *(
                        ["", "", ""]
                        if cuts is None
                        else [
                            share(cuts["certified_brier_cut"]),
                            share(cuts["certified_ece_cut"]),
                            share(cuts["accuracy_gain"]),
                        ]
                    ),
                ]
            )
        lines += table(head, rows)
        lines += [
            f"Recalibrated for R = {choice['radius']:g} (isotonic, fitted on one half of the test images, certified on the "
            "other), and on the images that all methods certify:",
            "",
        ]
        head = [
            "method",
            "CBS half",
            "CBS recal.",
            "CCE half",
            "CCE recal.",
            "CBS all recal.",
            "skill recal.",
        ]
        head += ["common images", "CBS", "CCE", "CBS recal.", "CCE recal."]
        rows = []
        for method in found["plain"]:
            half, after = found["half"][method], found["recalibrated"][method]
            common, common_after = found["common"][method], found["common_recalibrated"][method]
            rows.append(
                [
                    star[method],
                    pair(half["certified_brier"], at),
                    pair(after["certified_brier"], at),
                    pair(half["certified_ece"], at),
                    pair(after["certified_ece"], at),
                    pair(after["certified_brier_all"], at),
                    pair(after["skill"], at),
                    number(common["samples"]["mean"][at], 0),
                    pair(common["certified_brier"], at),
                    pair(common["certified_ece"], at),
                    pair(common_after["certified_brier"], at),
                    pair(common_after["certified_ece"], at),
                ]
            )
        lines += table(head, rows)
        for measure, title in (*METRICS.items(), ("certified_brier_all", "CBS, scope all")):
            lines += [f"{title} by radius, {confidence}:", ""]
            head = ["method", *(f"R = {radius:g}" for radius in part["radii"])]
            rows = [
                [star[m], *(pair(cells[measure], k) for k in range(len(part["radii"])))]
                for m, cells in found["plain"].items()
            ]
            lines += table(head, rows)
    lines += ["### Training time", ""]
    head = ["method", "processor seconds", "with its start", "wall seconds", "with its start"]
    head += ["inner solver", "inner solver a step"]
    rows = [
        [
            star[m],
            number(cost["cpu_seconds"]["mean"], 1),
            number(cost["cpu_seconds_with_start"]["mean"], 1),
            f"{cost['seconds']['mean']:.1f}",
            f"{cost['seconds_with_start']['mean']:.1f}",
            f"{cost['inner_share']['mean']:.2%}",
            f"{cost['inner_milliseconds']:.2f} ms",
        ]
        for m, cost in part["costs"].items()
    ]
    lines += table(head, rows)
    lines += ["### Candidates on the validation images, main radius", ""]
    head = ["run", "start", "options", *METRICS.values()]
    rows = [
        [
            c["run"],
            c["start"] or "",
            ", ".join(f"{k} {v}" for k, v in c["options"].items()),
            *(number(c[m]) for m in METRICS),
        ]
        for c in part["candidates"]
    ]
    return lines + table(head, rows)


def write_picture(record: dict[str, Any], plan: Plan, path: Path) -> None:
    """Certified accuracy, CBS and CCE over the radius by scores; a row a data set, bands of one standard deviation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    plt.rcParams.update({"svg.hashsalt": "certcal", "svg.fonttype": "none", "font.size": 9})
    found = record["measurements"]
    figure, axes = plt.subplots(
        len(found), 3, figsize=(11, 3.2 * len(found)), squeeze=False, layout="constrained"
    )
    titles = {
        "certified_accuracy": "certified accuracy",
        "certified_brier": "certified Brier score",
        "certified_ece": "certified ECE",
    }
    for row, (name, part) in zip(axes, found.items(), strict=True):
        radii = np.array(part["radii"])
        for axis, (measure, title) in zip(row, titles.items(), strict=True):
            methods = part["measures"]["scores"]["plain"]
            for number_of, (method, cells) in enumerate(methods.items()):
                colour = COLOURS[number_of % len(COLOURS)]
                dashes = DASHES[number_of // len(COLOURS) % len(DASHES)]
                mean, std = np.array(cells[measure]["mean"]), np.array(cells[measure]["std"])
                axis.plot(radii, mean, color=colour, ls=dashes, label=method, lw=1.3)
                if np.isfinite(std).any():
                    axis.fill_between(radii, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
            axis.axvline(part["choice"]["radius"], color="#999999", linewidth=0.8, linestyle=":")
            axis.set_xlabel("l2 radius")
            axis.set_title(f"{name}: {title}", fontsize=9)
            axis.set_ylim(bottom=0)
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
