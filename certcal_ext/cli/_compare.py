# SPDX-License-Identifier: MIT
"""``certcal bound --compare``: models side by side on samples that make the comparison fair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certcal_ext import _claims
from certcal_ext.cli._common import console, print_table, read_certificates

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.file_options import FileOptions

_METRICS = ("ece", "brier")
_SAMPLES = {"intersection": "certified by all", "all": "all samples"}


def read_others(
    first: Path, certificates: Certificates, others: Sequence[Path], source: FileOptions
) -> dict[str, Certificates]:
    """The certificates by file name; the whole path where two files share a name.

    Raises:
        ValueError: a file twice, or one that cannot be read.
    """
    paths = [first, *others]
    if len({path.resolve() for path in paths}) != len(paths):
        raise ValueError("--compare: expected other files than FILE, each once")
    names = [path.name for path in paths]
    if len(set(names)) != len(names):
        names = [str(path) for path in paths]
    made = [certificates, *(read_certificates(path, source) for path in others)]
    return dict(zip(names, made, strict=True))


def records(
    models: dict[str, Certificates], radii: Sequence[float], binning: dict[str, Any]
) -> list[dict[str, Any]]:
    """A dictionary a metric, choice of samples, radius and model."""
    from certcal_ext.certificates.compare import compare

    rows = []
    for metric in _METRICS:
        for samples in _SAMPLES:
            found = compare(models, radii, metric, samples=samples, **binning)
            for at, radius in enumerate(radii):
                for name, curve in found.curves.items():
                    rows.append(
                        {
                            "metric": metric,
                            "samples": samples,
                            "radius": radius,
                            "model": name,
                            "count": int(curve.samples[at]),
                            "accuracy": float(found.accuracy[name][at]),
                            "worst": float(curve.worst[at]),
                            "best": found.best(at) == name,
                            "planned_radii": models[name].planned_radii,
                        }
                    )
    return rows


def show(rows: list[dict[str, Any]], models: dict[str, Certificates]) -> None:
    """One table a metric and choice of samples: radii down, models across; below, whose samples labels had a say in."""
    from certcal_ext.certificates.evidence import how_chosen

    for metric in _METRICS:
        for samples, title in _SAMPLES.items():
            chosen = [row for row in rows if (row["metric"], row["samples"]) == (metric, samples)]
            lines = []
            for first in range(0, len(chosen), len(models)):
                line = chosen[first : first + len(models)]
                cells = [_claims.size(line[0]["radius"]), _claims.count(line[0]["count"])]
                cells += [_claims.at_most(row["worst"]) + " *" * row["best"] for row in line]
                lines.append(cells)
            heading = f"Worst-case {metric}, {title} (the lowest is marked)"
            print_table(heading, ("Radius", "Samples", *models), lines)
    for name, made in models.items():
        if made.planned_radii is not None:
            console().print(f"{name}: {how_chosen(made.provenance)}", style="dim", markup=False)
