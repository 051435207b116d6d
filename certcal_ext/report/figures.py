# SPDX-License-Identifier: MIT
"""The drawings of a report, as SVG elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext._claims import at_least, at_most, count, fixed, percent, share, size
from certcal_ext.certificates.statements import names_radius
from certcal_ext.report import style
from certcal_ext.report.facts import Facts, Further, Gain, Reliability
from certcal_ext.report.models import draw_models
from certcal_ext.report.words import place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_INTERVALS = 240
_LEAST_RESOLUTION = 5e-5  # with less, all maps would lie on one line


def draw_all(facts: Facts) -> dict[str, str]:
    """The SVG elements of a report by name; curves only where there is more than one radius.

    Raises:
        ImportError: matplotlib is missing.
    """
    with style.settings():
        drawings = {}
        if facts.worst is not None:
            drawings["reliability"] = _reliability(facts, facts.worst)
            drawings["intervals"] = _intervals(facts)
        by_radius = facts.dense.radius[-1] > 0 and len(facts.dense.radius) > 1
        if by_radius and facts.certified and names_radius(facts.provenance):
            drawings["accuracy"] = _accuracy(facts)
            drawings["ece"] = _ece(facts)
            drawings["brier"] = _brier(facts)
        if facts.further is not None:
            drawings["risk"] = _risk(facts, facts.further)
            gain = facts.further.gain
            if gain is not None and gain.report.before.resolution >= _LEAST_RESOLUTION:
                drawings["gain"] = _gain(facts, gain)
        compared = None if facts.models is None else draw_models(facts.models)
        if compared is not None:
            drawings["models"] = compared
    return drawings


def _reliability(facts: Facts, worst: Reliability) -> str:
    drawing = style.figure(5.0)
    top, bottom = style.reliability_axes(drawing)
    for diagram, name, colour, marker in (
        (facts.clean, "without attack", style.CLEAN, "o"),
        (worst, "worst case", style.WORST, "D"),
    ):
        if diagram is not None:
            bubbles(top, diagram, name, colour, marker)
    style.legend(drawing, top, columns=2)
    shares = worst.count / worst.count.sum()
    style.histogram(bottom, facts.edges, -shares, style.WORST)
    if facts.clean is not None:
        clean_shares = facts.clean.count / facts.clean.count.sum()
        style.histogram(bottom, facts.edges, clean_shares, style.CLEAN)
        shares = np.maximum(shares, clean_shares)
    limit = float(shares.max()) * 1.1
    bottom.axhline(0, color=style.MUTED, linewidth=0.8)
    bottom.set_ylim(-limit, limit if facts.clean is not None else 0)
    drawing.align_ylabels()
    row = facts.main
    return style.to_svg(
        drawing,
        "reliability",
        f"Reliability diagram {place(facts)}",
        f"Accuracy against confidence for {count(facts.certified)} certified samples. Without "
        f"attack "
        f"the calibration error is {percent(facts.curve.ece[row])}, in the worst case "
        f"{at_most(facts.curve.certified_ece[row], as_percent=True)}. Below: how many samples each bin holds, "
        "without attack upwards and in the worst case downwards.",
    )


def bubbles(axes: Axes, diagram: Reliability, name: str, colour: str, marker: str) -> None:
    """A marker a bin, larger where it holds more samples, and its distance to the diagonal."""
    held = diagram.count > 0
    x, y = diagram.confidence[held], diagram.accuracy[held]
    sizes = 22 + 170 * diagram.count[held] / diagram.count.sum()
    axes.vlines(x, np.minimum(x, y), np.maximum(x, y), color=colour, alpha=0.45, linewidth=2.5)
    marks = axes.scatter(
        x, y, s=sizes, color=colour, marker=marker, edgecolors=style.CARD, zorder=3
    )
    marks.set(linewidths=0.8, clip_on=False)
    axes.plot([], [], color=colour, marker=marker, linestyle="none", markersize=7, label=name)


def _ece(facts: Facts) -> str:
    drawing = style.figure(3.3)
    axes = drawing.subplots()
    dense = facts.dense
    _worst_and_clean(axes, facts, dense.certified_ece, dense.ece)
    _radius_axis(axes, facts, "expected calibration error")
    axes.set_ylim(0, _top(dense.ece, dense.certified_ece))
    style.percents(axes.yaxis)
    style.legend(drawing, axes, columns=2)
    show = partial(at_most, as_percent=True)
    return style.to_svg(
        drawing,
        "ece",
        "Expected calibration error against radius",
        _trend(facts, "The certified calibration error", facts.curve.certified_ece, show),
    )


def _brier(facts: Facts) -> str:
    drawing = style.figure(3.1)
    axes = drawing.subplots()
    dense = facts.dense
    _worst_and_clean(axes, facts, dense.certified_brier, dense.brier)
    axes.plot(dense.radius, dense.constant_brier, label="constant confidence", **style.LEVEL)
    _radius_axis(axes, facts, "Brier score")
    axes.set_ylim(0, _top(dense.certified_brier, dense.constant_brier, dense.brier))
    style.legend(drawing, axes, columns=2)
    return style.to_svg(
        drawing,
        "brier",
        "Brier score against radius",
        _trend(facts, "The certified Brier score", facts.curve.certified_brier, at_most)
        + " A constant confidence equal to the accuracy would score "
        f"{at_least(facts.curve.constant_brier[facts.main])} there.",
    )


def _worst_and_clean(
    axes: Axes, facts: Facts, worst: NDArray[np.float64], clean: NDArray[np.float64]
) -> None:
    """Both by radius, and what an attacker can do between them."""
    x = facts.dense.radius
    axes.fill_between(x, clean, worst, color=style.WORST, alpha=0.12, linewidth=0)
    axes.plot(x, worst, color=style.WORST, label="worst case, exact")
    axes.plot(x, clean, color=style.CLEAN, linestyle=style.DASHED, label="without attack")


def _accuracy(facts: Facts) -> str:
    drawing = style.figure(2.5)
    axes = drawing.subplots()
    dense = facts.dense
    certified = dense.certified / np.maximum(dense.total, 1)
    axes.fill_between(
        dense.radius, 0, dense.certified_accuracy, color=style.CLEAN, alpha=0.14, linewidth=0
    )
    axes.plot(dense.radius, certified, color=style.MUTED, linestyle=style.DASHED, label="certified")
    axes.plot(
        dense.radius, dense.certified_accuracy, color=style.CLEAN, label="certified and right"
    )
    _radius_axis(axes, facts, "share of all samples")
    axes.set_ylim(0, 1.02)
    style.percents(axes.yaxis)
    style.legend(drawing, axes, columns=2)
    right = round(float(facts.curve.certified_accuracy[facts.main]) * facts.total)
    return style.to_svg(
        drawing,
        "accuracy",
        "Certified accuracy against radius",
        f"At radius {size(facts.radius)}, {share(right, facts.total)} of all "
        f"{count(facts.total)} samples are certified and right.",
    )


def _intervals(facts: Facts) -> str:
    chosen = facts.chosen
    right = np.asarray(chosen.correct, dtype=bool)
    groups = [("right", right, style.CLEAN), ("wrong", ~right, style.WORST)]
    groups = [group for group in groups if group[1].any()]
    ratios = [math.sqrt(np.count_nonzero(group[1]) / len(right)) for group in groups]
    drawing = style.figure(2.7)
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
        axes.set_title(f"{count(total)} {name}", fontsize=10.5, color=style.INK)
        axes.set(ylim=(-0.02, 1.02), xticks=[])
        axes.grid(axis="x", visible=False)
    panels[0].set_ylabel("confidence")
    drawing.supxlabel("samples, in order of confidence", fontsize=10.5)
    width = float(np.mean(chosen.upper - chosen.lower))
    return style.to_svg(
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
        axes.scatter(x, middle[order], s=4, color=style.INK, linewidths=0, zorder=3)
    axes.set_xlim(-0.5, len(order) - 0.5)


def _radius_axis(axes: Axes, facts: Facts, label: str) -> None:
    """The radius below, the metric at the side, a line at the radius the page is about."""
    last = float(facts.dense.radius[-1])
    norm = facts.provenance.norm
    axes.set(
        xlabel="radius" if norm is None else f"radius ({style.plain_text(norm)} norm)", ylabel=label
    )
    axes.set_xlim(0, last)
    axes.axvline(facts.radius, color=style.GRID, linewidth=5, zorder=0)


def _top(*curves: NDArray[np.float64]) -> float:
    values = np.concatenate(curves)
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


def _risk(facts: Facts, further: Further) -> str:
    """Worst-case share of errors among the accepted, against the share of samples accepted there."""
    drawing = style.figure(3.0)
    axes = drawing.subplots()
    tops = [0.01]
    for curve, name, colour, line in (
        (further.plain_risk, "without attack", style.CLEAN, style.DASHED),
        (further.risk, "worst case, exact", style.WORST, "-"),
    ):
        if curve is None:
            continue
        held = curve.coverage_at_worst > 0
        order = np.argsort(curve.coverage_at_worst[held], kind="stable")
        x, y = curve.coverage_at_worst[held][order], curve.risk[held][order]
        axes.plot(x, y, color=colour, linestyle=line, label=name)
        tops.append(float(y[x > 0.02].max(initial=0.01)))
    overall = further.risk.constant
    axes.axhline(overall, label="accept at random", **style.LEVEL)
    axes.set(xlabel="share of certified samples accepted", ylabel="wrong among the accepted")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, min(1.02, 1.1 * max([*tops, overall])))
    style.percents(axes.xaxis, axes.yaxis)
    style.legend(drawing, axes, columns=2)
    plain = further.plain_risk
    beside = "" if plain is None else f" and {fixed(plain.aurc)} without attack"
    return style.to_svg(
        drawing,
        "risk",
        f"Risk against coverage {place(facts)}",
        "Share of wrong predictions among those accepted for their confidence, against how many "
        f"are accepted. The area under the curve is at most {at_most(further.risk.aurc)} in the worst "
        f"case{beside}; accepting at random has {at_least(overall, as_percent=True)} errors throughout.",
    )


def _gain(facts: Facts, gain: Gain) -> str:
    drawing = style.figure(4.9)
    top, bottom = drawing.subplots(2, 1, sharex=True)
    curve, report = gain.curve, gain.report
    was, now = report.before, report.after
    order = np.argsort(curve.resolution, kind="stable")
    x = curve.resolution[order]
    looks: dict[str, Any] = {"color": style.WORST}
    for axes, name in ((top, "brier"), (bottom, "ece")):
        certified, plain = getattr(curve, f"certified_{name}"), getattr(curve, name)
        before, after = (getattr(scores, f"certified_{name}") for scores in (was, now))
        axes.plot(x, certified[order], marker=".", label="worst case, exact", **looks)
        axes.plot(
            x, plain[order], color=style.CLEAN, linestyle=style.DASHED, label="without attack"
        )
        axes.scatter([was.resolution], [before], marker="D", zorder=3, label="as it is", **looks)
        looks_now = {**looks, "edgecolors": style.MUTED, "zorder": 4}
        axes.scatter([now.resolution], [after], marker="s", label="recalibrated", **looks_now)
        axes.set_ylim(0, 1.15 * max(float(certified.max()), before, after))
    top.axhline(curve.constant_brier, label="constant confidence", **style.LEVEL)
    top.set_ylabel("Brier score")
    bottom.set(xlabel="resolution: what the confidences still tell", ylabel="calibration error")
    style.percents(bottom.yaxis)
    bottom.set_xlim(left=0)
    bottom.locator_params(axis="x", nbins=5)
    style.legend(drawing, top, columns=2)
    drawing.align_ylabels()
    return style.to_svg(
        drawing,
        "gain",
        f"Recalibration {place(facts)}",
        f"Certified Brier score and calibration error of {count(report.n)} samples, against the resolution "
        "of their confidences, for monotone maps between the best one without attack (right) and the "
        "best one under attack (left). The constant confidence has no resolution and a Brier score of "
        f"{at_least(report.constant_brier)}.",
    )
