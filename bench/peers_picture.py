# SPDX-License-Identifier: MIT
"""The picture of bench/peers.py: ratios and goals, and a roofline. Draws again with: python bench/peers_picture.py [NAME]"""

from __future__ import annotations

import json
import sys
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from harness import RESULTS

INK, OURS, SHORT, PEER, ROOF = "#222222", "#2a6fbb", "#c9622b", "#9a9a9a", "#555555"
MARKERS = "osD^vP*X"


def label_of(row: dict[str, Any]) -> str:
    return f"{row['operation']}\nagainst {row['peer']}"


def draw_ratios(axes: Any, title: str, rows: list[dict[str, Any]]) -> None:
    """One bar a row, peer time over ours: median, range of the runs, and the goal as a black line."""
    for y, row in enumerate(rows):
        ratio, goal = row["peer_over_ours"], row["goal"]
        median = ratio["median"]
        color = PEER if goal is None else OURS if row["reached"] else SHORT
        axes.barh(y, median, height=0.5, color=color)
        axes.plot([ratio["min"], ratio["max"]], [y, y], color=INK, linewidth=1)
        if goal is not None:
            axes.plot([goal, goal], [y - 0.38, y + 0.38], color="black", linewidth=2.5)
        text = f"{median:.3g} x" + ("" if goal is None else f"  (goal {goal:g})")
        end = max(ratio["max"], goal or 0)
        axes.annotate(text, (end, y), (6, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xscale("log")
    low = min(min(row["peer_over_ours"]["min"], row["goal"] or 1, 1) for row in rows)
    high = max(max(row["peer_over_ours"]["max"], row["goal"] or 1) for row in rows)
    axes.set_xlim(low / 2, high * 12)
    axes.set_yticks(range(len(rows)), [label_of(row) for row in rows], fontsize=8.5)
    axes.invert_yaxis()
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel(
        "time of the peer / time of certcal (higher is better; thin line: range of runs;\n"
        "black: goal; blue: reached, orange: not reached, grey: no goal)",
        fontsize=9,
    )
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def draw_roofline(
    axes: Any, title: str, machine: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """Operations a second over operations a byte, ours filled and the peer hollow, both at the work of the definition.

    The roof is the rate of float32 fma. Integer operations, which noise has as many of, can be issued beside those.
    """
    points = [row for row in rows if "bytes" in row]
    bandwidth = machine["copy_bytes_per_second"] / 1e9
    peak = machine["matrix_product_operations_per_second"] / 1e9
    intensities = [row["operations"] / row["bytes"] for row in points]
    left, right = min(intensities) / 3, max(max(intensities), peak / bandwidth) * 3
    ridge = peak / bandwidth
    axes.plot([left, ridge, right], [left * bandwidth, peak, peak], color=ROOF, linewidth=1.5)
    middle = (left * ridge) ** 0.5
    axes.annotate(
        f"copy, {bandwidth:,.0f} GB/s",
        (middle, middle * bandwidth),
        (8, -4),
        textcoords="offset points",
        va="top",
        fontsize=9,
        color=ROOF,
    )
    axes.annotate(
        f"float32 matrix product, {peak:,.0f} Gop/s",
        (right / 1.1, peak),
        (0, 5),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=ROOF,
    )
    for k, (row, x) in enumerate(zip(points, intensities, strict=True)):
        ours = row["gigaoperations_per_second"]
        peer = ours * row["ours_seconds"]["median"] / row["peer_seconds"]["median"]
        style: dict[str, Any] = {
            "marker": MARKERS[k % len(MARKERS)],
            "color": f"C{k % 10}",
            "markersize": 8,
            "linestyle": "none",
        }
        axes.plot([x, x], [peer, ours], color=style["color"], linewidth=0.8)
        axes.plot(x, peer, **style, markerfacecolor="white")
        axes.plot(x, ours, **style, label=row["operation"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_xlabel("operations per byte that the operation must move", fontsize=9)
    axes.set_ylabel("operations per second, billions", fontsize=9)
    axes.set_title(f"{title} (filled: certcal, hollow: peer)", loc="left", fontsize=11)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncol=2, frameon=False)
    axes.grid(which="major", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw(name: str, measurements: dict[str, Any]) -> None:
    """Writes bench/results/NAME.svg and NAME.png."""
    devices = [device for device in ("cpu", "cuda") if device in measurements]
    heights = [1.6 + 0.52 * len(measurements[device]["rows"]) for device in devices]
    figure, grid = plt.subplots(
        len(devices),
        2,
        figsize=(16, max(5.6 * len(devices), sum(heights))),
        squeeze=False,
        height_ratios=heights,
        width_ratios=(1.15, 1),
        layout="constrained",
    )
    for axes, device in zip(grid, devices, strict=True):
        part = measurements[device]
        title = "CPU" if device == "cpu" else f"CUDA, {part['machine']['device']}"
        draw_ratios(axes[0], f"{title}: times faster than the peer", part["rows"])
        draw_roofline(axes[1], f"{title}: roofline", part["machine"], part["rows"])
    mpl.rcParams["svg.hashsalt"] = "certcal"  # the same picture has the same bytes
    for suffix in ("svg", "png"):
        metadata: dict[str, Any] = {"Date": None} if suffix == "svg" else {}
        figure.savefig(RESULTS / f"{name}.{suffix}", dpi=110, metadata=metadata)
    plt.close(figure)
    print(f"bench/results/{name}.svg and {name}.png written")


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "peers"
    draw(chosen, json.loads((RESULTS / f"{chosen}.json").read_text())["measurements"])
