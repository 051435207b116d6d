# SPDX-License-Identifier: MIT
"""The page about an attack: what it did to the reliability diagram, and how the bound stands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from certcal_ext._claims import at_most, count, fixed, number, percent, size, sureness
from certcal_ext.metrics.edges import equal_width_edges
from certcal_ext.metrics.registry import METRICS
from certcal_ext.report import style
from certcal_ext.report.facts import reliability
from certcal_ext.report.figures import bubbles
from certcal_ext.report.templates import render, write

if TYPE_CHECKING:
    from certcal_ext.attacks import AttackResult, BoundReport, Calibration

_MOST_POINTS = 1500
_NAMES = {
    "cce-guided": "The CCE-guided attack",
    "brier": "The Brier attack",
    "dece": "The DECE attack",
    "ace": "The (eta, omega)-ACE attack",
    "one-step-ace": "The one-step ACE attack",
}


def render_attack_report(
    result: AttackResult,
    *,
    bins: int = 15,
    bound: BoundReport | None = None,
    title: str = "Calibration under attack",
) -> str:
    """The page as HTML, self-contained.

    Args:
        result: the attack.
        bins: number of equal-width bins of the diagrams and of the calibration error.
        bound: the attack beside its certificates, or None.
        title: heading of the page.

    Returns:
        The page.

    Raises:
        ImportError: jinja2 or matplotlib is missing.
        ValueError: ``bins`` is out of range.

    Example:
        >>> import torch
        >>> from certcal_ext.attacks import BrierAttack
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> result = BrierAttack(radius=0.1).run(model, torch.full((2, 1, 2, 2), 0.5), [0, 1])
        >>> render_attack_report(result).startswith("<!doctype html>")
        True
    """
    import certcal_ext

    before, after = result.before(bins=bins), result.after(bins=bins)
    with style.settings():
        figures = {
            "clean": _reliability(result, before, bins, attacked=False),
            "attacked": _reliability(result, after, bins, attacked=True),
            "moves": _moves(result),
        }
    return render(
        "attack_template.html",
        figures,
        title=title,
        headline=(
            f"The calibration error goes from {percent(before.ece)} to {percent(after.ece)}"
            + (", and no prediction changes" if _stays(result) else " under attack")
        ),
        verdict=_verdict(result, before, after),
        metrics=_metrics(before, after),
        bound=None if bound is None else [_bound_row(row) for row in bound.rows],
        outside=None if bound is None else len(bound.outside),
        allowed=None if bound is None else bound.allowed,
        sureness=None if bound is None else sureness(bound.false_alarm),
        settings=_settings(result),
        bins=bins,
        total=count(len(result)),
        thinned=count(_MOST_POINTS) if len(result) > _MOST_POINTS else None,
        version=certcal_ext.__version__,
    )


def write_attack_report(result: AttackResult, path: str | Path, **options: Any) -> Path:
    """Writes the page; aside first, then renamed.

    Args:
        result: the attack.
        path: the file to write; its folder must exist.
        options: keyword arguments of ``render_attack_report``.

    Returns:
        The path.

    Raises:
        OSError: the file cannot be written.
        ImportError: jinja2 or matplotlib is missing.
        ValueError: an option is out of range, or the folder does not exist.
    """
    return write(path, render_attack_report(result, **options))


def _stays(result: AttackResult) -> bool:
    """Whether what changed its prediction is left as it was."""
    return not bool(result.l2[~result.kept].any())


def _verdict(result: AttackResult, before: Calibration, after: Calibration) -> list[str]:
    """Two paragraphs: what was done, and what came of it."""
    settings = result.settings
    victim = "the model without noise"
    if settings["victim"] == "smoothed":
        kind = "share of votes" if settings["confidence"] == "votes" else "mean softmax score"
        judged = (
            f"{count(result.draws)} noises that the attack did not see"
            if result.fresh
            else f"the {count(result.draws)} noises of the attack"
        )
        victim = (
            f"the model under noise of standard deviation {number(settings['sigma'])} (confidence: "
            f"{kind}, by {judged})"
        )
    left = int((~result.kept).sum())
    first = (
        f"{_NAMES.get(result.attack, result.attack)} moved {count(len(result))} images by at most "
        f"{number(result.radius)} in the {result.norm} norm against {victim}. Accuracy is "
        f"{percent(before.accuracy, 1)} before and after."
    )
    if left:
        images = "image" if left == 1 else "images"
        first += f" On {count(left)} {images} the class that had to stay is not on top under these noises"
        first += ": these count as without attack." if _stays(result) else "."
    second = (
        f"The mean confidence goes from {percent(before.confidence, 1)} to {percent(after.confidence, 1)}, the Brier score "
        f"from {number(before.brier, 3)} to {number(after.brier, 3)}. An attack shows how bad it can get, not how bad it "
        "can get at most: that is what a certificate is for."
    )
    return [first, second]


def _metrics(before: Calibration, after: Calibration) -> list[tuple[str, str, str]]:
    names = {name: METRICS[name].words for name in ("ece", "brier", "ks", "mce")}
    names |= {"confidence": "mean confidence", "accuracy": "accuracy"}
    return [
        (words, f"{getattr(before, name):.4f}", f"{getattr(after, name):.4f}")
        for name, words in names.items()
    ]


def _bound_row(row: Any) -> list[str]:
    """The cells of a radius."""
    cells = [size(row.radius), count(row.certified)]
    for metric in ("ece", "brier"):
        cells += [fixed(getattr(row, f"{part}_{metric}")) for part in ("clean", "attack")]
        cells += [at_most(getattr(row, f"{part}_{metric}")) for part in ("bound", "joint")]
        cells.append(fixed(getattr(row, f"{metric}_ratio"), 2))
    return cells


def _settings(result: AttackResult) -> list[tuple[str, str]]:
    return [
        (name.replace("_", " "), str(value))
        for name, value in result.settings.items()
        if value is not None and name != "seen"
    ] + [
        ("gradients an image, at most", str(int(result.gradients.max()))),
        ("largest l2 norm", f"{result.l2.max():.6g}"),
        ("largest linf norm", f"{result.linf.max():.6g}"),
    ]


def _reliability(result: AttackResult, metrics: Calibration, bins: int, *, attacked: bool) -> str:
    confidence = result.attacked_confidence if attacked else result.clean_confidence
    colour, name = (style.WORST, "attacked") if attacked else (style.CLEAN, "clean")
    edges = equal_width_edges(bins)
    binned = reliability(result.correct, confidence, edges, "right")
    held = binned.count
    drawing = style.figure(4.6)
    top, bottom = style.reliability_axes(drawing)
    bubbles(top, binned, name, colour, "o")
    style.histogram(bottom, edges, held / held.sum(), colour)
    drawing.align_ylabels()
    when = "under attack" if attacked else "without attack"
    return style.to_svg(
        drawing,
        f"reliability-{name}",
        f"Reliability diagram {when}",
        f"Accuracy against confidence for {count(len(result))} samples {when}. The calibration error is "
        f"{percent(metrics.ece)}. Below: how many samples each bin holds.",
    )


def _moves(result: AttackResult) -> str:
    """Every sample's confidence before and after."""
    rows = np.arange(len(result))
    if len(rows) > _MOST_POINTS:
        rows = np.linspace(0, len(rows) - 1, _MOST_POINTS).round().astype(int)
    drawing = style.figure(3.6)
    axes = drawing.subplots()
    style.diagonal(axes)
    for name, right, colour, marker in (
        ("right", True, style.CLEAN, "o"),
        ("wrong", False, style.WORST, "D"),
    ):
        some = rows[result.correct[rows] == right]
        axes.scatter(
            result.clean_confidence[some],
            result.attacked_confidence[some],
            s=9,
            color=colour,
            marker=marker,
            alpha=0.6,
            linewidths=0,
            label=f"{name} predictions",
        )
    axes.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        xlabel="confidence without attack",
        ylabel="confidence under attack",
    )
    axes.xaxis.label.set_color(style.INK)
    style.legend(drawing, axes, columns=2)
    moved = float(np.abs(result.attacked_confidence - result.clean_confidence).mean())
    return style.to_svg(
        drawing,
        "moves",
        "Confidence under attack against confidence without",
        f"One mark a sample. The attack moves a confidence by {number(moved)} on average.",
    )
