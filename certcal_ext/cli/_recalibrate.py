# SPDX-License-Identifier: MIT
"""``certcal bound --recalibrate``: what the map gains and what it costs, by radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from certcal_ext import _claims
from certcal_ext.cli._common import print_table

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.recalibrate import SplitRecalibration
    from certcal_ext.recalibration.report import RecalibrationReport

Rows = list[tuple[float, "RecalibrationReport | None"]]


@dataclass(frozen=True)
class Gain:
    """The split and its map.

    Attributes:
        split: the halves and the map.
    """

    split: SplitRecalibration

    @property
    def certified(self) -> Certificates:
        """The half that the map was not fitted on, recalibrated."""
        return self.split.certified

    def by_radius(self, radii: Sequence[float], binning: dict[str, Any]) -> Rows:
        """Scores before and after, by radius."""
        return list(zip(radii, self.split.reports(radii, **binning), strict=True))

    def records(self, rows: Rows | None) -> dict[str, Any]:
        """The gain for JSON."""
        return {
            "kind": self.split.kind,
            "fit_radius": self.split.radius,
            "fitted_on": len(self.split.fitting),
            "certified_on": len(self.split.plain),
            "map": self.split.mapping.to_json(),
            "radii": [
                {"radius": radius, **(report.to_dict() if report else {})}
                for radius, report in rows or []
            ],
        }

    def show(self, rows: Rows) -> None:
        """The table on stdout."""
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
        title = f"Recalibration, before and after ({self.split.kind})"
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
                "that radius. --recalibrate tradeoff keeps more of what the confidences tell."
            )


def split_and_fit(
    certificates: Certificates, kind: str, radius: float | None, radii: Sequence[float] | None
) -> Gain:
    """Fits on one half, at a radius that the other half has no say in.

    Args:
        certificates: the samples.
        kind: of the map.
        radius: to fit at; None takes the largest of ``radii`` at which half of the fitting half is certified.
        radii: that were asked for; None takes the default ones of the fitting half.
    """
    from certcal_ext.certificates.guarantee import default_radii
    from certcal_ext.certificates.recalibrate import halves, recalibrate_split

    if radius is None:
        fitting, _ = halves(certificates)
        listed = default_radii(fitting) if radii is None else radii
        enough = [r for r in listed if 2 * len(fitting.at(r)) >= len(fitting)]
        radius = max(enough, default=min(listed))
    return Gain(recalibrate_split(certificates, radius, kind))
