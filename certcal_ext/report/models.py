# SPDX-License-Identifier: MIT
"""Several models on one page, on samples that make the comparison fair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _claims
from certcal_ext.report import style, words

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates

MOST = 6  # models that a drawing can tell apart
_LOOKS: tuple[tuple[str, Any], ...] = (
    (style.CLEAN, "-"),
    (style.WORST, (0, (5, 1.5))),
    (style.CONSTANT, (0, (1.2, 1.4))),
    (style.FOURTH, (0, (6, 1.5, 1.2, 1.5))),
    (style.FIFTH, (0, (2.5, 1.2))),
    (style.INK, (0, (8, 1.5, 1.2, 1.5, 1.2, 1.5))),
)
_DENSE = 33
_NARROW = 18  # letters of a name with another one beside it


@dataclass(frozen=True)
class ModelRow:
    """What the table says about a model at the page's radius; ECE and Brier score are worst cases.

    Attributes:
        name: of the model.
        certified: samples that it certifies.
        accuracy: share of all samples that it certifies and gets right.
        common_accuracy: share that it gets right of the samples which every model certifies.
        common_ece: over these samples; nan where there are none.
        common_brier: over these samples; nan where there are none.
        ece: over all samples, uncertified ones at their worst.
        brier: over all samples, uncertified ones at their worst.
    """

    name: str
    certified: int
    accuracy: float
    common_accuracy: float
    common_ece: float
    common_brier: float
    ece: float
    brier: float


@dataclass(frozen=True, eq=False)
class Models:
    """Models side by side.

    Attributes:
        radius: the page's radius.
        rows: a row a model, in the order they were given.
        common: samples that every model certifies at the radius.
        total: all samples.
        grid: (G,) radii of the drawing.
        ece: by name, (G,) worst-case ECE over all samples.
        accuracy: by name, (G,) certified accuracy.
    """

    radius: float
    rows: tuple[ModelRow, ...]
    common: int
    total: int
    grid: NDArray[np.float64]
    ece: dict[str, NDArray[np.float64]]
    accuracy: dict[str, NDArray[np.float64]]


def gather_models(
    models: Mapping[str, Certificates], radius: float, reach: float, binning: dict[str, Any]
) -> Models:
    """Works out the comparison.

    Args:
        models: at least two and at most ``MOST`` certificates of the same samples, by name.
        radius: the page's radius.
        reach: where the drawing ends.
        binning: ``bins``, ``edges`` and ``closed`` of the calibration error.

    Returns:
        The comparison.

    Raises:
        TypeError: a model is no ``Certificates``.
        ValueError: too few or too many models, or other samples or labels.
    """
    from certcal_ext.certificates.compare import compare

    if len(models) > MOST:
        raise ValueError(f"compare: expected at most {MOST} models on a page, got {len(models)}")
    at = {
        (metric, samples): compare(models, radius, metric, samples=samples, **binning)
        for metric in ("ece", "brier")
        for samples in ("intersection", "all")
    }
    own = compare(models, radius, "brier", samples="certified", **binning)
    common, everyone = at["ece", "intersection"], at["ece", "all"]
    rows = tuple(
        ModelRow(
            name=name,
            certified=int(own.curves[name].samples[0]),
            accuracy=float(everyone.accuracy[name][0]),
            common_accuracy=float(common.accuracy[name][0]),
            common_ece=float(common.curves[name].worst[0]),
            common_brier=float(at["brier", "intersection"].curves[name].worst[0]),
            ece=float(everyone.curves[name].worst[0]),
            brier=float(at["brier", "all"].curves[name].worst[0]),
        )
        for name in models
    )
    grid = np.linspace(0, reach, _DENSE) if reach > 0 else np.array([radius])
    dense = compare(models, grid, "ece", samples="all", **binning)
    first = next(iter(models))
    return Models(
        radius=radius,
        rows=rows,
        common=int(common.curves[first].samples[0]),
        total=len(models[first]),
        grid=grid,
        ece={name: curve.worst for name, curve in dense.curves.items()},
        accuracy=dense.accuracy,
    )


def draw_models(models: Models) -> str | None:
    """Certified ECE over all samples and certified accuracy by radius, a line a model, inside ``style.settings()``."""
    if len(models.grid) < 2:
        return None
    drawing = style.figure(5.2)
    top, bottom = drawing.subplots(2, 1, sharex=True)
    lines = []
    for name, (colour, dashes) in zip(models.ece, _LOOKS, strict=False):
        (line,) = top.plot(models.grid, models.ece[name], color=colour, linestyle=dashes)
        bottom.plot(models.grid, models.accuracy[name], color=colour, linestyle=dashes)
        lines.append(line)
    highest = max(float(np.nanmax(values)) for values in models.ece.values())
    top.set(ylabel="calibration error, all samples", ylim=(0, max(0.01, 1.08 * highest)))
    bottom.set(ylabel="certified accuracy", xlabel="radius", ylim=(0, 1.02))
    for axes in (top, bottom):
        axes.set_xlim(0, float(models.grid[-1]))
        axes.axvline(models.radius, color=style.GRID, linewidth=5, zorder=0)
        style.percents(axes.yaxis)
    names = [style.plain_text(words.shortened(name, 44)) for name in models.ece]
    columns = 2 if max(map(len, names)) <= _NARROW else 1
    drawing.legend(lines, names, loc="outside upper left", ncols=columns)
    drawing.align_ylabels()
    told = "; ".join(
        f"{words.shortened(row.name, 60)}: {_claims.at_most(row.ece, as_percent=True)} and "
        f"{_claims.share(round(row.accuracy * models.total), models.total)}"
        for row in models.rows
    )
    return style.to_svg(
        drawing,
        "models",
        "Models by radius",
        "Worst-case calibration error over all samples (above) and certified accuracy (below) against radius. At radius "
        f"{_claims.size(models.radius)}: {told}.",
    )
