# SPDX-License-Identifier: MIT
"""Drawings of risk against coverage, and of what recalibration gains and costs."""

from __future__ import annotations

import numpy as np

from certcal_ext._claims import at_least, at_most, count, fixed
from certcal_ext.report.facts import Facts
from certcal_ext.report.further import Gain
from certcal_ext.report.style import CLEAN, CONSTANT, MUTED, WORST, figure, legend, to_svg
from certcal_ext.report.words import place

_LEAST_RESOLUTION = 5e-5  # with less, all maps would lie on one line


def draw_further(facts: Facts) -> dict[str, str]:
    """The SVG elements by name, drawn inside ``style.style()``."""
    if facts.further is None:
        return {}
    drawings = {"risk": _risk(facts)}
    gain = facts.further.gain
    if gain is not None and gain.report.before.resolution >= _LEAST_RESOLUTION:
        drawings["gain"] = _gain(facts, gain)
    return drawings


def _risk(facts: Facts) -> str:
    """Worst-case share of errors among the accepted, against the share of samples accepted there."""
    assert facts.further is not None
    drawing = figure(3.0)
    axes = drawing.subplots()
    tops = [0.01]
    for curve, name, colour, line in (
        (facts.further.plain_risk, "without attack", CLEAN, (0, (5, 1.5))),
        (facts.further.risk, "worst case, exact", WORST, "-"),
    ):
        if curve is None:
            continue
        held = curve.coverage_at_worst > 0
        order = np.argsort(curve.coverage_at_worst[held], kind="stable")
        x, y = curve.coverage_at_worst[held][order], curve.risk[held][order]
        axes.plot(x, y, color=colour, linestyle=line, label=name)
        tops.append(float(y[x > 0.02].max(initial=0.01)))
    overall = facts.further.risk.constant
    axes.axhline(
        overall, color=CONSTANT, linestyle=(0, (1.2, 1.4)), linewidth=2.2, label="accept at random"
    )
    axes.set(xlabel="share of certified samples accepted", ylabel="wrong among the accepted")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, min(1.02, 1.1 * max([*tops, overall])))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    legend(drawing, axes, columns=2)
    plain = facts.further.plain_risk
    beside = "" if plain is None else f" and {fixed(plain.aurc)} without attack"
    return to_svg(
        drawing,
        "risk",
        f"Risk against coverage {place(facts)}",
        "Share of wrong predictions among those accepted for their confidence, against how many "
        f"are accepted. The area under the curve is at most {at_most(facts.further.risk.aurc)} in the worst "
        f"case{beside}; accepting at random has {at_least(overall, as_percent=True)} errors throughout.",
    )


def _gain(facts: Facts, gain: Gain) -> str:
    drawing = figure(4.9)
    top, bottom = drawing.subplots(2, 1, sharex=True)
    curve, report = gain.curve, gain.report
    for axes, certified, plain, before, after in (
        (
            top,
            curve.certified_brier,
            curve.brier,
            report.before.certified_brier,
            report.after.certified_brier,
        ),
        (
            bottom,
            curve.certified_ece,
            curve.ece,
            report.before.certified_ece,
            report.after.certified_ece,
        ),
    ):
        order = np.argsort(curve.resolution, kind="stable")
        x = curve.resolution[order]
        axes.plot(x, certified[order], color=WORST, marker=".", label="worst case, exact")
        axes.plot(x, plain[order], color=CLEAN, linestyle=(0, (5, 1.5)), label="without attack")
        axes.scatter(
            [report.before.resolution],
            [before],
            color=WORST,
            marker="D",
            zorder=3,
            label="as it is",
        )
        axes.scatter(
            [report.after.resolution],
            [after],
            color=WORST,
            marker="s",
            edgecolors=MUTED,
            zorder=4,
            label="recalibrated",
        )
        axes.set_ylim(0, 1.15 * max(float(certified.max()), before, after))
    top.axhline(
        curve.constant_brier,
        color=CONSTANT,
        linestyle=(0, (1.2, 1.4)),
        linewidth=2.2,
        label="constant confidence",
    )
    top.set_ylabel("Brier score")
    bottom.set(xlabel="resolution: what the confidences still tell", ylabel="calibration error")
    bottom.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    bottom.set_xlim(left=0)
    bottom.locator_params(axis="x", nbins=5)
    legend(drawing, top, columns=2)
    drawing.align_ylabels()
    return to_svg(
        drawing,
        "gain",
        f"Recalibration {place(facts)}",
        f"Certified Brier score and calibration error of {count(report.n)} samples, against the resolution "
        "of their confidences, for monotone maps between the best one without attack (right) and the "
        "best one under attack (left). The constant confidence has no resolution and a Brier score of "
        f"{at_least(report.constant_brier)}.",
    )
