# SPDX-License-Identifier: MIT
"""``certcal compare``: models side by side on samples that make the comparison fair."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certcal_ext import _claims
from certcal_ext.cli import _common, _options
from certcal_ext.cli._tables import Part, answer, print_small, print_table
from certcal_ext.cli._unfold import unfolded

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates
    from certcal_ext.certificates.file_options import FileOptions

EXAMPLES = _common.examples(
    ("Two models, on samples that both certify and on all", "certcal compare a.npz b.npz"),
    (
        "Three of them at chosen radii, for a program",
        "certcal compare a.parquet b.parquet c.parquet --radii 0,0.1,0.25 --json",
    ),
)

_METRICS = ("ece", "brier")
_SAMPLES = {"intersection": "certified by all", "all": "all samples"}


@unfolded
def compare(
    file: _options.File,
    others: Annotated[
        list[Path],
        typer.Argument(help="Files of the other models, for the same samples.", show_default=False),
    ],
    source: _options.SourceOfFile,
    where: _options.Bins,
    as_json: _options.Json = False,
) -> None:
    """Worst-case calibration error and Brier score of several models: on samples that all certify, and on all."""
    table = where.table(_common.read_certificates(file, source))
    models = read_others(file, table.certificates, others, source, "OTHERS")
    answer(table.head(file), {"comparison": part(table, models)}, None, as_json)


def part(table: _options.Table, models: dict[str, Certificates]) -> Part:
    """The models beside each other, the table's own among them.

    Raises:
        ValueError: models of other samples.
    """
    rows = _records(models, table.radii, table.binning)
    return Part(rows, partial(_show, rows, models))


def read_others(
    first: Path,
    certificates: Certificates,
    others: Sequence[Path],
    source: FileOptions,
    option: str = "--compare",
) -> dict[str, Certificates]:
    """The certificates by file name; the whole path where two files share a name.

    Raises:
        ValueError: a file twice, or one that cannot be read.
    """
    paths = [first, *others]
    if len({path.resolve() for path in paths}) != len(paths):
        raise ValueError(f"{option}: expected other files than FILE, each once")
    names = [path.name for path in paths]
    if len(set(names)) != len(names):
        names = [str(path) for path in paths]
    made = [certificates, *(_common.read_certificates(path, source) for path in others)]
    return dict(zip(names, made, strict=True))


def _records(
    models: dict[str, Certificates], radii: Sequence[float], binning: dict[str, Any]
) -> list[dict[str, Any]]:
    """A dictionary a metric, choice of samples, radius and model."""
    from certcal_ext.certificates.compare import compare as compared

    rows = []
    for metric in _METRICS:
        for samples in _SAMPLES:
            found = compared(models, radii, metric, samples=samples, **binning)
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


def _show(rows: list[dict[str, Any]], models: dict[str, Certificates]) -> None:
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
            print_small(f"{name}: {how_chosen(made.provenance)}")
