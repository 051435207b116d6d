# SPDX-License-Identifier: MIT
"""The drawings of a report, as SVG elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from certcal_ext._claims import at_least, at_most, count, percent, share, size
from certcal_ext.certificates.statements import names_radius
from certcal_ext.report.facts import Facts, Reliability
from certcal_ext.report.further_figures import draw_further
from certcal_ext.report.models import draw_models
from certcal_ext.report.style import (
    CARD,
    CLEAN,
    CONSTANT,
    GRID,
    INK,
    MUTED,
    WORST,
    figure,
    legend,
    plain_text,
    style,
    to_svg,
)
from certcal_ext.report.words import place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_INTERVALS = 240


def draw_all(facts: Facts) -> dict[str, str]:
    """The SVG elements of a report by name; curves only where there is more than one radius.

    Raises:
        ImportError: matplotlib is missing.
    """
    with style():
        drawings = {}
        if facts.worst is not None:
            drawings["reliability"] = _reliability(facts, facts.worst)
            drawings["intervals"] = _intervals(facts)
        by_radius = facts.dense.radius[-1] > 0 and len(facts.dense.radius) > 1
        if by_radius and facts.certified and names_radius(facts.provenance):
            drawings["accuracy"] = _accuracy(facts)
            drawings["ece"] = _ece(facts)
            drawings["brier"] = _brier(facts)
        drawings |= draw_further(facts)
        compared = None if facts.models is None else draw_models(facts.models)
        if compared is not None:
            drawings["models"] = compared
    return drawings


def _reliability(facts: Facts, worst: Reliability) -> str:
    drawing = figure(5.0)
    top, bottom = drawing.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for diagram, name, colour, marker in (
        (facts.clean, "without attack", CLEAN, "o"),
        (worst, "worst case", WORST, "D"),
    ):
        if diagram is not None:
            _bubbles(top, diagram, name, colour, marker)
    top.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04), ylabel="share of right predictions")
    legend(drawing, top, columns=2)

    shares = worst.count / worst.count.sum()
    bottom.bar(
        facts.edges[:-1], -shares, width=np.diff(facts.edges), align="edge", color=WORST, alpha=0.75
    )
    if facts.clean is not None:
        clean_shares = facts.clean.count / facts.clean.count.sum()
        bottom.bar(
            facts.edges[:-1],
            clean_shares,
            width=np.diff(facts.edges),
            align="edge",
            color=CLEAN,
            alpha=0.75,
        )
        shares = np.maximum(shares, clean_shares)
    limit = float(shares.max()) * 1.1
    bottom.axhline(0, color=MUTED, linewidth=0.8)
    bottom.set(
        ylim=(-limit, limit if facts.clean is not None else 0),
        xlabel="confidence",
        ylabel="samples",
    )
    bottom.yaxis.set_major_formatter(lambda value, _: f"{100 * abs(value):.4g} %")
    drawing.align_ylabels()
    row = facts.main
    return to_svg(
        drawing,
        "reliability",
        f"Reliability diagram {place(facts)}",
        f"Accuracy against confidence for {count(facts.certified)} certified samples. Without "
        f"attack "
        f"the calibration error is {percent(facts.curve.ece[row])}, in the worst case "
        f"{at_most(facts.curve.certified_ece[row], as_percent=True)}. Below: how many samples each bin holds, "
        "without attack upwards and in the worst case downwards.",
    )


def _bubbles(axes: Axes, diagram: Reliability, name: str, colour: str, marker: str) -> None:
    """A marker a bin, larger where it holds more samples, and its distance to the diagonal."""
    held = diagram.count > 0
    x, y = diagram.confidence[held], diagram.accuracy[held]
    sizes = 22 + 170 * diagram.count[held] / diagram.count.sum()
    axes.vlines(x, np.minimum(x, y), np.maximum(x, y), color=colour, alpha=0.45, linewidth=2.5)
    marks = axes.scatter(x, y, s=sizes, color=colour, marker=marker, edgecolors=CARD, zorder=3)
    marks.set(linewidths=0.8, clip_on=False)
    axes.plot([], [], color=colour, marker=marker, linestyle="none", markersize=7, label=name)


def _ece(facts: Facts) -> str:
    drawing = figure(3.3)
    axes = drawing.subplots()
    dense = facts.dense
    _band(axes, dense.radius, dense.ece, dense.certified_ece)
    axes.plot(dense.radius, dense.certified_ece, color=WORST, label="worst case, exact")
    axes.plot(dense.radius, dense.ece, color=CLEAN, linestyle=(0, (5, 1.5)), label="without attack")
    _radius_axis(axes, facts, "expected calibration error")
    _percent_axis(axes, np.concatenate([dense.ece, dense.certified_ece]))
    legend(drawing, axes, columns=2)
    return to_svg(
        drawing,
        "ece",
        "Expected calibration error against radius",
        _trend(
            facts,
            "The certified calibration error",
            facts.curve.certified_ece,
            partial(at_most, as_percent=True),
        ),
    )


def _brier(facts: Facts) -> str:
    drawing = figure(3.1)
    axes = drawing.subplots()
    dense = facts.dense
    _band(axes, dense.radius, dense.brier, dense.certified_brier)
    axes.plot(dense.radius, dense.certified_brier, color=WORST, label="worst case, exact")
    axes.plot(
        dense.radius, dense.brier, color=CLEAN, linestyle=(0, (5, 1.5)), label="without attack"
    )
    axes.plot(
        dense.radius,
        dense.constant_brier,
        color=CONSTANT,
        linestyle=(0, (1.2, 1.4)),
        linewidth=2.2,
        label="constant confidence",
    )
    _radius_axis(axes, facts, "Brier score")
    top = _top(np.concatenate([dense.certified_brier, dense.constant_brier, dense.brier]))
    axes.set_ylim(0, top)
    legend(drawing, axes, columns=2)
    return to_svg(
        drawing,
        "brier",
        "Brier score against radius",
        _trend(facts, "The certified Brier score", facts.curve.certified_brier, at_most)
        + " A constant confidence equal to the accuracy would score "
        f"{at_least(facts.curve.constant_brier[facts.main])} there.",
    )


def _accuracy(facts: Facts) -> str:
    drawing = figure(2.5)
    axes = drawing.subplots()
    dense = facts.dense
    certified = dense.certified / np.maximum(dense.total, 1)
    axes.fill_between(
        dense.radius, 0, dense.certified_accuracy, color=CLEAN, alpha=0.14, linewidth=0
    )
    axes.plot(dense.radius, certified, color=MUTED, linestyle=(0, (5, 1.5)), label="certified")
    axes.plot(
        dense.radius,
        dense.certified_accuracy,
        color=CLEAN,
        label="certified and right",
    )
    _radius_axis(axes, facts, "share of all samples")
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    legend(drawing, axes, columns=2)
    right = round(float(facts.curve.certified_accuracy[facts.main]) * facts.total)
    return to_svg(
        drawing,
        "accuracy",
        "Certified accuracy against radius",
        f"At radius {size(facts.radius)}, {share(right, facts.total)} of all "
        f"{count(facts.total)} samples are certified and right.",
    )


def _intervals(facts: Facts) -> str:
    chosen = facts.chosen
    right = np.asarray(chosen.correct, dtype=bool)
    groups = [("right", right, CLEAN), ("wrong", ~right, WORST)]
    groups = [group for group in groups if group[1].any()]
    ratios = [math.sqrt(np.count_nonzero(group[1]) / len(right)) for group in groups]
    drawing = figure(2.7)
    panels = drawing.subplots(
        1,
        len(groups),
        sharey=True,
        squeeze=False,
        width_ratios=[max(0.35, ratio) for ratio in ratios],
    )[0]
    middle = chosen.confidence if facts.clean is not None else None
    for axes, (name, rows, colour) in zip(panels, groups, strict=True):
        _bars(
            axes,
            chosen.lower[rows],
            chosen.upper[rows],
            None if middle is None else middle[rows],
            colour,
        )
        total = int(np.count_nonzero(rows))
        axes.set_title(f"{count(total)} {name}", fontsize=10.5, color=INK)
        axes.set(ylim=(-0.02, 1.02), xticks=[])
        axes.grid(axis="x", visible=False)
    panels[0].set_ylabel("confidence")
    drawing.supxlabel("samples, in order of confidence", fontsize=10.5)
    width = float(np.mean(chosen.upper - chosen.lower))
    return to_svg(
        drawing,
        "intervals",
        f"Confidence intervals {place(facts)}",
        f"What an attacker can make of the confidence of each of {count(facts.certified)} "
        f"certified "
        f"samples. The intervals are {at_most(width)} wide on average.",
    )


def _bars(
    axes: Axes,
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    middle: NDArray[np.float64] | None,
    colour: str,
) -> None:
    """Intervals side by side in order of confidence; at most ``_MOST_INTERVALS``, evenly picked."""
    order = np.lexsort((upper, lower) if middle is None else (upper, lower, middle))
    if len(order) > _MOST_INTERVALS:
        picks = np.linspace(0, len(order) - 1, _MOST_INTERVALS).round().astype(np.int64)
        order = order[picks]
    x = np.arange(len(order))
    edges = np.arange(len(order) + 1) - 0.5
    axes.stairs(
        upper[order], edges, baseline=lower[order], fill=True, color=colour, alpha=0.5, linewidth=0
    )
    if middle is not None:
        axes.scatter(x, middle[order], s=4, color=INK, linewidths=0, zorder=3)
    axes.set_xlim(-0.5, len(order) - 0.5)


def _band(
    axes: Axes, x: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> None:
    axes.fill_between(x, low, high, color=WORST, alpha=0.12, linewidth=0)


def _radius_axis(axes: Axes, facts: Facts, label: str) -> None:
    """The radius below, the metric at the side, a line at the radius the page is about."""
    last = float(facts.dense.radius[-1])
    norm = facts.provenance.norm
    axes.set(xlabel="radius" if norm is None else f"radius ({plain_text(norm)} norm)", ylabel=label)
    axes.set_xlim(0, last)
    axes.axvline(facts.radius, color=GRID, linewidth=5, zorder=0)


def _percent_axis(axes: Axes, values: NDArray[np.float64]) -> None:
    axes.set_ylim(0, _top(values))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")


def _top(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return max(0.01, float(finite.max(initial=0)) * 1.08)


def _trend(
    facts: Facts, what: str, values: NDArray[np.float64], show: Callable[[float], str]
) -> str:
    """The metric at the first and at the main radius, in words."""
    first, here = float(facts.curve.radius[0]), facts.radius
    return (
        f"{what} is {show(values[0])} at radius {size(first)} and {show(values[facts.main])} "
        f"at radius {size(here)}, the radius of this page."
    )
