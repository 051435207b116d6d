# SPDX-License-Identifier: MIT
"""``certcal export``: certificates in the forms that others read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from certcal_ext.cli import _common, _options
from certcal_ext.cli._tables import print_json
from certcal_ext.cli._unfold import unfolded

EXAMPLES = _common.examples(
    ("The field's tab-separated log", "certcal export certificates.parquet --to log.tsv"),
    ("A table for a spreadsheet", "certcal export certificates.parquet --to certificates.csv"),
    (
        "The options that a table was made with, to use them again",
        "certcal export certificates.parquet --to run.toml",
    ),
    ("Rows and provenance for a program", "certcal export counts.npz --to certificates.json"),
    (
        "A published log as certificates",
        "certcal export log.tsv --sigma 0.25 --n 100000 --alpha 0.001 --to certificates.parquet",
    ),
)


@unfolded
def export(
    file: _options.File,
    source: _options.SourceOfFile,
    to: Annotated[
        Path,
        typer.Option(
            help="File to write; its ending says how: .tsv (the field's log: idx, label, predict, "
            "radius, correct, time), .csv, .json, .parquet, or .toml (the options of the run, for "
            "--config).",
            show_default=False,
            rich_help_panel="Output",
        ),
    ],
    as_json: _options.Json = False,
) -> None:
    """Writes FILE as a log, a spreadsheet's table, JSON or Parquet.

    Radii of a log are rounded down: each printed one is certified.
    """
    _common.writable(to, "--to")
    from certcal_ext.interop import export as forms

    if to.suffix.lower() not in forms.FORMATS:
        raise ValueError(
            f"--to: expected a file ending in {', '.join(forms.FORMATS)}, got {to.name}"
        )
    certificates = _common.read_certificates(file, source)
    forms.export(certificates, to)
    again = None
    if to.suffix.lower() == ".tsv":
        level = forms.read_back_alpha(certificates)
        made = certificates.provenance
        if level is not None:
            again = f"certcal bound {to} --sigma {made.sigma!r} --n {made.n} --alpha {level!r}"
    if as_json:
        done = {"file": str(file), "written": str(to), "total": len(certificates)}
        print_json({**done, "read_with": again})
        return
    typer.echo(f"{len(certificates):,} samples: {to}")
    if again is not None:
        typer.echo(f"read it with: {again}")
    elif to.suffix.lower() == ".tsv":
        typer.echo("its radii do not stand for votes, so do not read it back as a log of votes")
