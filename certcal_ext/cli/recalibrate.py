# SPDX-License-Identifier: MIT
"""``certcal recalibrate``: what a monotone map of the confidences gains and what it costs, by radius."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certcal_ext import _claims
from certcal_ext.cli import _common, _options
from certcal_ext.cli._metrics import Metrics
from certcal_ext.cli._tables import Part, answer, print_table
from certcal_ext.cli._unfold import Panel, unfolded

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.recalibrate import SplitRecalibration
    from certcal_ext.recalibration.report import RecalibrationReport

EXAMPLES = _common.examples(
    (
        "Fitted on one half of the samples for radius 0.25, certified on the other",
        "certcal recalibrate counts.npz --fit-radius 0.25 --radii 0,0.1,0.25,0.5",
    ),
    (
        "A map that keeps more resolution, and the certificates of the other half",
        "certcal recalibrate counts.npz --kind tradeoff --out recalibrated.parquet",
    ),
    (
        "A map for each predicted class",
        "certcal recalibrate counts.npz --by predicted --fit-radius 0.25",
    ),
)


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """Which map, and what it is fitted to.

    Attributes:
        kind: kind of the map: isotonic (lowest certified Brier score), tradeoff (keeps more resolution), beta, platt,
            temperature or constant.
        fit_radius: radius that the map is fitted at. Default: the largest one listed at which half of the fitting half is
            certified.
        by: predicted fits a map for each predicted class, which no attack on a certified sample changes; a class with few
            samples is drawn to the common map. Default: one map for all.
    """

    kind: str = "isotonic"
    fit_radius: float | None = None
    by: str | None = None


@unfolded
def recalibrate(
    file: _options.File,
    source: _options.SourceOfFile,
    fit: Annotated[MapOptions, Panel("Map")],
    where: _options.Bins,
    metrics: Metrics,
    out: _options.OutCertificates = None,
    as_json: _options.Json = False,
) -> None:
    """Fits a monotone map on the worst case of one half of the samples and certifies the other half, from FILE."""
    _common.writable(out, "--out")
    certificates = _common.read_certificates(file, source, keep_counts=metrics.need_counts)
    table = where.table(certificates)
    gain = split_and_fit(certificates, fit, where.asked())
    table = gain.others(table)
    parts = {
        "radii": table.curve(file),
        "metrics": metrics.part(table),
        "recalibration": gain.part(table),
    }
    if out is not None:
        table.certificates.to_parquet(out)
    answer(table.head(file), parts, out, as_json)


Rows = list[tuple[float, "RecalibrationReport | None"]]


@dataclass(frozen=True)
class Gain:
    """The split and its map.

    Attributes:
        split: the halves and the map.
    """

    split: SplitRecalibration

    def others(self, table: _options.Table) -> _options.Table:
        """The same tables for the half that the map was not fitted on, recalibrated."""
        return dataclasses.replace(table, certificates=self.split.certified)

    def part(self, table: _options.Table) -> Part:
        """Scores before and after, by radius."""
        reports = self.split.reports(table.radii, **table.binning)
        rows = list(zip(table.radii, reports, strict=True))
        return Part(self._records(rows), partial(self._show, rows))

    def _records(self, rows: Rows) -> dict[str, Any]:
        return {
            "kind": self.split.kind,
            "fit_radius": self.split.radius,
            "fitted_on": len(self.split.fitting),
            "certified_on": len(self.split.plain),
            "map": self.split.mapping.to_json(),
            "radii": [
                {"radius": radius, **(report.to_dict() if report else {})}
                for radius, report in rows
            ],
        }

    def _show(self, rows: Rows) -> None:
        from certcal_ext.recalibration.row_maps import LabelMaps

        heads = ("Radius", "Cert. Brier", "after", "Cert. ECE", "after", "Const. Brier")
        cells = []
        for radius, report in rows:
            if report is None:
                cells.append([_claims.size(radius)])
                continue
            before, after = report.before, report.after
            line = [
                _claims.size(radius),
                _claims.at_most(before.certified_brier),
                _claims.at_most(after.certified_brier),
                _claims.at_most(before.certified_ece),
                _claims.at_most(after.certified_ece),
                _claims.at_least(report.constant_brier),
                _claims.fixed(before.resolution),
                _claims.fixed(after.resolution),
                _claims.fixed(before.auroc, 3),
                _claims.fixed(after.auroc, 3),
            ]
            cells.append(line)
        of_class = ", by predicted class" if isinstance(self.split.mapping, LabelMaps) else ""
        title = f"Recalibration, before and after ({self.split.kind}{of_class})"
        print_table(title, (*heads, "Resol.", "after", "AUROC", "after"), cells)
        typer.echo(
            f"The map was fitted to the worst case at radius {_claims.size(self.split.radius)} of "
            f"{len(self.split.fitting):,} samples; all numbers are of the other "
            f"{len(self.split.plain):,}. Resolution and AUROC say what the confidences still tell: a "
            "constant has none."
        )
        if self.split.mapping.kind == "constant" and self.split.kind != "constant":
            typer.echo(
                "The best map is a constant: on the fitting half no monotone map certifies any skill at "
                "that radius. The kind tradeoff keeps more of what the confidences tell."
            )


def split_and_fit(
    certificates: Certificates, fit: MapOptions, radii: Sequence[float] | None
) -> Gain:
    """Fits on one half, at a radius that the other half has no say in.

    Args:
        certificates: the samples.
        fit: the map.
        radii: that were asked for; None takes the default ones of the fitting half.
    """
    from certcal_ext.certificates.guarantee import default_radii
    from certcal_ext.certificates.recalibrate import halves, recalibrate_split

    radius = fit.fit_radius
    if radius is None:
        fitting, _ = halves(certificates)
        listed = default_radii(fitting) if radii is None else radii
        enough = [r for r in listed if 2 * len(fitting.at(r)) >= len(fitting)]
        radius = max(enough, default=min(listed))
    return Gain(recalibrate_split(certificates, radius, fit.kind, by=fit.by))
